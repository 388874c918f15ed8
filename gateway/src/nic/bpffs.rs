//! The directory of pins: on a BPF file system, mounted where it is not.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::Path,
};

use super::NicError;

/// Where the kernel's documentation and systemd mount it.
const MOUNT_POINT: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`
const MAGIC: u64 = 0xcafe_4a11;

/// Makes `dir`, for root only. Mounts the BPF file system when `dir` belongs below its usual place and it is missing.
pub(super) fn make_dir(dir: &Path) -> Result<(), NicError> {
    if !on_bpffs(dir)? {
        if !dir.starts_with(MOUNT_POINT) {
            return Err(NicError::NotBpffs(dir.to_owned()));
        }
        mount().map_err(NicError::io(format!("mount the BPF file system at {MOUNT_POINT}")))?;
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(NicError::io(format!("make {}", dir.display())))
}

/// Whether [`make_dir`] has a place to do it.
pub(super) fn can_make_dir(dir: &Path) -> Result<(), NicError> {
    if on_bpffs(dir)? || dir.starts_with(MOUNT_POINT) && Path::new(MOUNT_POINT).exists() {
        return Ok(());
    }
    Err(NicError::NotBpffs(dir.to_owned()))
}

/// Whether the nearest directory that exists lies on a BPF file system.
fn on_bpffs(dir: &Path) -> Result<bool, NicError> {
    let nearest = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let describe = || format!("look at {}", nearest.display());
    let path = CString::new(nearest.as_os_str().as_bytes())
        .map_err(|error| NicError::io(describe())(error.into()))?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel reads the string and writes the struct; both live until the call returns.
    if unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(NicError::io(describe())(io::Error::last_os_error()));
    }
    // SAFETY: the call succeeded, so the kernel has written all of it.
    Ok(unsafe { found.assume_init() }.f_type.cast_unsigned() == MAGIC)
}

fn mount() -> io::Result<()> {
    let target = CString::new(MOUNT_POINT)?;
    // SAFETY: the kernel only reads the three strings, which live until the call returns.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
