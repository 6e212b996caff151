//! Masked and read-only paths of `/proc` and `/sys`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::mount::{attach, clone_mount, new_filesystem};
use super::target::{open_beneath, open_inside};
use super::{Child, Done, During, Failure};
use crate::plan::{HiddenPath, Slot};
use crate::report::Op;
use crate::{sys, zygote};

impl Child<'_> {
    /// Opens a path that may be missing.
    fn open_optional(&self, hidden: &HiddenPath) -> Result<Option<OwnedFd>, Failure> {
        let found = match self.remembered(hidden.slot) {
            None => open_inside(self.root()?, &hidden.path, OFlags::empty(), false),
            Some(mount) => match open_beneath(mount, &hidden.below) {
                // By way of a link that leads out of the mount. Those of procfs and sysfs do not.
                Err(Errno::XDEV) => open_inside(self.root()?, &hidden.path, OFlags::empty(), false),
                found => found,
            },
        };
        match found {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            result => result.map(Some).during(Op::Resolve),
        }
    }

    fn remembered(&self, slot: Slot) -> Option<BorrowedFd<'_>> {
        self.birth.remembered.get(usize::from(slot?.get()) - 1)?.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn readonly_path(&self, path: &HiddenPath) -> Done {
        let Some(object) = self.open_optional(path)? else { return Ok(()) };
        let copy = clone_mount(object.as_fd(), true)?;
        sys::mount_setattr(copy.as_fd(), true, libc::MOUNT_ATTR_RDONLY, 0, 0).during(Op::MountAttributes)?;
        attach(copy.as_fd(), object.as_fd())
    }

    pub(super) fn mask_path(&mut self, path: &HiddenPath) -> Done {
        let Some(object) = self.open_optional(path)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&object).during(Op::Resolve)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return attach(clone_mount(self.null()?.as_fd(), false)?.as_fd(), object.as_fd());
        }
        // One empty directory for all of them: a superblock each is memory and shrinker work for nothing.
        if self.empty.is_none() && self.birth.plan.zygotes_empty {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.empty = Some(rustix::fs::open(zygote::EMPTY, flags, Mode::empty()).during(Op::Source)?);
        }
        if let Some(empty) = &self.empty {
            return attach(clone_mount(empty.as_fd(), false)?.as_fd(), object.as_fd());
        }
        let empty = new_filesystem(c"tmpfs", c"tmpfs", &[], None, libc::MOUNT_ATTR_RDONLY)?;
        attach(empty.as_fd(), object.as_fd())?;
        self.empty = Some(empty);
        Ok(())
    }

    /// The container's /dev/null, which a hostile image could have made anything else: an open descriptor that was
    /// looked at and is used as looked at (CVE-2025-31133, CVE-2026-88265).
    fn null(&self) -> Result<OwnedFd, Failure> {
        let null = open_inside(self.root()?, c"/dev/null", OFlags::NOFOLLOW, false).during(Op::Resolve)?;
        let stat = rustix::fs::fstat(&null).during(Op::Resolve)?;
        if is_null(&stat) { Ok(null) } else { Err(Failure { op: Op::WrongObject, errno: Errno::NODEV }) }
    }

    /// The same, for reading and writing.
    pub(super) fn open_null(&self) -> Result<OwnedFd, Failure> {
        // Looked at first: to open another device may do something.
        self.null()?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let null =
            rustix::fs::openat2(self.root()?, c"/dev/null", flags, Mode::empty(), resolve).during(Op::Resolve)?;
        let stat = rustix::fs::fstat(&null).during(Op::Resolve)?;
        if is_null(&stat) { Ok(null) } else { Err(Failure { op: Op::WrongObject, errno: Errno::NODEV }) }
    }
}

/// Whether it is the device 1:3.
pub(super) fn is_null(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3)
}
