//! A directory of one's own for configurations, key stores and logs, removed with everything in it; and, where BPF
//! objects shall be pinned, a private bpffs whose unmounting detaches whatever is still pinned there.
//!
//! Names carry the maker's process id, so that what a killed process left behind can be told from what is in use.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context;

/// Every directory of the lab begins with this.
const PREFIX: &str = "portcullis-lab";

/// Tells apart what one process makes.
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// `pid-serial`, unique on this machine while the process lives.
pub(super) fn unique() -> String {
    format!("{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// The process id in a name that ends with [`unique`], when that process is gone.
pub(super) fn dead_maker(name: &str) -> Option<u32> {
    let pid: u32 = name.rsplit('-').nth(1)?.parse().ok()?;
    (!Path::new(&format!("/proc/{pid}")).exists()).then_some(pid)
}

/// A directory that only its owner may enter; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it below the system's directory for temporary files.
    pub fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("{PREFIX}-{}", unique()));
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that only its owner may read, and says where it is.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        use std::{io::Write, os::unix::fs::OpenOptionsExt};
        let path = self.path.join(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_ref()))
            .with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// A directory on which a file system of one's own is mounted.
#[derive(Debug)]
struct Mount {
    // Unmounted by `drop` before the directory below it is removed.
    directory: Scratch,
}

impl Mount {
    /// Mounts it; needs root.
    fn new(kind: &CStr, options: &CStr) -> anyhow::Result<Self> {
        let directory = Scratch::new()?;
        let target = c_path(directory.path())?;
        let (kind_text, options) = (kind.as_ptr(), options.as_ptr().cast());
        // SAFETY: every pointer is a NUL-terminated string that outlives the call, the last one being the options.
        let mounted = unsafe { libc::mount(kind_text, target.as_ptr(), kind_text, libc::MS_NOSUID, options) };
        if mounted != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("mounting a {}", kind.to_string_lossy()));
        }
        Ok(Self { directory })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(self.directory.path());
    }
}

/// A private bpffs: a fresh `prefilter.pin_dir` for each lab, apart from what a gateway in service has pinned.
#[derive(Debug)]
pub struct PinDir(Mount);

impl PinDir {
    /// Mounts it; needs root.
    pub fn new() -> anyhow::Result<Self> {
        Mount::new(c"bpf", c"mode=0700").map(Self)
    }

    /// The directory to give as `prefilter.pin_dir`.
    pub fn path(&self) -> PathBuf {
        self.0.directory.path().join("portcullis")
    }
}

/// A disk of a few pages, to be filled.
#[derive(Debug)]
pub struct SmallDisk(Mount);

impl SmallDisk {
    /// Mounts it; needs root.
    pub fn new() -> anyhow::Result<Self> {
        Mount::new(c"tmpfs", c"size=64k,mode=0700").map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.directory.path()
    }

    /// Takes every page that is left; what files have of their last pages stays theirs.
    pub fn fill(&self) -> io::Result<()> {
        use std::io::Write as _;
        let mut filler = fs::File::options().create(true).append(true).open(self.filler())?;
        loop {
            match filler.write(&[0; Self::PAGE_BYTES]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] has taken.
    pub fn make_room(&self) -> io::Result<()> {
        fs::remove_file(self.filler())
    }

    /// Room is given by the page.
    pub const PAGE_BYTES: usize = 4096;

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

/// Mounts sysfs there, for the calling thread alone: it has mounts of its own from then on, which end with it.
pub(super) fn mount_sys(directory: &Path) -> io::Result<()> {
    let target = c_path(directory)?;
    let (none, root, flags) = (c"none".as_ptr(), c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: unshare(2) takes no pointer, every pointer is a NUL-terminated string that outlives the call, and mount(2)
    // may be given no options and, to change how mounts spread, no type.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, std::ptr::null(), flags, std::ptr::null()) == 0
            && libc::mount(none, target.as_ptr(), c"sysfs".as_ptr(), 0, std::ptr::null()) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes what processes that are gone have left: mounts first, then directories.
pub(super) fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if dead_maker(name).is_some() {
            unmount(&entry.path());
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                log::warn!("{}: {error}", entry.path().display());
            }
        }
    }
}

fn unmount(path: &Path) {
    let Ok(target) = c_path(path) else { return };
    // SAFETY: the path is a NUL-terminated string that outlives the call. Where nothing is mounted it answers EINVAL.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab;

    #[test]
    fn scratch_goes_away_with_what_it_holds() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.write("key", "secret").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"secret");
        drop(scratch);
        assert!(!file.exists());
    }

    #[test]
    fn only_a_dead_maker_is_named() {
        assert_eq!(dead_maker(&format!("{PREFIX}-{}-0", std::process::id())), None);
        // Above the largest process id that Linux gives out (2^22).
        assert_eq!(dead_maker(&format!("{PREFIX}-4194305-0")), Some(4_194_305));
        assert_eq!(dead_maker("portcullis"), None);
    }

    #[test]
    fn pin_directory_is_a_bpffs_of_its_own() {
        if let Err(why) = lab::privileges() {
            return lab::skip("pin_directory_is_a_bpffs_of_its_own", &why);
        }
        let pins = PinDir::new().unwrap();
        let mount = pins.path().parent().unwrap().to_owned();
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(mounts().contains(&format!("{} bpf", mount.display())));
        // Only directories and BPF objects can live there.
        assert!(fs::write(mount.join("file"), "").is_err());
        fs::create_dir(pins.path()).unwrap();
        drop(pins);
        assert!(!mounts().contains(mount.to_str().unwrap()));
        assert!(!mount.exists());
    }
}
