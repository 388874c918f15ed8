//! Every way to tamper, and what is found.

use proptest::prelude::*;

use super::*;
use crate::audit::{Entry, Signer};

/// Five lines, then a checkpoint, then two lines; each with its line feed.
fn log_of(signer: &Signer) -> Vec<Vec<u8>> {
    let mut head = Head::NONE;
    let mut lines = Vec::new();
    for n in 1..=8 {
        let mut line = Vec::new();
        if n == 6 {
            head.push_checkpoint(&mut line, n, signer);
        } else {
            let entry = Entry::new(n, "refused").number("status", 403).into_bytes();
            head.push(&mut line, entry.trim_ascii_end());
        }
        lines.push(line);
    }
    lines
}

fn verify(lines: &[Vec<u8>], trust: &Trust) -> Findings {
    let mut verifier = Verifier::new(trust);
    verifier.begin_file();
    for line in lines {
        verifier.take(line);
    }
    verifier.end()
}

fn head_of(line: &[u8]) -> Head {
    Line::parse(line.trim_ascii_end()).expect("ours").head()
}

/// Lines as they were changed; expected: where and what, with nothing known from elsewhere.
#[track_caller]
fn check(change: impl FnOnce(&mut Vec<Vec<u8>>), expected: &[(u64, FaultKind)]) {
    let signer = Signer::generate().expect("randomness");
    let mut lines = log_of(&signer);
    change(&mut lines);
    let findings = verify(&lines, &Trust { keys: vec![signer.public()], known: Vec::new() });
    let faults: Vec<(u64, FaultKind)> =
        findings.faults.into_iter().map(|fault| (fault.at, fault.kind)).collect();
    assert_eq!(faults, expected);
}

fn rewrite(line: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(line.clone()).expect("ASCII");
    assert!(text.contains(from));
    *line = text.replacen(from, to, 1).into_bytes();
}

#[test]
fn what_is_as_it_was_written_is_in_order() {
    check(|_| {}, &[]);
    let signer = Signer::generate().expect("randomness");
    let lines = log_of(&signer);
    let findings = verify(&lines, &Trust::default());
    assert_eq!((findings.lines, findings.first, findings.checkpoints), (8, Some(1), 1));
    assert_eq!((findings.signed_to, findings.head), (Some(6), Some(head_of(&lines[7]))));
    assert_eq!(findings.keys.into_iter().collect::<Vec<_>>(), [signer.public().fingerprint()]);
    assert_eq!(verify(&[], &Trust::default()), Findings::default());
}

#[test]
fn a_line_that_was_changed_left_out_moved_or_put_in_is_found() {
    use FaultKind::{Changed, Missing, NotALine, OutOfOrder, Torn};
    check(|lines| rewrite(&mut lines[2], "403", "200"), &[(4, Changed { seq: 3 })]);
    check(|lines| drop(lines.remove(2)), &[(3, Missing { first: 3, last: 3 })]);
    check(|lines| drop(lines.drain(2..5)), &[(3, Missing { first: 3, last: 5 })]);
    check(|lines| drop(lines.drain(..2)), &[(1, Missing { first: 1, last: 2 })]);
    check(|lines| lines.swap(2, 3), &[(3, Missing { first: 3, last: 3 }), (4, OutOfOrder { seq: 3 })]);
    check(|lines| lines.insert(3, lines[0].clone()), &[(4, OutOfOrder { seq: 1 })]);
    check(|lines| lines.insert(3, b"{\"seq\":4}\n".to_vec()), &[(4, NotALine)]);
    check(|lines| lines.insert(3, b"\n".to_vec()), &[(4, NotALine)]);
    check(|lines| lines[3] = b"junk\n".to_vec(), &[(4, NotALine)]);
    check(|lines| assert_eq!(lines[7].pop(), Some(b'\n')), &[(8, Torn)]);
    check(|lines| lines[7].truncate(20), &[(8, Torn)]);
}

