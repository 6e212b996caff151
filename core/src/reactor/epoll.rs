//! Exits by epoll: one entry per process in a set of our own, the set's descriptor in the loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::ExitSource;
use crate::limits::EXITS_PER_TURN;

/// The set.
pub(super) struct EpollSource {
    set: OwnedFd,
}

impl EpollSource {
    pub(super) fn new() -> std::io::Result<EpollSource> {
        Ok(EpollSource { set: epoll::create(CreateFlags::CLOEXEC)? })
    }
}

impl AsFd for EpollSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

impl ExitSource for EpollSource {
    fn watch(&mut self, pidfd: BorrowedFd<'_>, token: u64) -> std::io::Result<()> {
        // One shot: a pidfd stays readable until the process is reaped, which is later. It leaves the set when closed.
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        Ok(epoll::add(&self.set, pidfd, EventData::new_u64(token), flags)?)
    }

    fn take(&mut self, tokens: &mut Vec<u64>, limit: usize) -> std::io::Result<()> {
        let nothing = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [nothing; EXITS_PER_TURN];
        while tokens.len() < limit {
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            let count = epoll::wait(&self.set, &mut events[..], Some(&now))?;
            tokens.extend(events.iter().take(count).map(|event| event.data.u64()));
            if count < events.len() {
                break;
            }
        }
        Ok(())
    }
}
