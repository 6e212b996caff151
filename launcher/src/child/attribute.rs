//! Attributes of the process and of its namespaces that are one write or one call each.

use std::ffi::CStr;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::target::PathBuffer;
use super::{Child, Done, During, Failure};
use crate::plan::{FdIndex, SecurityModule};
use crate::report::Op;
use crate::sys;

/// A session keyring of its own keeps the caller's keys away from the container. Where keyrings are switched off or
/// filtered (a container around us), there are no keys to be kept away, as with runc.
pub(super) fn session_keyring(name: &CStr) -> Done {
    match sys::join_session_keyring(name) {
        Ok(()) | Err(Errno::NOSYS) => Ok(()),
        Err(errno) => Err(Failure { op: Op::Call, errno }),
    }
}

impl Child<'_> {
    /// By way of the procfs that the cloning process opened: the container's own could be anything (CVE-2025-52881). Links
    /// of any kind are refused.
    pub(super) fn sysctl(&self, path: &CStr, value: &[u8]) -> Done {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let sysctls = rustix::fs::openat(self.birth.proc, c"sys", flags, Mode::empty()).during(Op::Resolve)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&sysctls, path, flags, Mode::empty(), resolve).during(Op::Resolve)?;
        rustix::io::write(&file, value).map(drop).during(Op::Call)
    }

    /// The kernel checks the permission of whoever opened it.
    pub(super) fn write_cgroup_file(&self, file: FdIndex, text: &[u8]) -> Done {
        rustix::io::write(self.fd(file)?, text).map(drop).during(Op::Call)
    }

    /// apparmor(7), `aa_change_onexec`; selinux, `setexeccon(3)`.
    pub(super) fn label(&self, module: SecurityModule, text: &CStr) -> Done {
        match module {
            SecurityModule::Selinux => self.write_own_proc_file(c"self/attr/exec", text.to_bytes()),
            SecurityModule::AppArmor => {
                // A path buffer is the longest text there is; profile names are shorter.
                let mut command = PathBuffer::new(c"exec ")?;
                command.append(text.to_bytes())?;
                match self.write_own_proc_file(c"self/attr/apparmor/exec", command.whole()?.to_bytes()) {
                    // Before Linux 5.8 the only security module of the machine has the files.
                    Err(Failure { errno: Errno::NOENT, .. }) => {
                        self.write_own_proc_file(c"self/attr/exec", command.whole()?.to_bytes())
                    }
                    done => done,
                }
            }
        }
    }
}
