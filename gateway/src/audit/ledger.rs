//! The file: appended to by several processes, one at a time, and moved aside when it is large.
//!
//! Comes in: entries. Goes out: lines behind the last one that is there, whoever wrote it, or an error and a file that
//! is as it was. Whoever appends holds the file's lock (flock); what the file lacks of what this process knows of it is
//! told in the chain. Old files are called `FILE.N`, N being the number of their first line, and are never removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    Entry, Signer,
    chain::{Head, LINE_BYTES_MAX, Line},
};
use crate::config;

/// Times that the file may be moved away while its lock is waited for.
const MOVES_MAX: usize = 16;
/// Digits of a line's number in the name of an old file, so that they stand in order.
const NAME_DIGITS: usize = 20;

/// One process's end of the log.
pub struct Ledger {
    path: PathBuf,
    key_file: PathBuf,
    rotate_bytes: Option<u64>,
    signer: Option<Signer>,
    file: Option<Known>,
    /// The newest line that this process has seen.
    head: Head,
    /// The newest line that is signed for sure.
    signed: Head,
}

/// The file as this process left it.
struct Known {
    file: File,
    device: u64,
    inode: u64,
    bytes: u64,
    /// The number of its first line; 0: it has none yet.
    first: u64,
    /// What stands behind those bytes: a line that was never finished. The next one that can be written takes its place.
    torn: Vec<u8>,
}

/// The end of a file.
struct Tail {
    /// Bytes up to the end of its last line.
    bytes: u64,
    /// What stands behind them.
    torn: Vec<u8>,
    /// Its last line; none: it has none.
    head: Option<Head>,
}

impl Ledger {
    /// Opens nothing yet.
    pub fn new(settings: &config::AuditFile) -> Self {
        Self {
            path: settings.path.clone(),
            key_file: settings.sign_key_file.clone(),
            rotate_bytes: settings.rotate_bytes,
            signer: None,
            file: None,
            head: Head::NONE,
            signed: Head::NONE,
        }
    }

    /// The newest line.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Whether there is a line behind the last checkpoint.
    pub fn is_unsigned(&self) -> bool {
        self.head != self.signed
    }

    /// Appends `entries`, each of which ends in a line feed: all of them, or an error.
    pub fn append(&mut self, entries: &[u8], unix_s: u64) -> io::Result<()> {
        self.write(entries, unix_s, false)
    }

    /// The same, with a checkpoint, and on the disk when it returns.
    pub fn append_signed(&mut self, entries: &[u8], unix_s: u64) -> io::Result<()> {
        self.write(entries, unix_s, true)?;
        self.signed = self.head;
        self.file.as_ref().map_or(Ok(()), |known| known.file.sync_data())
    }

    fn write(&mut self, entries: &[u8], unix_s: u64, sign: bool) -> io::Result<()> {
        if self.signer.is_none() {
            self.signer =
                Some(Signer::open(&self.key_file).map_err(|error| of_file(&self.key_file, &error))?);
        }
        let Some(signer) = &self.signer else { return Ok(()) };
        let written = Known::lock(&self.path, self.file.take()).and_then(|mut known| {
            let (mut head, told) = known.catch_up(&self.path, self.head)?;
            let mut lines = Vec::new();
            for told in told {
                head.push(&mut lines, told.entry(unix_s).into_bytes().trim_ascii_end());
            }
            if self.rotate_bytes.is_some_and(|max| known.bytes >= max) {
                head.push_checkpoint(&mut lines, unix_s, signer);
                known.append(&lines)?;
                known.rotate(&self.path)?;
                lines.clear();
            }
            for entry in entries.split_inclusive(|byte| *byte == b'\n') {
                head.push(&mut lines, entry.trim_ascii_end());
            }
            if sign {
                head.push_checkpoint(&mut lines, unix_s, signer);
            }
            known.append(&lines)?;
            known.file.unlock()?;
            Ok((head, known))
        });
        // After an error the file is opened and looked at again.
        let (head, known) = written.map_err(|error| of_file(&self.path, &error))?;
        (self.head, self.file) = (head, Some(known));
        Ok(())
    }
}

/// Why the chain goes on behind something else than this process has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The beginning of a line that was never finished was removed: so many bytes.
    Mended(u64),
    /// The file ends with this line; it had more.
    Cut(u64, u64),
}

impl Told {
    fn entry(self, unix_s: u64) -> Entry {
        match self {
            Self::Mended(bytes) => Entry::new(unix_s, "mended").number("bytes", bytes),
            Self::Cut(found, known) => {
                Entry::new(unix_s, "cut").number("last_line", found).number("expected", known)
            }
        }
    }
}

impl Known {
    /// The file at `path` with its lock held; `before` if it is still that one.
    fn lock(path: &Path, before: Option<Known>) -> io::Result<Known> {
        let mut candidate = before;
        for _ in 0..MOVES_MAX {
            let known = match candidate.take() {
                Some(known) => known,
                None => Known::open(path)?,
            };
            known.file.lock()?;
            // Whoever held the lock may have moved it aside.
            match fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (known.device, known.inode) => return Ok(known),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("it is moved away again and again"))
    }

