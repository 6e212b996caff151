//! Device nodes and the links of /dev.

use std::ffi::CStr;

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::target::{PathBuffer, make_parents};
use super::{Child, Done, During, Failure};
use crate::report::Op;

impl Child<'_> {
    /// Makes a node; one that is there already must be the same device. A regular file is a place for a bind mount to
    /// come, for which anything will do.
    pub(super) fn device(&self, path: &CStr, mode: u32, device: Dev, owner: (u32, u32)) -> Done {
        let mut buffer = PathBuffer::new(path)?;
        let parent = make_parents(self.root()?, &mut buffer, false)?;
        let name = buffer.name()?;
        let (kind, permissions) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode));
        match rustix::fs::mknodat(&parent, name, kind, permissions, device) {
            Ok(()) => {}
            Err(Errno::EXIST) if kind == FileType::RegularFile => return Ok(()),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).during(Op::MakeNode)?;
                if FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == device {
                    return Ok(());
                }
                return Err(Failure { op: Op::WrongObject, errno: Errno::EXIST });
            }
            Err(errno) => return Err(Failure { op: Op::MakeNode, errno }),
        }
        if owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).during(Op::Own)?;
        }
        Ok(())
    }

    pub(super) fn symlink(&self, path: &CStr, to: &CStr) -> Done {
        let mut buffer = PathBuffer::new(path)?;
        let parent = make_parents(self.root()?, &mut buffer, false)?;
        let name = buffer.name()?;
        match rustix::fs::symlinkat(to, &parent, name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Failure { op: Op::Call, errno }),
        }
    }
}
