//! Namespaces that the clone did not make, and what must be set in them first.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Child, Done, During, Failure};
use crate::plan::{FdIndex, Namespace};
use crate::report::Op;
use crate::sys;

/// Waits for the other side's word; its end of file instead means that it failed, and says so itself.
pub(super) fn await_byte(from: BorrowedFd<'_>, op: Op) -> Result<u8, Failure> {
    let mut byte = [0u8; 1];
    match rustix::io::read(from, &mut byte).during(op)? {
        0 => Err(Failure { op, errno: Errno::CANCELED }),
        _ => Ok(byte[0]),
    }
}

/// Takes user and group 0 of the user namespace, so that everything made from here on belongs to the container's root.
pub(super) fn become_root() -> Done {
    sys::set_gid(0).during(Op::SetGid)?;
    sys::set_uid(0).during(Op::SetUid)
}

/// For a container whose namespaces belong to different user namespaces: those that ours may join, then the rest.
fn join_one_by_one(init: BorrowedFd<'_>, namespaces: i32) -> sys::Result<()> {
    let mut left = namespaces;
    for bit in (0..i32::BITS - 1).map(|bit| 1 << bit).filter(|bit| namespaces & bit & !libc::CLONE_NEWUSER != 0) {
        if sys::setns(init, bit).is_ok() {
            left &= !bit;
        }
    }
    if left == 0 { Ok(()) } else { sys::setns(init, left) }
}

impl Child<'_> {
    pub(super) fn await_parent(&self) -> Done {
        let Some(pipe) = self.birth.parent_done else { return Ok(()) };
        await_byte(pipe, Op::AwaitParent).map(drop)
    }

    pub(super) fn join_namespace(&self, namespace: Namespace) -> Done {
        sys::setns(self.fd(namespace.fd)?, namespace.kind.flag()).during(Op::Call)
    }

    /// One setns(2) for all of them: the kernel takes the user namespace first, and the rest with its rights. The root
    /// directory is the container's from here on.
    pub(super) fn join_container(&mut self, pidfd: FdIndex, namespaces: u32) -> Done {
        let init = self.fd(pidfd)?;
        match sys::setns(init, namespaces as i32) {
            // Born in all of them.
            Err(Errno::INVAL) if namespaces == 0 => Ok(()),
            Err(Errno::PERM) => join_one_by_one(init, namespaces as i32),
            joined => joined,
        }
        .during(Op::Call)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.made_root = Some(rustix::fs::open(c"/", flags, Mode::empty()).during(Op::Resolve)?);
        if namespaces & libc::CLONE_NEWUSER as u32 != 0 { become_root() } else { Ok(()) }
    }

    /// Offsets may be written only as long as nobody is in the namespace (time_namespaces(7)). Then we enter it by a
    /// setns(2) of our own: an execve(2) moves us in on newer kernels, but not on Linux 6.1.
    pub(super) fn new_time_namespace(&self, offsets: &[u8]) -> Done {
        sys::unshare(libc::CLONE_NEWTIME).during(Op::Call)?;
        if !offsets.is_empty() {
            self.write_own_proc_file(c"self/timens_offsets", offsets)?;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(self.birth.proc, c"self/ns/time_for_children", flags, Mode::empty());
        sys::setns(made.during(Op::Resolve)?.as_fd(), libc::CLONE_NEWTIME).during(Op::Call)
    }

    pub(super) fn write_own_proc_file(&self, path: &std::ffi::CStr, bytes: &[u8]) -> Done {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(self.birth.proc, path, flags, Mode::empty()).during(Op::ProcWrite)?;
        match rustix::io::write(&file, bytes).during(Op::ProcWrite)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(Failure { op: Op::ProcWrite, errno: Errno::IO }),
        }
    }
}
