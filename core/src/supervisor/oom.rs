//! Containers that run out of memory: one inotify instance for all of cgroup v2, one eventfd for all of v1, and no
//! descriptor for a container.
//!
//! | host | notice | then looked at |
//! | --- | --- | --- |
//! | v2 | `memory.events` is modified, of each container | the counter of the container that the notice names |
//! | v1 | the eventfd, of containers with a limit of their own; before the kill, and when a cgroup is removed | all of these |
//!
//! Either way the counter is read once more when the init process or an exec has ended, so that nothing is missed: an OOM
//! kill is told before the exit that comes of it. Without notices (no inotify watch left) that is when it is told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use brood_launcher::cgroup::{Cgroups, OomWatch, OutOfMemory};
use rustix::event::EventfdFlags;
use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Supervisor;
use crate::registry::{Event, Instance};
use crate::watch::watch;

/// v1's notice comes before the kill that it is about: how long after it the counters are looked at again, until one of
/// them has changed.
const LOOKS_AGAIN_MS: [u64; 5] = [2, 10, 50, 250, 1000];

/// Bytes of notices taken from inotify at a time; each is 16 without a name.
const NOTICES_BYTES: usize = 4096;

/// The containers whose memory is counted.
pub(super) struct OomNotices {
    modified: AsyncFd<OwnedFd>,
    signalled: AsyncFd<OwnedFd>,
    containers: RefCell<Containers>,
}

#[derive(Default)]
struct Containers {
    watched: HashMap<Instance, Watched>,
    by_watch: HashMap<i32, Instance>,
    /// Signals of the eventfd that are due to cgroups which are being removed, and tell nothing else.
    expected: u64,
}

struct Watched {
    cgroups: Cgroups,
    by: Notice,
    /// The counter, as far as it has been told.
    told: u64,
}

enum Notice {
    Inotify(i32),
    Eventfd,
    /// Only looked at when something ends.
    Nothing,
}

impl OomNotices {
    /// Must be called inside the runtime.
    pub(super) fn new() -> std::io::Result<OomNotices> {
        let modified = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let signalled = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(OomNotices {
            modified: watch(modified, Interest::READABLE)?,
            signalled: watch(signalled, Interest::READABLE)?,
            containers: RefCell::default(),
        })
    }

    /// Begins to watch a container, of which `told` has been told.
    fn enter(&self, instance: Instance, cgroups: Cgroups, told: u64) {
        let Some(by) = cgroups.oom_watch() else { return };
        let by = self.subscribe(&cgroups, &by).unwrap_or_else(|error| {
            tracing::debug!(%error, "out of memory is told at the exit only");
            Notice::Nothing
        });
        let mut containers = self.containers.borrow_mut();
        if let Notice::Inotify(number) = by {
            containers.by_watch.insert(number, instance);
        }
        containers.watched.insert(instance, Watched { cgroups, by, told });
    }

    fn subscribe(&self, cgroups: &Cgroups, by: &OomWatch) -> anyhow::Result<Notice> {
        match by {
            OomWatch::Modified(path) => {
                Ok(Notice::Inotify(inotify::add_watch(self.modified.as_fd(), path, inotify::WatchFlags::MODIFY)?))
            }
            OomWatch::Eventfd(_) if !cgroups.has_memory_limit() => Ok(Notice::Nothing),
            OomWatch::Eventfd(_) => {
                by.signal(self.signalled.as_fd())?;
                Ok(Notice::Eventfd)
            }
        }
    }

    /// It is about to be removed.
    pub(super) fn leave(&self, instance: Instance) {
        let mut containers = self.containers.borrow_mut();
        let Some(Watched { cgroups, by, .. }) = containers.watched.remove(&instance) else { return };
        match by {
            Notice::Inotify(number) => {
                containers.by_watch.remove(&number);
                // Gone already with its file, on newer kernels.
                let _ = inotify::remove_watch(self.modified.as_fd(), number);
            }
            Notice::Eventfd if cgroups.with("memory").is_some_and(|memory| memory.made.is_some()) => {
                containers.expected += 1;
            }
            Notice::Eventfd | Notice::Nothing => {}
        }
    }

    /// Whether it has run out of memory since that was last told, with what its counter says now, if that was just read.
    fn is_news(&self, instance: Instance, read: Option<OutOfMemory>) -> bool {
        let mut containers = self.containers.borrow_mut();
        let Some(watched) = containers.watched.get_mut(&instance) else { return false };
        let now = read.or_else(|| watched.cgroups.out_of_memory()).unwrap_or_default().count();
        let news = now > watched.told;
        watched.told = watched.told.max(now);
        news
    }

