//! Option `tmpcopyup`: a new tmpfs begins with a copy of what its target holds.
//!
//! Everything is reached by descriptor and name, no link is followed, so an image whose directories change meanwhile
//! leads nowhere else. Hard links become files of their own; sockets and, in a user namespace, devices are left out.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Done, During, Failure};
use crate::report::Op;
use crate::sys;

/// Directories below each other: bounds the stack and the descriptors.
const DEPTH_MAX: u32 = 64;

/// Longest value of an extended attribute that is copied; a longer one fails the step.
const XATTR_MAX: usize = 4096;

const NO_FOLLOW: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = NO_FOLLOW.union(OFlags::RDONLY).union(OFlags::DIRECTORY);

/// Copies what `from` holds into `to`, both directories. `to` keeps its owner and mode.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Done {
    let from = open(from, c".", DIRECTORY)?;
    let to = open(to, c".", DIRECTORY)?;
    entries(from.as_fd(), to.as_fd(), DEPTH_MAX)
}

fn open(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Failure> {
    rustix::fs::openat(directory, name, flags, Mode::empty()).during(Op::CopyUp)
}

fn entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Done {
    let Some(depth) = depth.checked_sub(1) else { return Err(Failure { op: Op::CopyUp, errno: Errno::LOOP }) };
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut listing = RawDir::new(from, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry.during(Op::CopyUp)?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Done {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).during(Op::CopyUp)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = open(from, name, DIRECTORY)?;
            rustix::fs::mkdirat(to, name, Mode::RWXU).during(Op::CopyUp)?;
            let copy = open(to, name, DIRECTORY)?;
            entries(source.as_fd(), copy.as_fd(), depth)?;
            like(source.as_fd(), copy.as_fd(), &stat)
        }
        FileType::RegularFile => {
            let source = open(from, name, NO_FOLLOW | OFlags::RDONLY | OFlags::NONBLOCK)?;
            let flags = NO_FOLLOW | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).during(Op::CopyUp)?;
            while rustix::fs::sendfile(&copy, &source, None, 1 << 30).during(Op::CopyUp)? > 0 {}
            like(source.as_fd(), copy.as_fd(), &stat)
        }
        FileType::Symlink => {
            symlink(from, to, name)?;
            own_and_date(to, name, &stat)
        }
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
            let (kind, mode) = (FileType::from_raw_mode(stat.st_mode), Mode::from_raw_mode(stat.st_mode));
            match rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev) {
                Err(Errno::PERM) => Ok(()),
                made => {
                    made.during(Op::CopyUp)?;
                    own_and_date(to, name, &stat)
                }
            }
        }
        FileType::Socket | FileType::Unknown => Ok(()),
    }
}

fn symlink(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Done {
    let mut said = [0u8; libc::PATH_MAX as usize];
    // The buffer is longer than what it holds, so a zero stands behind it.
    sys::read_link(from, name, &mut said).during(Op::CopyUp)?;
    let said = CStr::from_bytes_until_nul(&said).map_err(|_| Failure { op: Op::CopyUp, errno: Errno::NAMETOOLONG })?;
    rustix::fs::symlinkat(said, to, name).during(Op::CopyUp)
}

/// Gives an open copy the owner, attributes, mode and times of what it was copied from. Mode and attributes after the
/// owner: a change of owner takes set-id bits and file capabilities away. Times last.
fn like(source: BorrowedFd<'_>, copy: BorrowedFd<'_>, stat: &Stat) -> Done {
    let (uid, gid) = owner(stat);
    owned(rustix::fs::fchown(copy, Some(uid), Some(gid)))?;
    extended_attributes(source, copy)?;
    rustix::fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o7777)).during(Op::CopyUp)?;
    rustix::fs::futimens(copy, &times(stat)).during(Op::CopyUp)
}

fn own_and_date(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Done {
    let (uid, gid) = owner(stat);
    owned(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    rustix::fs::utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).during(Op::CopyUp)
}

/// An owner who has no number in the container's user namespace cannot be had there: the copy is its root's.
fn owned(result: Result<(), Errno>) -> Done {
    match result {
        Err(Errno::INVAL | Errno::PERM) => Ok(()),
        result => result.during(Op::CopyUp),
    }
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec),
    }
}

/// Those that the tmpfs takes (`trusted.`, `security.` and ACLs; `user.` since Linux 6.6).
fn extended_attributes(source: BorrowedFd<'_>, copy: BorrowedFd<'_>) -> Done {
    let mut names = [0u8; XATTR_MAX];
    let length = match rustix::fs::flistxattr(source, &mut names) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => length.during(Op::CopyUp)?,
    };
    let mut names = names.get(..length).unwrap_or_default();
    while let Ok(name) = CStr::from_bytes_until_nul(names) {
        names = names.get(name.count_bytes() + 1..).unwrap_or_default();
        let mut value = [0u8; XATTR_MAX];
        let length = rustix::fs::fgetxattr(source, name, &mut value).during(Op::CopyUp)?;
        let value = value.get(..length).unwrap_or_default();
        match rustix::fs::fsetxattr(copy, name, value, XattrFlags::empty()) {
            Err(Errno::NOTSUP | Errno::PERM) => {}
            set => set.during(Op::CopyUp)?,
        }
    }
    Ok(())
}
