//! The end of the list: find the program, wait for `start`, become the program.

use std::ffi::CString;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::{Child, Done, During, Failure};
use crate::plan::FdIndex;
use crate::report::{Op, Report};
use crate::sys;

impl<'a> Child<'a> {
    /// As execvp(3) looks along PATH, but before anybody is told that the container is ready.
    pub(super) fn find_executable(&mut self, candidates: &'a [CString]) -> Done {
        let mut reason = Errno::NOENT;
        for candidate in candidates {
            match executable(candidate) {
                Ok(()) => {
                    self.program = Some(candidate);
                    return Ok(());
                }
                // Something is there but may not be run: remembered, unless a later candidate does better.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => reason = errno,
            }
        }
        Err(Failure { op: Op::Call, errno: reason })
    }

    /// Everything is set up: say so, and wait for a connection. The connection then carries the last reports, so that
    /// whoever starts the container learns whether execve succeeded, even if they did not create it.
    pub(super) fn park(&mut self, socket: FdIndex) -> Done {
        let socket = self.fd(socket)?;
        if rustix::process::getpid().is_init() {
            // As with runc: a created container can be ended by the signals that end a process.
            sys::end_when_asked();
        }
        self.report(Report::Ready);
        if let Some(status) = self.report_to.take() {
            // The creator sees end of file. The descriptor's number must not come back as something else that we use,
            // so it is replaced, not closed.
            sys::dup_cloexec_to(socket, status).during(Op::Duplicate)?;
        }
        self.connection = Some(rustix::net::accept_with(socket, SocketFlags::CLOEXEC).during(Op::Accept)?);
        Ok(())
    }

    pub(super) fn exec(&self) -> Done {
        let program = self.program.ok_or(Failure { op: Op::Execve, errno: Errno::NOENT })?;
        let arrays = self.birth.programs.last().ok_or(Failure { op: Op::Execve, errno: Errno::INVAL })?;
        self.report(Report::Execing);
        sys::heed_broken_pipes();
        Err(Failure { op: Op::Execve, errno: sys::execve(program, &arrays.argv, &arrays.env) })
    }
}

fn executable(path: &CString) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS)?;
    let stat = rustix::fs::statat(CWD, path.as_c_str(), AtFlags::empty())?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { Err(Errno::ACCESS) } else { Ok(()) }
}
