//! How the loop learns of exits: a pidfd becomes readable when its process has ended.
//!
//! | source | per process | when |
//! | --- | --- | --- |
//! | [`uring`] | one poll request in a ring of our own | default |
//! | [`epoll`] | one entry in an epoll set | io_uring is forbidden (sysctl, seccomp), or `--reactor epoll` |
//!
//! Both hand over tokens in batches and know nothing of containers. Neither reaps: the status is looked at with
//! `WNOWAIT`, recorded, and only then reaped, so that a supervisor killed in between leaves the status with the zombie
//! for the keeper. That is why no WAITID is chained to the poll in the ring (it saves a system call and loses the
//! status). Never a WAITID in flight per child and never SIGCHLD with `P_ALL`: both cost O(children) for each exit.

mod epoll;
mod uring;

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::limits::EXITS_PER_TURN;
use crate::watch::watch;

/// Which source to use (`--reactor`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// io_uring where it works, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll, and no io_uring anywhere in the process.
    Epoll,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `uring`
    IoUring,
    /// `epoll`
    Epoll,
}

impl Kind {
    /// As in messages and the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::IoUring => "io_uring",
            Kind::Epoll => "epoll",
        }
    }
}

impl Choice {
    /// Tries io_uring if it may be used.
    ///
    /// # Errors
    /// io_uring was demanded and is refused by this kernel.
    pub fn resolve(self) -> std::io::Result<Kind> {
        // Where io_uring is not wanted it is not even tried: a seccomp policy may kill for that.
        if self == Choice::Epoll {
            return Ok(Kind::Epoll);
        }
        match uring::UringSource::new() {
            Ok(_) => Ok(Kind::IoUring),
            Err(_) if self == Choice::Auto => Ok(Kind::Epoll),
            Err(error) => Err(error),
        }
    }
}

/// A source of exits. The pidfd must stay open until its token has come.
trait ExitSource: AsFd {
    fn watch(&mut self, pidfd: BorrowedFd<'_>, token: u64) -> std::io::Result<()>;
    /// Takes what is there now, without waiting.
    fn take(&mut self, tokens: &mut Vec<u64>, limit: usize) -> std::io::Result<()>;
}

/// The chosen source inside the loop.
pub struct Exits {
    source: RefCell<Box<dyn ExitSource>>,
    /// A second descriptor of the ring or set, for the loop to wait on.
    readiness: AsyncFd<OwnedFd>,
    /// There may be more than was taken, of which no new edge will tell.
    more: Cell<bool>,
}

impl Exits {
    /// Makes the source. Must be called inside the runtime.
    ///
    /// # Errors
    /// The kernel refuses the ring or the epoll set.
    pub fn new(kind: Kind) -> std::io::Result<Exits> {
        let source: Box<dyn ExitSource> = match kind {
            Kind::IoUring => Box::new(uring::UringSource::new()?),
            Kind::Epoll => Box::new(epoll::EpollSource::new()?),
        };
        let readiness = watch(source.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Exits { source: source.into(), readiness, more: Cell::new(false) })
    }

    /// Watches a process; its token comes once, when it has ended (at once if it has already).
    ///
    /// # Errors
    /// The kernel has no room.
    pub fn watch(&self, pidfd: BorrowedFd<'_>, token: u64) -> std::io::Result<()> {
        self.source.borrow_mut().watch(pidfd, token)
    }

    /// Waits for exits and returns their tokens, at most [`EXITS_PER_TURN`] at a time. Between two of many others have their
    /// turn.
    ///
    /// # Errors
    /// The ring or epoll set broke.
    pub async fn next(&self) -> std::io::Result<Vec<u64>> {
        let mut tokens = Vec::new();
        loop {
            if self.more.get() {
                tokio::task::yield_now().await;
            } else {
                // Cleared before taking: what comes in between makes it ready again.
                self.readiness.readable().await?.clear_ready();
            }
            self.source.borrow_mut().take(&mut tokens, EXITS_PER_TURN)?;
            self.more.set(tokens.len() >= EXITS_PER_TURN);
            if !tokens.is_empty() {
                return Ok(tokens);
            }
        }
    }
}

/// Runs a future on the runtime that belongs to the kind: tokio-uring's, or plain tokio without any ring.
///
/// # Errors
/// The runtime cannot be made.
pub fn block_on<F: Future>(kind: Kind, future: F) -> std::io::Result<F::Output> {
    match kind {
        Kind::IoUring => Ok(tokio_uring::start(future)),
        Kind::Epoll => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
        }
    }
}

#[cfg(test)]
mod tests;
