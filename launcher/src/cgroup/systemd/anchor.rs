//! The process with which a scope begins: systemd makes none without a process, and ends one that has none left. It waits
//! in there until the container's init process has been born beside it.

#![expect(unsafe_code, reason = "a process of our own, by clone3")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::sys::{self, CloneArgs, Cloned};

/// Dropping it ends and reaps the process, which ends by itself when we do.
#[derive(Debug)]
pub struct Anchor {
    /// For systemd, which has it in its own pid namespace.
    pub pid: i32,
    process: OwnedFd,
    /// The end that it waits for.
    _pipe: OwnedFd,
}

impl Anchor {
    /// Starts it, where we are; systemd moves it. We may have threads: it is a copy of one of them, with its own memory.
    ///
    /// # Errors
    /// No process, or no descriptors left.
    pub fn start() -> Result<Anchor, Errno> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let args = CloneArgs { flags: 0, exit_signal: libc::SIGCHLD as u64, cgroup: None };
        // SAFETY: what follows in the new process is system calls alone, and ends in `exit_now`.
        match unsafe { sys::clone3(args) }? {
            Cloned::Parent { pid, pidfd } => Ok(Anchor { pid, process: pidfd, _pipe: write }),
            Cloned::Child => {
                drop(write);
                // It holds nothing of ours open, whoever we are: a supervisor has connections and descriptors of containers.
                let kept = read.as_raw_fd();
                sys::close_forgotten_range(0, kept - 1);
                sys::close_forgotten_range(kept + 1, i32::MAX);
                // Nobody writes: it returns when the other end is gone.
                while rustix::io::read(&read, &mut [0_u8]) == Err(Errno::INTR) {}
                sys::exit_now(0)
            }
        }
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
        let _ = rustix::process::waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED);
    }
}
