//! The lines of an audit log: findings for any bytes, the same both times, and no more lines than there are.
#![no_main]

use portcullis::audit::verify::{FAULTS_MAX, Findings, Trust, Verifier};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let verify = |trust: &Trust| -> Findings {
        let mut verifier = Verifier::new(trust);
        verifier.begin_file();
        bytes.split_inclusive(|&byte| byte == b'\n').for_each(|line| verifier.take(line));
        verifier.end()
    };
    let findings = verify(&Trust::default());
    assert_eq!(findings, verify(&Trust::default()));
    assert!(findings.faults.len() as u64 <= findings.fault_count.min(FAULTS_MAX as u64));
    assert!(findings.checkpoints <= findings.lines);
    assert!(findings.signed_to <= findings.head.map(|head| head.seq).max(findings.signed_to));
    // What is in order is in order for whoever knows its last line, and that line cannot be another.
    if let (0, Some(head)) = (findings.fault_count, findings.head) {
        let known = |head| Trust { keys: Vec::new(), known: vec![head] };
        assert_eq!(verify(&known(head)).fault_count, 0);
        let mut other = head;
        other.hash[0] ^= 1;
        assert_eq!(verify(&known(other)).fault_count, 1);
    }
});
