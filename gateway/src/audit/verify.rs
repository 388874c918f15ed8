//! Whether a log is what was written: `portcullis audit verify`.
//!
//! Comes in: files of lines, the keys that are trusted, lines that are known from elsewhere. Goes out: every line that
//! was changed, left out, moved or put in, as far as it can be told, and what cannot be told. Three things hold a line:
//! the hash in the next one, the signature of the next checkpoint, and whoever remembers a later line's hash. Behind the
//! last line nothing does: that lines were cut off there shows only against a line that is known ([`Trust::known`]).
//! It holds one line at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    PublicKey,
    chain::{Head, LINE_BYTES_MAX, Line},
};

/// Faults that are told one by one.
pub const FAULTS_MAX: usize = 100;

/// What whoever verifies knows from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Keys that checkpoints may be signed with; none: whichever the log itself names.
    pub keys: Vec<PublicKey>,
    /// Lines that there were.
    pub known: Vec<Head>,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which file, in the order in which they were read.
    pub file: usize,
    /// The line in it, from 1.
    pub at: u64,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// No line of this program's.
    NotALine,
    /// It does not end in a line feed.
    Torn,
    /// The line before it is not the one that was there when it was written.
    Changed {
        /// The number of the line before.
        seq: u64,
    },
    /// Lines are not there.
    Missing {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// A line of an earlier number, or of one that was there already.
    OutOfOrder {
        /// Its number.
        seq: u64,
    },
    /// A checkpoint whose signature is not good: it or a line since the last good one was changed.
    BadSignature {
        /// Its number.
        seq: u64,
    },
    /// A checkpoint of a key that is not trusted.
    StrangeKey {
        /// Its number.
        seq: u64,
        /// Its key's fingerprint.
        fingerprint: String,
    },
    /// A line that is known from elsewhere was another.
    NotAsKnown {
        /// Its number.
        seq: u64,
    },
    /// A line that is known from elsewhere is not there: the log was cut.
    KnownIsMissing {
        /// Its number.
        seq: u64,
    },
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALine => f.write_str("this is no line of an audit log"),
            Self::Torn => f.write_str("the last line is not whole"),
            Self::Changed { seq } => write!(f, "line {seq} was changed, or what the next one says of it"),
            Self::Missing { first, last } if first == last => write!(f, "line {first} is missing"),
            Self::Missing { first, last } => write!(f, "lines {first} to {last} are missing"),
            Self::OutOfOrder { seq } => write!(f, "line {seq} was moved here, or put in"),
            Self::BadSignature { seq } => {
                write!(f, "checkpoint {seq} is not signed as it stands: it or lines before it were changed")
            }
            Self::StrangeKey { seq, fingerprint } => {
                write!(f, "checkpoint {seq} is signed with a key that is not trusted: {fingerprint}")
            }
            Self::NotAsKnown { seq } => write!(f, "line {seq} is not the one that is known"),
            Self::KnownIsMissing { seq } => {
                write!(f, "line {seq}, which is known, is not here: the log was cut")
            }
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is wrong, in order; at most [`FAULTS_MAX`].
    pub faults: Vec<Fault>,
    /// All that is wrong.
    pub fault_count: u64,
    /// Lines read.
    pub lines: u64,
    /// The first line's number.
    pub first: Option<u64>,
    /// The newest line.
    pub head: Option<Head>,
    /// The number of the last good checkpoint.
    pub signed_to: Option<u64>,
    /// Good checkpoints.
    pub checkpoints: u64,
    /// Lines that the gateway itself says it could not write.
    pub lost: u64,
    /// The keys that have signed.
    pub keys: BTreeSet<String>,
}

/// Reads files, in the order of their first lines.
///
/// # Errors
/// One cannot be read.
pub fn files(paths: &[PathBuf], trust: &Trust) -> io::Result<(Vec<PathBuf>, Findings)> {
    let mut ordered = Vec::new();
    for path in paths {
        let mut first = Vec::new();
        read_line(&mut open(path)?, &mut first).map_err(|error| of_file(path, &error))?;
        // One that begins with no line of ours is told where it stands: at the end.
        let seq = Line::parse(first.trim_ascii_end()).map_or(u64::MAX, |line| line.seq);
        ordered.push((seq, path.clone()));
    }
    ordered.sort();
    let ordered: Vec<PathBuf> = ordered.into_iter().map(|(_, path)| path).collect();
    let mut verifier = Verifier::new(trust);
    for path in &ordered {
        let mut reader = open(path)?;
        verifier.begin_file();
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line).map_err(|error| of_file(path, &error))? {
            verifier.take(&line);
            line.clear();
        }
    }
    Ok((ordered, verifier.end()))
}