    fn open(path: &Path) -> io::Result<Known> {
        let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        // What is in it is unknown: it counts as empty, and is caught up with.
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(Known { file, device, inode, bytes: 0, first: 0, torn: Vec::new() })
    }

    /// What the next line follows, and what has to be said first. `seen` is the newest line that this process knows of.
    fn catch_up(&mut self, path: &Path, seen: Head) -> io::Result<(Head, Vec<Told>)> {
        let bytes = self.file.metadata()?.len();
        if bytes == self.bytes && bytes > 0 {
            return Ok((seen, Vec::new()));
        }
        let tail = Tail::of(&mut self.file, bytes)?;
        let mut told = Vec::new();
        if !tail.torn.is_empty() {
            told.push(Told::Mended(tail.torn.len() as u64));
        }
        (self.bytes, self.torn) = (tail.bytes, tail.torn);
        if self.first == 0 && tail.bytes > 0 {
            self.first = first_line(&mut self.file)?;
        }
        let found = match tail.head {
            Some(head) => head,
            None => newest_old_file(path)?,
        };
        if found.seq < seen.seq {
            log::error!(
                "{}: line {} is its last, and line {} was: it has been cut",
                path.display(),
                found.seq,
                seen.seq
            );
            told.push(Told::Cut(found.seq, seen.seq));
            return Ok((seen, told));
        }
        Ok((found, told))
    }

    /// Moves the file aside and begins a new one. The lock of the old one is held until its descriptor goes, so that
    /// whoever waits for it then looks for the new one.
    fn rotate(&mut self, path: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        let mode = self.file.metadata()?.permissions();
        fs::rename(path, old_file(path, self.first))?;
        let new = Known::lock(path, None)?;
        new.file.set_permissions(mode)?;
        let length = new.file.metadata()?.len();
        if length > 0 {
            new.file.unlock()?;
            return Err(io::Error::other("another process has begun the next file already"));
        }
        *self = new;
        Ok(())
    }

    /// All of it or nothing: after an error the file is as it was.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let first = Line::parse(lines.split(|byte| *byte == b'\n').next().unwrap_or_default());
        if !self.torn.is_empty() {
            self.file.set_len(self.bytes)?;
        }
        match self.file.write_all(lines) {
            Ok(()) => {
                self.bytes = self.bytes.saturating_add(lines.len() as u64);
                let torn = std::mem::take(&mut self.torn);
                if !torn.is_empty() {
                    log::warn!(
                        "audit log: {} bytes of a line that was never finished were removed",
                        torn.len()
                    );
                }
                if self.first == 0 {
                    self.first = first.map_or(0, |line| line.seq);
                }
                Ok(())
            }
            Err(error) => {
                // Half a line would be all that a full disk has room for. What was torn before stays until the chain can
                // tell of it, and it fits where it was. The first error is the one to tell.
                let _ = self.file.set_len(self.bytes).and_then(|()| self.file.write_all(&self.torn));
                Err(error)
            }
        }
    }
}

impl Tail {
    fn of(file: &mut File, bytes: u64) -> io::Result<Self> {
        const WINDOW: u64 = 2 * LINE_BYTES_MAX as u64 + 2;
        let start = bytes.saturating_sub(WINDOW);
        file.seek(SeekFrom::Start(start))?;
        let mut window = Vec::new();
        Read::by_ref(file).take(bytes - start).read_to_end(&mut window)?;
        let Some(end) = window.iter().rposition(|byte| *byte == b'\n') else {
            return if start == 0 {
                Ok(Self { bytes: 0, torn: window, head: None })
            } else {
                Err(not_ours())
            };
        };
        let torn = window.split_off(end + 1);
        let whole = window.get(..end).unwrap_or_default();
        let last = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let head = Line::parse(last).ok_or_else(not_ours)?.head();
        Ok(Self { bytes: start + end as u64 + 1, torn, head: Some(head) })
    }
}

/// The number of a file's first line.
fn first_line(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut start = Vec::new();
    Read::by_ref(file).take(LINE_BYTES_MAX as u64 + 1).read_to_end(&mut start)?;
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Line::parse(line).map(|line| line.seq).ok_or_else(not_ours)
}

/// The last line of the newest file that was moved aside.
fn newest_old_file(path: &Path) -> io::Result<Head> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut newest = None;
    for entry in fs::read_dir(directory)? {
        let entry = entry?.file_name();
        let number = entry.to_str().and_then(|entry| entry.strip_prefix(&name)?.strip_prefix('.'));
        let is_old =
            |number: &&str| number.len() == NAME_DIGITS && number.bytes().all(|b| b.is_ascii_digit());
        newest = newest.max(number.filter(is_old).map(|_| directory.join(&entry)));
    }
    let Some(newest) = newest else { return Ok(Head::NONE) };
    let mut file = File::open(&newest)?;
    let bytes = file.metadata()?.len();
    Ok(Tail::of(&mut file, bytes)?.head.unwrap_or(Head::NONE))
}

fn old_file(path: &Path, first: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{first:0NAME_DIGITS$}"));
    name.into()
}

fn not_ours() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "its last line is none that this program has written: `portcullis audit verify` tells more; moved away, it is \
         followed by a new file",
    )
}

fn of_file(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
