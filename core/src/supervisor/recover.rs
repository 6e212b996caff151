//! Taking over the containers that an earlier supervisor of the same state root left.
//!
//! | found | becomes |
//! | --- | --- |
//! | exit file | stopped, with that exit |
//! | process alive, same start time | running (or created), watched; the keeper is its parent now and reaps it |
//! | the same, but no keeper was there either | as above; its status is read from the zombie, or from the kernel (6.15) |
//! | process gone, the keeper knows | stopped, with the keeper's record |
//! | process gone, the keeper does not know yet | asked again; by then it has reaped and tells |
//! | process gone, nobody knows | stopped, 255, with the reason |
//! | no pid file | half made: killed by its cgroup and removed |

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::Rc;

use brood_launcher::state::{
    ContainerDir, ContainerState, ExitRecord, INIT, Manager, ProcStat, START_SOCKET, StateError, StateRoot, now_ns,
    open_process,
};

use super::{Reaper, Record, Supervisor};
use crate::keeper::{Heard, KeptExit};
use crate::registry::Event;

/// Removes what embedded supervisors left that were killed, and reservations that were never completed.
pub fn sweep(root: &StateRoot) {
    root.sweep();
    for id in root.list().unwrap_or_default() {
        let Ok(dir) = root.find(&id) else { continue };
        let Ok(state) = dir.read_state() else { continue };
        if state.manager == Manager::Embedded && state.embedded_in.and_then(open_process).is_none() {
            // Its processes died with the supervisor; the cgroup says when they are gone.
            if let Err(failure) = super::act::remove(&dir, &state) {
                tracing::warn!(container = id, %failure, "left by a command that was killed");
            }
        }
    }
}

impl Supervisor {
    /// Takes over what is there. `kept` are the exits that the keeper has seen meanwhile.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn recover(self: &Rc<Self>, kept: &[KeptExit]) -> Result<usize, StateError> {
        let kept: HashMap<(i32, u64), &KeptExit> =
            kept.iter().map(|exit| ((exit.pid, exit.start_time), exit)).collect();
        let mut adopted = 0;
        sweep(&self.settings.root);
        for id in self.settings.root.list()? {
            let Ok(dir) = self.settings.root.find(&id) else { continue };
            match dir.read_state() {
                // Its exit may be among those kept; all of them are durable or nobody's when this loop is through.
                Ok(state) if state.manager == Manager::Daemon => {
                    self.adopt(dir, state, &kept);
                    adopted += 1;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(container = id, %error, "left alone"),
            }
        }
        if let Some(keeper) = &self.keeper {
            kept.values().for_each(|exit| keeper.recorded(exit.pid, exit.start_time));
            keeper.sync();
        }
        Ok(adopted)
    }

    fn adopt(self: &Rc<Self>, dir: ContainerDir, state: ContainerState, kept: &HashMap<(i32, u64), &KeptExit>) {
        let id = state.id.clone();
        let init = dir.process(INIT);
        let Ok(pid) = init.read_pid() else {
            tracing::warn!(container = id, "half made: removed");
            if let Err(failure) = super::act::remove(&dir, &state) {
                tracing::warn!(container = id, %failure, "remove");
            }
            return;
        };
        let known = init.read_exit().ok();
        let pidfd = if known.is_some() { None } else { open_process(pid) };
        let parked = dir.path().join(START_SOCKET).exists();
        let keeper = nix::unistd::getppid().as_raw();
        let reaper = match ProcStat::read(pid.pid) {
            Some(stat) if pidfd.is_some() && stat.parent != keeper => Reaper::Stranger,
            _ => Reaper::Keeper,
        };
        let auto_remove = state.auto_remove;
        let record = |pidfd| Record { dir, state, pid: pid.pid, start_time: pid.start_time, pidfd, reaper };
        let instance = self.core.borrow_mut().adopt(&id, pid.pid, parked, auto_remove, known.clone());
        match (known, pidfd) {
            (Some(_), _) => drop(self.records.borrow_mut().insert(instance, record(None))),
            (None, Some(pidfd)) => {
                if let Err(error) = self.exits.watch(pidfd.as_fd(), instance.0) {
                    tracing::error!(container = id, %error, "cannot watch");
                }
                self.records.borrow_mut().insert(instance, record(Some(pidfd)));
            }
            (None, None) => {
                self.records.borrow_mut().insert(instance, record(None));
                match kept.get(&(pid.pid, pid.start_time)) {
                    Some(kept) => self.event(instance, Event::Exited(kept.exit.clone())),
                    // Perhaps it ended a moment ago and the keeper has it on its list.
                    None => self.unaccounted.borrow_mut().push(instance),
                }
            }
        }
    }

    /// Whether something waits to be sent to the keeper.
    #[must_use]
    pub fn owes_keeper(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.owes())
    }

    /// Wakes when something begins to wait to be sent to the keeper.
    pub async fn owing(&self) {
        match self.keeper.as_ref().map(|keeper| keeper.owing()) {
            Some(owing) => owing.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what the keeper has to tell; false when it is gone.
    #[must_use]
    pub fn hear_keeper(self: &Rc<Self>) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        loop {
            match keeper.hear() {
                Heard::Exit(kept) => self.kept_exit(&kept),
                Heard::Synced => self.give_up_unaccounted(),
                Heard::Nothing => return true,
                Heard::Gone => {
                    self.give_up_unaccounted();
                    return false;
                }
            }
        }
    }

    /// The keeper reaped a process that it had inherited: an adopted container's, or somebody's orphan.
    fn kept_exit(self: &Rc<Self>, kept: &KeptExit) {
        let instance = self.records.borrow().iter().find_map(|(instance, record)| {
            let same = record.pid == kept.pid && record.start_time == kept.start_time;
            (same && record.reaper != Reaper::Us).then_some(*instance)
        });
        if let Some(instance) = instance {
            // Once the exit is durable, `Reap` tells the keeper.
            self.event(instance, Event::Exited(kept.exit.clone()));
        } else if let Some(keeper) = &self.keeper {
            keeper.recorded(kept.pid, kept.start_time);
        }
    }

    /// All that anybody knows has been told: what is still missing is lost, and said to be lost.
    fn give_up_unaccounted(self: &Rc<Self>) {
        for instance in self.unaccounted.take() {
            let exit = ExitRecord::unknown("it ended while neither supervisor nor keeper was there", now_ns());
            // The core takes only the first exit of a process.
            self.event(instance, Event::Exited(exit));
        }
    }
}
