//! Hooks: those that the runtime runs are waited for here, those of the container's namespaces are run here.

#![expect(unsafe_code, reason = "clone3: the hook's process continues on a copy of this stack")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::{Child, Done, During, FIRST_OTHER_FD, Failure, ProgramArrays};
use crate::plan::{Hook, HookKind, StateText};
use crate::report::{Op, Question, Report, SAID_BYTES_MAX, Said};
use crate::sys::{self, CloneArgs, Cloned, Decimal};

impl Child<'_> {
    pub(super) fn runtime_hooks(&self) -> Done {
        self.ask(Question::RuntimeHooks, Op::AwaitHooks)
    }

    /// Runs one hook to its end. Its standard input is a file in memory, and so is its standard error: however large the state
    /// is and whether or not the hook reads it, nobody waits for anybody.
    pub(super) fn hook(&mut self, hook: &Hook) -> Done {
        let arrays = self.birth.programs.get(self.programs_run);
        let arrays = arrays.ok_or(Failure { op: Op::Call, errno: Errno::INVAL })?;
        self.programs_run += 1;
        if hook.kind == HookKind::CreateContainer {
            // As with runc: in the coming root, so that a hook reaches the container's files by relative names.
            rustix::process::fchdir(self.root()?).during(Op::ChangeDirectory)?;
        }
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let input = state_file(&hook.state, pid).during(Op::HookInput)?;
        let output = rustix::fs::memfd_create(c"brood-hook-stderr", MemfdFlags::CLOEXEC).during(Op::HookInput)?;
        let args = CloneArgs { flags: 0, exit_signal: libc::SIGCHLD as u64, cgroup: None };
        // SAFETY: a child of a clone has one thread.
        let cloned = match unsafe { sys::clone3(args) } {
            // A seccomp profile answers so, since it cannot look at the flags of clone3.
            // SAFETY: as above.
            Err(Errno::NOSYS) => unsafe { sys::clone(args) },
            cloned => cloned,
        };
        match cloned.during(Op::Call)? {
            Cloned::Child => become_hook(hook, arrays, input.as_fd(), output.as_fd()),
            Cloned::Parent { pidfd, .. } => {
                await_hook(&pidfd, hook.timeout).inspect_err(|_| self.quote(output.as_fd()))
            }
        }
    }

    /// What a hook that failed has written to its standard error, as far as there is room for it in a message.
    fn quote(&self, output: BorrowedFd<'_>) {
        let mut text = [0; SAID_BYTES_MAX];
        let length = rustix::io::pread(output, &mut text[..], 0).unwrap_or(0);
        for piece in text.get(..length).unwrap_or_default().chunks(Said::BYTES_MAX) {
            self.report(Report::Said(Said::of(piece)));
        }
    }
}

fn state_file(state: &StateText, pid: i32) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(c"brood-state", MemfdFlags::CLOEXEC)?;
    let pid = Decimal::of(i64::from(pid));
    for (position, part) in state.parts.iter().enumerate() {
        let pid = if position > 0 { pid.as_bytes() } else { &[] };
        for mut rest in [pid, part] {
            while !rest.is_empty() {
                let written = rustix::io::write(&file, rest)?;
                rest = rest.get(written..).unwrap_or_default();
            }
        }
    }
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

/// The child of the child. Whatever fails here is told by the exit status alone, as a shell does: 127.
fn become_hook(hook: &Hook, arrays: &ProgramArrays<'_>, input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> ! {
    sys::heed_broken_pipes();
    let ready = sys::dup_to(input, 0)
        .and_then(|()| sys::dup_to(output, 2))
        .and_then(|()| sys::close_range_cloexec(FIRST_OTHER_FD));
    if ready.is_ok() {
        let _ = sys::execve(&hook.path, &arrays.argv, &arrays.env);
    }
    sys::exit_now(127)
}

fn await_hook(pidfd: &OwnedFd, timeout: u32) -> Done {
    let limit = Timespec { tv_sec: i64::from(timeout), tv_nsec: 0 };
    let limit = (timeout > 0).then_some(&limit);
    let ended = loop {
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], limit) {
            Err(Errno::INTR) => {}
            result => break result.during(Op::Call)? > 0,
        }
    };
    if !ended {
        rustix::process::pidfd_send_signal(pidfd, Signal::KILL).during(Op::Call)?;
    }
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).during(Op::Call)?;
    let number = |number: Option<i32>| Errno::from_raw_os_error(number.unwrap_or(0));
    match status {
        _ if !ended => Err(Failure { op: Op::HookTimeout, errno: Errno::TIMEDOUT }),
        Some(status) if status.exit_status() == Some(0) => Ok(()),
        Some(status) if status.exit_status().is_some() => {
            Err(Failure { op: Op::HookExit, errno: number(status.exit_status()) })
        }
        status => {
            Err(Failure { op: Op::HookSignal, errno: number(status.and_then(|status| status.terminating_signal())) })
        }
    }
}