fn open(path: &Path) -> io::Result<BufReader<File>> {
    File::open(path).map(BufReader::new).map_err(|error| of_file(path, &error))
}

fn of_file(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The next line with its line feed, or as much of it as a line may have; false: there is none.
fn read_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
    let max = LINE_BYTES_MAX as u64 + 2;
    Ok(Read::by_ref(reader).take(max).read_until(b'\n', line)? > 0)
}

/// Takes line after line.
pub struct Verifier<'t> {
    trust: &'t Trust,
    known: BTreeMap<u64, Head>,
    findings: Findings,
    file: usize,
    files: usize,
    at: u64,
    /// What is no line of ours since the last one that is.
    junk: u64,
}

impl<'t> Verifier<'t> {
    /// Nothing was read yet.
    pub fn new(trust: &'t Trust) -> Self {
        let known = trust.known.iter().map(|head| (head.seq, *head)).collect();
        Self { trust, known, findings: Findings::default(), file: 0, files: 0, at: 0, junk: 0 }
    }

    /// The next line is the first of a file.
    pub fn begin_file(&mut self) {
        self.file = self.files;
        self.files += 1;
        self.at = 0;
    }

    /// A line, with its line feed.
    pub fn take(&mut self, line: &[u8]) {
        self.at += 1;
        self.findings.lines += 1;
        let (bytes, is_whole) = line.strip_suffix(b"\n").map_or((line, false), |bytes| (bytes, true));
        let parsed = Line::parse(bytes);
        if !is_whole {
            self.fault(FaultKind::Torn);
        } else if parsed.is_none() {
            self.fault(FaultKind::NotALine);
        }
        let Some(line) = parsed else {
            self.junk += 1;
            return;
        };
        let junk = std::mem::take(&mut self.junk);
        if self.follows(&line, junk) {
            self.findings.head = Some(line.head());
        }
        self.findings.first.get_or_insert(line.seq);
        if let Some(known) = self.known.remove(&line.seq)
            && known != line.head()
        {
            self.fault(FaultKind::NotAsKnown { seq: line.seq });
        }
        self.findings.lost = self.findings.lost.saturating_add(line.lost());
        self.check_signature(&line);
    }

    /// Whether it is the newest line; what does not fit is told.
    fn follows(&mut self, line: &Line<'_>, junk: u64) -> bool {
        // Where nothing was read yet: behind a line that is known, or behind none.
        let before = self.findings.head.unwrap_or_else(|| {
            let known = line.seq.checked_sub(1).and_then(|seq| self.known.remove(&seq));
            known.unwrap_or(Head::NONE)
        });
        let next = before.seq.saturating_add(1);
        if line.seq < next {
            self.fault(FaultKind::OutOfOrder { seq: line.seq });
            return false;
        }
        if line.seq > next {
            // A line that was spoilt where it stands was told already.
            let first = next.saturating_add(junk);
            if first < line.seq {
                self.fault(FaultKind::Missing { first, last: line.seq - 1 });
            }
        } else if line.prev != before.hash {
            self.fault(FaultKind::Changed { seq: before.seq });
        }
        true
    }

    fn check_signature(&mut self, line: &Line<'_>) {
        if !line.is_checkpoint() {
            return;
        }
        match line.checkpoint() {
            Some(checkpoint) if checkpoint.is_signed() => {
                let fingerprint = checkpoint.key.fingerprint();
                if !self.trust.keys.is_empty() && !self.trust.keys.contains(&checkpoint.key) {
                    self.fault(FaultKind::StrangeKey { seq: line.seq, fingerprint });
                    return;
                }
                self.findings.checkpoints += 1;
                self.findings.signed_to = self.findings.signed_to.max(Some(line.seq));
                self.findings.keys.insert(fingerprint);
            }
            _ => self.fault(FaultKind::BadSignature { seq: line.seq }),
        }
    }

    /// All were read.
    pub fn end(mut self) -> Findings {
        for seq in std::mem::take(&mut self.known).into_keys() {
            self.fault(FaultKind::KnownIsMissing { seq });
        }
        self.findings
    }

    fn fault(&mut self, kind: FaultKind) {
        self.findings.fault_count += 1;
        if self.findings.faults.len() < FAULTS_MAX {
            self.findings.faults.push(Fault { file: self.file, at: self.at, kind });
        }
    }
}

#[cfg(test)]
mod tests;
