//! Taking over the containers, and their execs, that an earlier supervisor of the same state root left.
//!
//! | found | becomes |
//! | --- | --- |
//! | exit file | stopped, with that exit |
//! | process alive, same start time | running (or created), watched; the keeper is its parent now and reaps it |
//! | the same, but no keeper was there either | as above; its status is read from the zombie, or from the kernel (6.15) |
//! | process gone, the keeper knows | stopped, with the keeper's record |
//! | process gone, the keeper does not know yet | asked again; by then it has reaped and tells |
//! | process gone, nobody knows | stopped, 255, with the reason |
//! | no pid file | half made: killed by its cgroup and removed; of an exec only the folder is removed |
//! | note of a removal | removed: those of its hooks that did not run to their end have their turn |
//!
//! Execs are taken over in the same way, before their container's exit is told.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use brood_launcher::state::{
    ContainerDir, ContainerState, ExitRecord, INIT, Manager, PidRecord, ProcStat, ProcessDir, StartSocket, StateError,
    is_namespace_init, now_ns, open_process,
};

use super::{Files, Reaper, Record, Supervisor};
use crate::keeper::{Heard, KeptExit};
use crate::registry::{Event, Found, Instance, ProcessCommand};

/// By pid and start time.
type KeptExits<'a> = HashMap<(i32, u64), &'a KeptExit>;

/// What an earlier supervisor left of one process.
struct Remains {
    pid: PidRecord,
    /// Of a process that lives.
    pidfd: Option<OwnedFd>,
    parked: bool,
    reaper: Reaper,
    /// As recorded.
    exit: Option<ExitRecord>,
}

impl Remains {
    /// Fails when there is no pid file: it was not cloned, or nobody knows.
    fn of(dir: &ProcessDir, start_socket: &StartSocket) -> Result<Remains, StateError> {
        let pid = dir.read_pid()?;
        let exit = dir.read_exit().ok();
        let pidfd = if exit.is_some() { None } else { open_process(pid) };
        let keeper = nix::unistd::getppid().as_raw();
        let reaper = match ProcStat::read(pid.pid) {
            Some(stat) if pidfd.is_some() && stat.parent != keeper => Reaper::Stranger,
            _ => Reaper::Keeper,
        };
        Ok(Remains { pid, pidfd, parked: start_socket.exists(), reaper, exit })
    }

    fn found(&self) -> Found {
        Found { pid: self.pid.pid, parked: self.parked, exit: self.exit.clone() }
    }
}

/// The execs of a container; folders of those that were never cloned are removed.
fn execs_of(dir: &ContainerDir, id: &str) -> Vec<(String, Remains)> {
    let names = dir.execs().unwrap_or_else(|error| {
        tracing::warn!(container = id, %error, "execs are left alone");
        Vec::new()
    });
    let found = names.into_iter().filter_map(|name| {
        let exec = dir.process(&name);
        match Remains::of(&exec, &exec.start_socket()) {
            Ok(remains) => Some((name, remains)),
            Err(_) => {
                tracing::warn!(container = id, process = name, "half made: removed");
                let _ = exec.remove();
                None
            }
        }
    });
    found.collect()
}

impl Supervisor {
    /// Takes over what is there. `kept` are the exits that the keeper has seen meanwhile.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn recover(self: &Rc<Self>, kept: &[KeptExit]) -> Result<usize, StateError> {
        let kept: KeptExits<'_> = kept.iter().map(|exit| ((exit.pid, exit.start_time), exit)).collect();
        let mut adopted = 0;
        drop(self.sweep());
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

    fn adopt(self: &Rc<Self>, dir: ContainerDir, state: ContainerState, kept: &KeptExits<'_>) {
        let id = state.id.clone();
        let Ok(init) = Remains::of(&dir.process(INIT), &dir.start_socket()) else {
            return self.clear_away(dir, state, "half made");
        };
        let removing = dir.removal_has_begun();
        if removing && init.exit.is_none() {
            // Nobody was told of it: a launch that failed.
            return self.clear_away(dir, state, "half removed");
        }
        let execs = execs_of(&dir, &id);
        // A namespace's first process is the last one in there: with a live exec, a dead init process was none.
        let owns_pid_namespace = match init.pidfd {
            Some(_) => is_namespace_init(init.pid.pid),
            None => !execs.iter().any(|(_, exec)| exec.pidfd.is_some()),
        };
        let container = self.core.borrow_mut().adopt(&id, state.auto_remove, owns_pid_namespace, init.found());
        for (name, exec) in execs {
            let instance = self.core.borrow_mut().adopt_exec(container, &name, exec.found());
            self.enter(instance, exec, Files::of_exec(&id, &name, dir.process(&name)), kept);
        }
        self.enter(container, init, Files::of_init(dir, state), kept);
        if removing {
            // Nobody waits for the answer any more. Hooks that did not run to their end run again.
            drop(self.ask(container, ProcessCommand::Delete { force: true }));
        }
    }

    /// Writes down what was found, and watches it or tells how it ended.
    fn enter(self: &Rc<Self>, instance: Instance, remains: Remains, files: Files, kept: &KeptExits<'_>) {
        let Remains { pid, pidfd, reaper, exit, .. } = remains;
        let watched = pidfd.is_some();
        if let Some(pidfd) = &pidfd
            && let Err(error) = self.exits.watch(pidfd.as_fd(), instance.0)
        {
            tracing::error!(container = files.id, process = files.name, %error, "cannot watch");
        }
        let record = Record { files, pid: pid.pid, start_time: pid.start_time, pidfd, reaper };
        self.records.borrow_mut().insert(instance, record);
        if watched || exit.is_some() {
            return;
        }
        match kept.get(&(pid.pid, pid.start_time)) {
            Some(kept) => self.event(instance, Event::Exited(kept.exit.clone())),
            // Perhaps it ended a moment ago and the keeper has it on its list.
            None => self.unaccounted.borrow_mut().push(instance),
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

    /// The keeper reaped a process that it had inherited: one that was adopted, or somebody's orphan.
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
