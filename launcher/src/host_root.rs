//! The root of a container without a mount namespace of its own: a mount in the host's, which somebody has to take away.
//!
//! It is put in its place before the clone, once it is written down, and all that the container mounts is below it: whoever
//! finds the state finds the one mount that has to go.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::sys;

/// A mount in the host's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRoot {
    /// Where it is.
    pub path: PathBuf,
    /// Its id (`STATX_MNT_ID`), which tells it from another mount at that place.
    pub mount_id: u64,
}

impl HostRoot {
    /// The detached tree has its id already.
    ///
    /// # Errors
    /// As statx(2).
    pub(crate) fn of(tree: BorrowedFd<'_>, path: PathBuf) -> Result<HostRoot, Errno> {
        Ok(HostRoot { path, mount_id: mount_id(tree)? })
    }

    /// Puts the tree in its place. What the container mounts stays among its own, wherever the host shares that place.
    ///
    /// # Errors
    /// As move_mount(2).
    pub(crate) fn attach(&self, tree: BorrowedFd<'_>) -> Result<(), Errno> {
        rustix::mount::move_mount(tree, c"", CWD, &self.path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        sys::mount_setattr(tree, true, 0, 0, libc::MS_PRIVATE)
    }

    /// Takes it away with all that is mounted below; if it is there no more, nothing is.
    ///
    /// # Errors
    /// As umount2(2).
    pub(crate) fn detach(&self) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(top) if mount_id(top.as_fd())? == self.mount_id => top,
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        // By the descriptor: the name may have come to mean something else.
        let name = format!("/proc/self/fd/{}", top.as_raw_fd());
        rustix::mount::unmount(Path::new(&name), UnmountFlags::DETACH)
    }
}

fn mount_id(object: BorrowedFd<'_>) -> Result<u64, Errno> {
    let found = rustix::fs::statx(object, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}
