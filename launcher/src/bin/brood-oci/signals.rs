//! Signals of a foreground `run`: forwarded to the container's init.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};

use crate::console::Relay;

/// What is passed on; the rest acts on us as usual.
const FORWARDED: [Signal; 7] = [
    Signal::SIGWINCH,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What a foreground command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The process's end.
    Exit,
    /// Signals for us.
    Signals,
    /// Our standard input, for the container's terminal.
    Input,
    /// What the container's terminal has for us.
    Output,
}

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
    pub fn until_exit(&self, pidfd: BorrowedFd<'_>, mut relay: Option<Relay>) -> anyhow::Result<()> {
        loop {
            let mut sources = vec![(Source::Exit, pidfd), (Source::Signals, self.signals.as_fd())];
            sources.extend(relay.iter().flat_map(Relay::sources));
            let mut poll: Vec<_> = sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            match rustix::event::poll(&mut poll, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.context("poll")?,
            };
            let ready = poll.iter().zip(&sources).filter(|(poll, _)| !poll.revents().is_empty());
            let ready: Vec<Source> = ready.map(|(_, (source, _))| *source).collect();
            if let Some(relay) = &mut relay {
                relay.carry(&ready)?;
            }
            if ready.contains(&Source::Signals) {
                self.pass_on(pidfd, relay.as_ref())?;
            }
            // What the container wrote before it ended is carried first.
            if ready.contains(&Source::Exit) && !ready.contains(&Source::Output) {
                return Ok(());
            }
        }
    }

    fn pass_on(&self, pidfd: BorrowedFd<'_>, relay: Option<&Relay>) -> anyhow::Result<()> {
        while let Some(info) = self.signals.read_signal().context("read signal")? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if let (libc::SIGWINCH, Some(relay)) = (number, relay) {
                relay.resize();
            } else if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                // It may have ended this very moment.
                let _ = rustix::process::pidfd_send_signal(pidfd.as_fd(), signal);
            }
        }
        Ok(())
    }
}