/// Whoever writes the chain anew from a changed line on has no signature for it.
#[test]
fn a_chain_that_was_written_anew_is_not_signed() {
    use FaultKind::{BadSignature, StrangeKey};
    let rehash = |lines: &mut Vec<Vec<u8>>, signer: Option<&Signer>| {
        rewrite(&mut lines[2], "403", "200");
        let mut head = head_of(&lines[2]);
        for line in lines.iter_mut().skip(3) {
            let parsed = Line::parse(line.trim_ascii_end()).expect("ours");
            let mut again = Vec::new();
            if let (Some(_), Some(signer)) = (parsed.checkpoint(), signer) {
                head.push_checkpoint(&mut again, 6, signer);
            } else {
                let text = String::from_utf8(line.clone()).expect("ASCII");
                let entry = text.split_once("\",").expect("an entry").1;
                head.push(&mut again, entry.trim_end().strip_suffix('}').expect("an end").as_bytes());
            }
            *line = again;
        }
    };
    check(|lines| rehash(lines, None), &[(6, BadSignature { seq: 6 })]);
    let other = Signer::generate().expect("randomness");
    let fingerprint = other.public().fingerprint();
    check(|lines| rehash(lines, Some(&other)), &[(6, StrangeKey { seq: 6, fingerprint })]);
}

#[test]
fn what_is_called_a_checkpoint_has_to_be_one() {
    check(
        |lines| {
            let mut head = head_of(&lines[7]);
            let mut line = Vec::new();
            head.push(&mut line, br#""time":9,"event":"checkpoint","public_key":"x","signature":"y""#);
            lines.push(line);
        },
        &[(9, FaultKind::BadSignature { seq: 9 })],
    );
}

/// The tail: a cut behind a checkpoint shows only against what is known from elsewhere.
#[test]
fn a_cut_shows_against_a_line_that_is_known() {
    let signer = Signer::generate().expect("randomness");
    let lines = log_of(&signer);
    let known = |line: usize| Trust { keys: Vec::new(), known: vec![head_of(&lines[line])] };
    let kinds = |lines: &[Vec<u8>], trust: &Trust| -> Vec<FaultKind> {
        verify(lines, trust).faults.into_iter().map(|fault| fault.kind).collect()
    };
    assert_eq!(kinds(&lines[..7], &Trust::default()), [], "nothing in the log tells of it");
    assert_eq!(kinds(&lines[..7], &known(7)), [FaultKind::KnownIsMissing { seq: 8 }]);
    assert_eq!(kinds(&lines, &known(7)), []);
    assert_eq!(kinds(&lines[..7], &known(6)), []);
    // The beginning: what was filed away is vouched for by the hash of its last line.
    assert_eq!(kinds(&lines[3..], &known(2)), []);
    assert_eq!(kinds(&lines[3..], &Trust::default()), [FaultKind::Missing { first: 1, last: 3 }]);
    let mut other = known(2);
    other.known[0].hash = [7; 32];
    assert_eq!(kinds(&lines[3..], &other), [FaultKind::Changed { seq: 3 }]);
    assert_eq!(kinds(&lines, &other), [FaultKind::NotAsKnown { seq: 3 }]);
}

#[test]
fn faults_have_an_end() {
    let junk = vec![b"junk\n".to_vec(); FAULTS_MAX + 1];
    let findings = verify(&junk, &Trust::default());
    assert_eq!((findings.faults.len(), findings.fault_count), (FAULTS_MAX, FAULTS_MAX as u64 + 1));
}

proptest! {
    /// Whatever is done to one byte of a log whose head is known: it is found.
    #[test]
    fn no_byte_can_be_changed_removed_or_put_in(at in any::<prop::sample::Index>(), byte in any::<u8>(), what in 0..3) {
        let signer = Signer::generate().expect("randomness");
        let lines = log_of(&signer);
        let trust = Trust { keys: vec![signer.public()], known: vec![head_of(&lines[7])] };
        let mut bytes = lines.concat();
        let at = at.index(bytes.len());
        match what {
            0 => bytes[at] ^= byte.max(1),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, byte),
        }
        if bytes == lines.concat() {
            return Ok(());
        }
        let changed: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        prop_assert!(verify(&changed, &trust).fault_count > 0, "{what} at {at}");
    }

    #[test]
    fn no_lines_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        let _ = verify(&lines, &Trust::default());
    }
}
