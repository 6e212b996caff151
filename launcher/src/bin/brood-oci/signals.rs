//! Signals of a foreground `run`: forwarded to the container's init.

use std::os::fd::AsFd;

use anyhow::Context;
use brood_launcher::spawn::Spawned;
use brood_launcher::sys;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::console::Relay;

/// What is passed on, and SIGCHLD, which is ours; the rest acts on us as usual.
const RECEIVED: [Signal; 8] = [
    Signal::SIGCHLD,
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
    /// Room in the container's terminal for what it has not taken yet.
    Room,
}

/// Receives the signals from its making on. The child unblocks them for itself.
pub struct Forwarder {
    signals: SignalFd,
}

impl Forwarder {
    pub fn new() -> anyhow::Result<Forwarder> {
        let set: SigSet = RECEIVED.into_iter().collect();
        set.thread_block().context("block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
        Ok(Forwarder { signals })
    }

    /// Waits for the exit of the process and passes signals on meanwhile.
    pub fn until_exit(&self, process: &Spawned, mut relay: Option<Relay>) -> anyhow::Result<()> {
        let own = [(Source::Exit, process.pidfd.as_fd()), (Source::Signals, self.signals.as_fd())];
        loop {
            let mut sources = own.map(|(source, fd)| (source, fd, PollFlags::IN)).to_vec();
            sources.extend(relay.iter().flat_map(Relay::sources));
            let mut poll: Vec<_> =
                sources.iter().map(|(_, fd, events)| PollFd::from_borrowed_fd(*fd, *events)).collect();
            match rustix::event::poll(&mut poll, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.context("poll")?,
            };
            let ready = poll.iter().zip(&sources).filter(|(poll, _)| !poll.revents().is_empty());
            let ready: Vec<Source> = ready.map(|(_, (source, ..))| *source).collect();
            if let Some(relay) = &mut relay {
                relay.carry(&ready)?;
            }
            if ready.contains(&Source::Signals) {
                self.pass_on(process, relay.as_ref())?;
            }
            // What the container wrote before it ended is carried first.
            if ready.contains(&Source::Exit) && !ready.contains(&Source::Output) {
                return Ok(());
            }
        }
    }

    fn pass_on(&self, process: &Spawned, relay: Option<&Relay>) -> anyhow::Result<()> {
        while let Some(info) = self.signals.read_signal().context("read signal")? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if number == libc::SIGCHLD {
                reap_orphans(process.pid);
            } else if let (libc::SIGWINCH, Some(relay)) = (number, relay) {
                relay.resize();
            } else if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                // It may have ended this very moment.
                let _ = rustix::process::pidfd_send_signal(&process.pidfd, signal);
            }
        }
        Ok(())
    }
}

/// A foreground `run` is the subreaper of its container, which may have no init process that reaps: what has ended goes,
/// but for the container's own process, whose status is still to be read.
fn reap_orphans(except: i32) {
    while let Ok(Some(ended)) = sys::peek_ended_child() {
        let Some(pid) = Pid::from_raw(ended.pid).filter(|_| ended.pid != except) else { return };
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}
