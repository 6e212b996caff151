//! Namespaces that the clone did not make, and what must be set in them first.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Child, Done, During, Failure};
use crate::plan::{FdIndex, NamespaceKind};
use crate::report::Op;
use crate::sys;

impl Child<'_> {
    /// Waits for the parent's word that the identity maps are written, then takes user and group 0 of the new
    /// namespace, so that everything made from here on belongs to the container's root.
    pub(super) fn enter_user_namespace(&self) -> Done {
        if let Some(pipe) = self.birth.maps_written {
            let mut byte = [0u8; 1];
            // End of file instead of a byte: the parent could not write them, and says so itself.
            if rustix::io::read(pipe, &mut byte).during(Op::AwaitMaps)? == 0 {
                return Err(Failure { op: Op::AwaitMaps, errno: Errno::CANCELED });
            }
        }
        sys::set_gid(0).during(Op::SetGid)?;
        sys::set_uid(0).during(Op::SetUid)
    }

    pub(super) fn join_namespace(&self, kind: NamespaceKind, fd: FdIndex) -> Done {
        let kind = match kind {
            NamespaceKind::Network => libc::CLONE_NEWNET,
            NamespaceKind::Ipc => libc::CLONE_NEWIPC,
            NamespaceKind::Uts => libc::CLONE_NEWUTS,
            NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        };
        sys::setns(self.fd(fd)?, kind).during(Op::Call)
    }

    /// One setns(2) for all of them: the kernel takes the user namespace first, and the rest with its rights. The root
    /// directory is the container's from here on.
    pub(super) fn join_container(&mut self, pidfd: FdIndex, namespaces: u32) -> Done {
        sys::setns(self.fd(pidfd)?, namespaces as i32).during(Op::Call)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.made_root = Some(rustix::fs::open(c"/", flags, Mode::empty()).during(Op::Resolve)?);
        if namespaces & libc::CLONE_NEWUSER as u32 != 0 {
            sys::set_gid(0).during(Op::SetGid)?;
            sys::set_uid(0).during(Op::SetUid)?;
        }
        Ok(())
    }

    /// Offsets may be written only as long as nobody is in the namespace; execve moves us in (time_namespaces(7)).
    pub(super) fn new_time_namespace(&self, offsets: &[u8]) -> Done {
        sys::unshare(libc::CLONE_NEWTIME).during(Op::Call)?;
        if offsets.is_empty() { Ok(()) } else { self.write_own_proc_file(c"self/timens_offsets", offsets) }
    }

    pub(super) fn write_own_proc_file(&self, path: &std::ffi::CStr, bytes: &[u8]) -> Done {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(self.birth.proc, path, flags, Mode::empty()).during(Op::ProcWrite)?;
        rustix::io::write(&file, bytes).map(drop).during(Op::ProcWrite)
    }
}
