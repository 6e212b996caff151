//! The supervisor's end: what it inherits from its keeper, and what they tell each other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use anyhow::Context;
use rustix::io::Errno;

use super::message::{KeptExit, Message, receive, send};
use super::{FDS_VARIABLE, handover};

/// What a supervisor hears from its keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An inherited process has ended.
    Exit(KeptExit),
    /// All that had ended was told.
    Synced,
    /// Nothing now.
    Nothing,
    /// The keeper died.
    Gone,
}

/// The supervisor's end of the socket to its keeper.
#[derive(Debug)]
pub struct KeeperLink {
    socket: RefCell<OwnedFd>,
    /// What the full socket did not take; bounded by the number of containers.
    owed: RefCell<VecDeque<Message>>,
    owing: Rc<tokio::sync::Notify>,
}

impl KeeperLink {
    /// Takes the inherited socket and reads, blocking, the exits that are kept.
    ///
    /// # Errors
    /// The keeper is gone already.
    pub fn open(socket: OwnedFd) -> anyhow::Result<(KeeperLink, Vec<KeptExit>)> {
        let mut kept = Vec::new();
        loop {
            match receive(&socket).context("receive from the keeper")? {
                Some(Message::Exit(exit)) => kept.push(exit),
                Some(Message::Synced(_)) => break,
                Some(_) => {}
                None => anyhow::bail!("the keeper is gone"),
            }
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        let link = KeeperLink { socket: socket.into(), owed: RefCell::default(), owing: Rc::default() };
        Ok((link, kept))
    }

    /// Tells the keeper that start-up has succeeded.
    pub fn ready(&self) {
        self.tell(Message::Ready(true));
    }

    /// Tells the keeper that an exit is durable.
    pub fn recorded(&self, pid: i32, start_time: u64) {
        self.tell(Message::Recorded((pid, start_time)));
    }

    /// Has the keeper keep an exit that cannot be written down, until it is.
    pub fn keep(&self, exit: KeptExit) {
        self.tell(Message::Exit(exit));
    }

    fn tell(&self, message: Message) {
        self.owed.borrow_mut().push_back(message);
        self.flush();
        if self.owes() {
            self.owing.notify_one();
        }
    }

    /// Sends what is owed, as far as the socket takes it.
    fn flush(&self) {
        let mut owed = self.owed.borrow_mut();
        while let Some(message) = owed.front() {
            match send(&self.socket.borrow(), message) {
                Ok(()) => drop(owed.pop_front()),
                Err(Errno::AGAIN) => return,
                // A dead keeper wants nothing; its end of file is noticed by whoever listens.
                Err(_) => owed.clear(),
            }
        }
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.owed.borrow().is_empty()
    }

    /// Wakes when something begins to wait to be sent.
    #[must_use]
    pub fn owing(&self) -> Rc<tokio::sync::Notify> {
        self.owing.clone()
    }

    /// A second descriptor of the socket, for the loop to wait on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn waitable(&self) -> std::io::Result<OwnedFd> {
        self.socket.borrow().try_clone()
    }

    /// Goes on with another keeper, which knows nothing yet.
    pub fn replace(&self, socket: OwnedFd) {
        self.owed.borrow_mut().clear();
        self.socket.replace(socket);
        self.ready();
    }

    /// Asks for everything that has ended by now; [`Heard::Synced`] says that it was told.
    pub fn sync(&self) {
        self.tell(Message::Sync(true));
    }

    /// The next thing that the keeper says, without waiting.
    #[must_use]
    pub fn hear(&self) -> Heard {
        self.flush();
        let received = receive(&self.socket.borrow());
        match received {
            Ok(Some(Message::Exit(exit))) => Heard::Exit(exit),
            Ok(Some(_)) => Heard::Synced,
            Err(Errno::AGAIN) => Heard::Nothing,
            Ok(None) | Err(_) => Heard::Gone,
        }
    }
}

/// The descriptors that a supervisor inherits.
#[derive(Debug)]
pub struct Inherited {
    /// To the keeper.
    pub keeper: OwnedFd,
    /// Listens for RPC.
    pub rpc: OwnedFd,
    /// Listens for descriptors.
    pub stdio: OwnedFd,
    /// The lock on the state directory.
    pub lock: OwnedFd,
}

impl Inherited {
    /// Takes the descriptors that [`FDS_VARIABLE`] names. Must be called once, before any thread is started.
    ///
    /// # Errors
    /// The variable is missing: somebody else than a keeper called.
    pub fn take() -> anyhow::Result<Inherited> {
        let numbers = std::env::var(FDS_VARIABLE).context("a supervisor is started by its keeper, not by hand")?;
        let numbers: Vec<RawFd> = numbers.split(',').map(str::parse).collect::<Result<_, _>>().context(FDS_VARIABLE)?;
        let take = |index: usize| handover::take(FDS_VARIABLE, *numbers.get(index).context(FDS_VARIABLE)?);
        Ok(Inherited { keeper: take(0)?, rpc: take(1)?, stdio: take(2)?, lock: take(3)? })
    }
}