    /// Waits for notices, and returns the containers that they may be about, and whether the kill may be yet to come.
    async fn next(&self) -> std::io::Result<(Vec<Instance>, bool)> {
        tokio::select! {
            ready = self.modified.readable() => {
                ready?.clear_ready();
                Ok((self.modified_ones()?, false))
            }
            ready = self.signalled.readable() => {
                ready?.clear_ready();
                Ok((self.signalled_ones()?, true))
            }
        }
    }

    fn modified_ones(&self) -> std::io::Result<Vec<Instance>> {
        let mut about = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); NOTICES_BYTES];
        let mut notices = inotify::Reader::new(self.modified.as_fd(), &mut buffer);
        let containers = self.containers.borrow();
        loop {
            match notices.next() {
                Ok(notice) if notice.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                    about.extend(containers.watched.keys());
                }
                // One that was left meanwhile is not known any more.
                Ok(notice) => about.extend(containers.by_watch.get(&notice.wd())),
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        about.sort_unstable();
        about.dedup();
        Ok(about)
    }

    fn signalled_ones(&self) -> std::io::Result<Vec<Instance>> {
        let mut count = [0; 8];
        match rustix::io::read(self.signalled.get_ref(), &mut count) {
            Err(Errno::AGAIN) => return Ok(Vec::new()),
            read => read?,
        };
        let mut containers = self.containers.borrow_mut();
        let signals = u64::from_ne_bytes(count);
        if signals <= containers.expected {
            // One that was no removal is made up for by the removal's own signal, and at the exit at the latest.
            containers.expected -= signals;
            return Ok(Vec::new());
        }
        containers.expected = 0;
        let signalled = containers.watched.iter().filter(|(_, watched)| matches!(watched.by, Notice::Eventfd));
        Ok(signalled.map(|(instance, _)| *instance).collect())
    }
}

impl Supervisor {
    /// Begins to watch a container that has just been cloned.
    pub(super) fn watch_memory(&self, instance: Instance, cgroups: &Cgroups) {
        self.oom.enter(instance, cgroups.clone(), 0);
    }

    /// The same of one that was taken over. What an earlier supervisor may not have told is told now.
    pub(super) fn watch_adopted_memory(self: &Rc<Self>, instance: Instance, id: &str, cgroups: &Cgroups) {
        let told = if self.journal.borrow().tells_of_oom(id) { cgroups.out_of_memory() } else { None };
        self.oom.enter(instance, cgroups.clone(), told.unwrap_or_default().count());
    }

    /// The cgroups, or the limits, have changed.
    pub(super) fn watch_memory_anew(&self, instance: Instance, cgroups: &Cgroups) {
        let told = self.oom.containers.borrow().watched.get(&instance).map_or(0, |watched| watched.told);
        let subscribed = self
            .oom
            .containers
            .borrow()
            .watched
            .get(&instance)
            .is_some_and(|watched| !matches!(watched.by, Notice::Nothing) && watched.cgroups == *cgroups);
        if !subscribed {
            self.oom.leave(instance);
            self.oom.enter(instance, cgroups.clone(), told);
        }
    }

    /// Tells that a container is out of memory, if it is and that was not told. True when it was. `read` is what its
    /// counter says, if that was just read.
    pub(super) fn tell_oom(self: &Rc<Self>, instance: Instance, read: Option<OutOfMemory>) -> bool {
        let news = self.oom.is_news(instance, read);
        if news {
            self.event(instance, Event::OutOfMemory);
        }
        news
    }

    pub(super) async fn watch_oom(self: Rc<Self>) {
        loop {
            match self.oom.next().await {
                Ok((about, early)) => {
                    if !self.tell_all_oom(&about) && early && !about.is_empty() {
                        tokio::task::spawn_local(self.clone().look_again(about));
                    }
                }
                Err(error) => return tracing::error!(%error, "out of memory is told at the exit only"),
            }
        }
    }

    /// True when at least one of them was told.
    fn tell_all_oom(self: &Rc<Self>, about: &[Instance]) -> bool {
        about.iter().filter(|instance| self.tell_oom(**instance, None)).count() > 0
    }

    async fn look_again(self: Rc<Self>, about: Vec<Instance>) {
        for pause in LOOKS_AGAIN_MS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.tell_all_oom(&about) {
                return;
            }
        }
    }
}
