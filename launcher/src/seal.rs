//! Our own binary where nobody can overwrite it.
//!
//! A process that is about to become a container runs our binary for a moment, and a hostile image can make it run
//! again inside the container (`#!/proc/self/exe`). Were that the file on disk, it could be overwritten from inside
//! (CVE-2019-5736). So whatever clones containers runs from one of these:
//!
//! | copy | for | cost |
//! | --- | --- | --- |
//! | a sealed memory file | processes that stay: the file on disk may be replaced under them | milliseconds, and the memory |
//! | an overlay without an upper layer, seen by us only | processes of one command | about 0.1 ms |

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// A copy that can be executed and not written.
#[derive(Debug)]
pub struct SealedExe(Copy);

#[derive(Debug)]
enum Copy {
    /// This process runs from a sealed memory file already.
    Running,
    Memory(OwnedFd),
    Overlay(OwnedFd, std::ffi::OsString),
}

const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

impl SealedExe {
    /// A copy in memory, for processes that stay.
    ///
    /// # Errors
    /// No memory, or /proc is missing.
    pub fn lasting() -> Result<SealedExe> {
        let file = std::fs::File::open("/proc/self/exe")?;
        if rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)) {
            return Ok(SealedExe(Copy::Running));
        }
        SealedExe::copy(&file)
    }

    /// A copy in memory of another binary.
    ///
    /// # Errors
    /// It cannot be read, or there is no memory.
    pub fn of(path: &Path) -> Result<SealedExe> {
        SealedExe::copy(&std::fs::File::open(path)?)
    }

    fn copy(file: &std::fs::File) -> Result<SealedExe> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let copy = rustix::fs::memfd_create(c"brood", flags | MemfdFlags::EXEC).or_else(|errno| match errno {
            // MFD_EXEC is Linux 6.3; before it every memory file may be executed.
            rustix::io::Errno::INVAL => rustix::fs::memfd_create(c"brood", flags),
            errno => Err(errno),
        })?;
        let mut left = file.metadata()?.len() as usize;
        while left > 0 {
            match rustix::fs::sendfile(&copy, file, None, left)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                sent => left -= sent,
            }
        }
        seal(&copy)?;
        Ok(SealedExe(Copy::Memory(copy)))
    }

    /// An overlay where one can be mounted, else a copy in memory: for the processes of one command.
    ///
    /// # Errors
    /// As [`SealedExe::lasting`].
    pub fn brief() -> Result<SealedExe> {
        overlay().or_else(|_| SealedExe::lasting())
    }

    /// What it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            Copy::Running | Copy::Memory(_) => "memfd",
            Copy::Overlay(..) => "overlayfs",
        }
    }

    /// A path that execve(2) takes, in this process and in its forks.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.0 {
            Copy::Running => "/proc/self/exe".into(),
            Copy::Memory(copy) => format!("/proc/self/fd/{}", copy.as_raw_fd()).into(),
            Copy::Overlay(mount, name) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())).join(name),
        }
    }
}

/// While the kernel still holds a page of the copy (it was read ahead, or is being moved) it cannot be sealed: EBUSY, after some
/// 0.2 s of its own waiting (fcntl(2), `memfd_wait_for_pins` in mm/memfd.c).
fn seal(copy: &OwnedFd) -> Result<()> {
    const TRIES: u32 = 20;
    for _ in 1..TRIES {
        match rustix::fs::fcntl_add_seals(copy, SEALS) {
            Err(rustix::io::Errno::BUSY) => {}
            done => return Ok(done?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(copy, SEALS)?)
}

/// The binary's directory as the upper of two lower layers, attached nowhere. A file system without an upper layer
/// cannot be made writable, whatever is done to the mount.
fn overlay() -> Result<SealedExe> {
    let exe = std::fs::read_link("/proc/self/exe")?;
    let (Some(directory), Some(name)) = (exe.parent(), exe.file_name()) else { return Err(ErrorKind::NotFound.into()) };
    if directory.as_os_str().as_bytes().iter().any(|byte| b":,\\".contains(byte)) {
        return Err(Error::other("the path means something else in overlay options"));
    }
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Two are the least that an overlay without an upper layer takes, and neither may lie below the other.
    let mut layers = directory.as_os_str().to_owned();
    layers.push(":/sys");
    rustix::mount::fsconfig_set_string(&fs, c"lowerdir", layers.as_os_str())?;
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let sealed = SealedExe(Copy::Overlay(mount, name.to_owned()));
    let (ours, theirs) = (std::fs::metadata("/proc/self/exe")?, std::fs::metadata(sealed.path())?);
    if (ours.len(), ours.mtime_nsec()) != (theirs.len(), theirs.mtime_nsec()) {
        return Err(Error::other("the binary was replaced meanwhile"));
    }
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_copy_can_be_written() {
        for sealed in [SealedExe::lasting().unwrap(), overlay().unwrap()] {
            let path = sealed.path();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), std::fs::metadata("/proc/self/exe").unwrap().len());
            std::fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .and_then(|mut file| {
                    // A sealed memory file may be opened, but takes nothing.
                    std::io::Write::write_all(&mut file, b"x")
                })
                .unwrap_err();
        }
    }
}
