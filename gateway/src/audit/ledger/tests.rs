//! Files on a disk: two processes, rotation, torn lines, cuts, and a disk that is full.

use super::*;
use crate::audit::verify::{self, FaultKind, Trust};

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("it was ours");
    }
}

impl Dir {
    fn new() -> Self {
        let name = format!("portcullis-ledger-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory of our own");
        Self(path)
    }

    fn settings(&self, rotate_bytes: Option<u64>) -> config::AuditFile {
        config::AuditFile {
            path: self.0.join("audit.jsonl"),
            sign_key_file: self.0.join("audit.key"),
            checkpoint: std::time::Duration::from_mins(1),
            rotate_bytes,
            refuse: true,
        }
    }

    /// The log's files.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("there").map(|entry| entry.expect("there").path());
        let is_log = |path: &PathBuf| path.to_string_lossy().contains("audit.jsonl");
        entries.filter(is_log).collect()
    }

    #[track_caller]
    fn check(&self, lines: u64, faults: &[FaultKind]) -> verify::Findings {
        let (_, findings) = verify::files(&self.files(), &Trust::default()).expect("readable");
        let kinds: Vec<FaultKind> = findings.faults.iter().map(|fault| fault.kind.clone()).collect();
        assert_eq!((findings.lines, &*kinds), (lines, faults));
        findings
    }
}

fn entry() -> Vec<u8> {
    Entry::new(1, "refused").text("path", "/a").into_bytes()
}

#[test]
fn two_processes_write_one_chain() {
    let dir = Dir::new();
    let (mut gateway, mut command) = (Ledger::new(&dir.settings(None)), Ledger::new(&dir.settings(None)));
    for _ in 0..3 {
        gateway.append(&[entry(), entry()].concat(), 1).expect("written");
        command.append_signed(&entry(), 1).expect("written");
    }
    assert!(gateway.is_unsigned() && !command.is_unsigned());
    let findings = dir.check(12, &[]);
    assert_eq!((findings.signed_to, findings.checkpoints), (Some(12), 3));
    let mode = fs::metadata(dir.0.join("audit.key")).expect("made on first use").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
}

#[test]
fn rotation_keeps_the_chain_and_ends_each_file_with_a_checkpoint() {
    let dir = Dir::new();
    let (mut gateway, mut command) =
        (Ledger::new(&dir.settings(Some(600))), Ledger::new(&dir.settings(Some(600))));
    for _ in 0..10 {
        gateway.append(&entry(), 1).expect("written");
        command.append(&entry(), 1).expect("written");
    }
    let files = dir.files();
    assert!(files.len() > 3, "{files:?}");
    let findings = dir.check(20 + files.len() as u64 - 1, &[]);
    assert_eq!(findings.checkpoints, files.len() as u64 - 1);
    // A process that comes later goes on where they ended, also when the newest file is not there yet.
    fs::remove_file(dir.0.join("audit.jsonl")).expect("there");
    let before = dir.check(findings.signed_to.expect("signed"), &[]).head;
    Ledger::new(&dir.settings(Some(600))).append(&entry(), 1).expect("written");
    assert_eq!(dir.check(before.expect("lines").seq + 1, &[]).first, Some(1));
}

#[test]
fn half_a_line_is_mended_and_told() {
    let dir = Dir::new();
    let mut ledger = Ledger::new(&dir.settings(None));
    ledger.append(&entry(), 1).expect("written");
    let mut file = OpenOptions::new().append(true).open(&ledger.path).expect("there");
    file.write_all(b"{\"seq\":2,\"pr").expect("written");
    dir.check(2, &[FaultKind::Torn]);
    Ledger::new(&dir.settings(None)).append(&entry(), 1).expect("written");
    dir.check(3, &[]);
    let text = fs::read_to_string(&ledger.path).expect("UTF-8");
    assert!(text.contains("\"event\":\"mended\",\"bytes\":12}"), "{text}");
    ledger.append(&entry(), 1).expect("written");
    dir.check(4, &[]);
}

/// Who still runs knows what was there.
#[test]
fn a_cut_under_a_running_process_is_told_and_found() {
    let dir = Dir::new();
    let mut ledger = Ledger::new(&dir.settings(None));
    ledger.append(&[entry(), entry(), entry()].concat(), 1).expect("written");
    let text = fs::read_to_string(&ledger.path).expect("UTF-8");
    let first = text.find('\n').expect("a line") + 1;
    fs::write(&ledger.path, &text[..first]).expect("written");
    ledger.append(&entry(), 1).expect("written");
    dir.check(3, &[FaultKind::Missing { first: 2, last: 3 }]);
    let text = fs::read_to_string(&ledger.path).expect("UTF-8");
    assert!(text.contains("\"event\":\"cut\",\"last_line\":1,\"expected\":3}"), "{text}");
    // The same where the whole file is gone.
    fs::remove_file(&ledger.path).expect("there");
    ledger.append(&entry(), 1).expect("written");
    dir.check(2, &[FaultKind::Missing { first: 1, last: 5 }]);
}

#[test]
fn nothing_is_written_behind_what_is_none_of_ours() {
    let dir = Dir::new();
    let mut ledger = Ledger::new(&dir.settings(None));
    ledger.append(&entry(), 1).expect("written");
    let good = fs::read(&ledger.path).expect("there");
    fs::write(&ledger.path, [&good[..], b"junk\n"].concat()).expect("written");
    let error = ledger.append(&entry(), 1).expect_err("its last line is junk");
    assert!(error.to_string().contains("audit verify"), "{error}");
    fs::write(&ledger.path, &good).expect("written");
    ledger.append(&entry(), 1).expect("it goes on when that is mended");
    dir.check(2, &[]);
}

/// What could not be written leaves no trace, and the chain goes on.
#[test]
fn a_file_that_cannot_be_written_stays_as_it_was() {
    let dir = Dir::new();
    let mut ledger = Ledger::new(&dir.settings(None));
    ledger.append(&entry(), 1).expect("written");
    let known = ledger.file.as_mut().expect("open");
    known.file = File::open(&ledger.path).expect("for reading");
    assert!(ledger.append(&entry(), 1).is_err(), "as on a full disk");
    dir.check(1, &[]);
    ledger.append(&entry(), 1).expect("it is opened again");
    dir.check(2, &[]);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let dir = Dir::new();
    let mut ledger = Ledger::new(&dir.settings(None));
    ledger.append(&entry(), 1).expect("written");
    let key = dir.0.join("audit.key");
    for (mode, good) in [(0o640, false), (0o604, false), (0o600, true), (0o400, true)] {
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("ours");
        assert_eq!(Signer::open(&key).is_ok(), good, "{mode:o}");
    }
}

#[test]
fn a_public_key_is_read_as_it_is_written() {
    let signer = Signer::generate().expect("randomness");
    let pem = signer.public().to_pem();
    assert_eq!(crate::audit::PublicKey::from_pem(pem.as_bytes()), Some(signer.public()));
    assert_eq!(crate::audit::PublicKey::from_pem(b""), None);
}
