//! Signals of a foreground `run`: forwarded to the container's init.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};

/// What is passed on; the rest acts on us as usual.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// Receives the signals from its making on. The child unblocks them for itself.
pub struct Forwarder {
    signals: SignalFd,
}

impl Forwarder {
    pub fn new() -> anyhow::Result<Forwarder> {
        let set: SigSet = FORWARDED.into_iter().collect();
        set.thread_block().context("block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
        Ok(Forwarder { signals })
    }

    /// Waits for the exit of the process and passes signals on meanwhile.
    pub fn until_exit(&self, pidfd: BorrowedFd<'_>) -> anyhow::Result<()> {
        loop {
            let mut poll = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match rustix::event::poll(&mut poll, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.context("poll")?,
            };
            if !poll[0].revents().is_empty() {
                return Ok(());
            }
            while let Some(info) = self.signals.read_signal().context("read signal")? {
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                    // It may have ended this very moment.
                    let _ = rustix::process::pidfd_send_signal(pidfd.as_fd(), signal);
                }
            }
        }
    }
}
