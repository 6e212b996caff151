//! Taking over what an earlier supervisor left: the decisions. What was found, in files, in the kernel and with the
//! keeper, is said by [`Remains`]; nothing here looks for itself.
//!
//! | found | becomes |
//! | --- | --- |
//! | exit file | stopped, with that exit; or being removed, if that was ordered |
//! | process alive, same start time | running (or created, or paused), watched; the keeper is its parent now and reaps it |
//! | the same, but no keeper was there either | as above; its status is read from the zombie, or from the kernel (6.15) |
//! | process gone, the keeper knows | the keeper's exit is told now |
//! | process gone, the keeper does not know yet | asked again; by then it has reaped and tells |
//! | process gone, nobody knows | stopped, 255, with the reason |
//! | it ended before its program began, and nobody had been told of it | undone: a creation that failed |
//!
//! An exit is in the journal before it is in its file; whoever takes over puts it there, should
//! a supervisor have died between the two.
//!
//! Execs are taken over in the same way, before their container's exit is told. What has no pid file is half made, and
//! not taken over.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use brood_launcher::state::PidRecord;

use super::life::{Life, Pace, Phase, Role};
use super::{Adopted, ContainerRemains, Instance, Kept, Reaper, Registry, Remains, Standing};

fn standing(remains: &Remains, kept: &Kept<'_>) -> Standing {
    match (&remains.exit, kept.get(&remains.process)) {
        (Some(exit), _) => Standing::Told(exit.clone()),
        (None, _) if remains.lives => Standing::Alive,
        (None, Some(&kept)) => Standing::Ended(kept.clone()),
        (None, None) => Standing::Unaccounted,
    }
}

fn phase(remains: &Remains, standing: &Standing, paused: bool) -> Phase {
    match standing {
        Standing::Told(exit) if remains.auto_remove => {
            Phase::Removing { replies: Vec::new(), exit: Some(exit.clone()), failure: None, begun: false }
        }
        Standing::Told(exit) => Phase::Stopped(exit.clone()),
        Standing::Alive | Standing::Ended(_) | Standing::Unaccounted if remains.parked => Phase::Created,
        Standing::Alive if paused => Phase::Running(Pace::Paused),
        Standing::Alive | Standing::Ended(_) | Standing::Unaccounted => Phase::Running(Pace::Going),
    }
}

fn lives_on(remains: &Remains) -> bool {
    remains.lives && remains.exit.is_none()
}

impl Registry {
    /// Takes over a container and its execs, these first in the result. The caller enters what it needs to act on them,
    /// and then hands [`Adopted::event`] of each to [`Registry::handle`], in this order.
    pub fn take_over(&mut self, found: ContainerRemains, kept: &Kept<'_>) -> Vec<Adopted> {
        let ContainerRemains { id, init, leads_namespace, paused, execs } = found;
        // A namespace's first process is the last one in there: with a live exec, a dead init process was none.
        let own_pid_namespace =
            if lives_on(&init) { leads_namespace } else { !execs.iter().any(|(_, exec)| lives_on(exec)) };
        let role = Role::Init { execs: BTreeMap::new(), own_pid_namespace };
        // Whoever made an exec in it knew of it.
        let init = Remains { untold: init.untold && execs.is_empty(), ..init };
        let container = self.adopt(&id, role, &init, paused, kept);
        self.by_id.insert(id, container.instance);
        let mut adopted = Vec::with_capacity(execs.len() + 1);
        for (name, exec) in execs {
            let exec = self.adopt(&name, Role::Exec { container: container.instance }, &exec, false, kept);
            self.enter_exec(container.instance, &name, exec.instance);
            adopted.push(exec);
        }
        adopted.push(container);
        adopted
    }

    fn adopt(&mut self, name: &str, role: Role, remains: &Remains, paused: bool, kept: &Kept<'_>) -> Adopted {
        let standing = standing(remains, kept);
        let phase = phase(remains, &standing, paused);
        let mut life = Life::new(name.to_owned(), role, phase, remains.process.pid, remains.auto_remove);
        life.untold = remains.untold;
        let instance = self.insert(life);
        let reaper = if lives_on(remains) && !remains.of_keeper { Reaper::Stranger } else { Reaper::Keeper };
        Adopted { instance, standing, reaper }
    }
}

/// Processes of earlier supervisors whose exits have not been told, and who is to tell them.
#[derive(Debug, Default)]
pub struct Inherited {
    by_process: HashMap<PidRecord, Instance>,
    /// Gone; the keeper has been asked.
    unaccounted: BTreeSet<Instance>,
    /// Seen to have ended; the keeper reaps them and tells.
    awaited: BTreeSet<Instance>,
}

impl Inherited {
    /// Enters one that was taken over.
    pub fn enter(&mut self, process: PidRecord, adopted: &Adopted) {
        if matches!(adopted.standing, Standing::Told(_)) {
            return;
        }
        self.by_process.insert(process, adopted.instance);
        if adopted.standing == Standing::Unaccounted {
            self.unaccounted.insert(adopted.instance);
        }
    }

    /// Those whose exit has not been told.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_process.len()
    }

    /// Whose exit the keeper tells; `None` for somebody's orphan, of which it need not keep anything.
    #[must_use]
    pub fn find(&self, process: PidRecord) -> Option<Instance> {
        self.by_process.get(&process).copied()
    }

    /// This one has ended, and the keeper will say how, unless it dies before.
    pub fn await_keeper(&mut self, instance: Instance) {
        self.awaited.insert(instance);
    }

    /// Its exit is durable.
    pub fn told(&mut self, process: PidRecord) {
        if let Some(instance) = self.by_process.remove(&process) {
            self.unaccounted.remove(&instance);
            self.awaited.remove(&instance);
        }
    }

    /// The keeper has told all that it knows, and nobody knows how these ended.
    pub fn give_up(&mut self) -> BTreeSet<Instance> {
        std::mem::take(&mut self.unaccounted)
    }

    /// The keeper is gone: nobody will tell how these ended, but the kernel may.
    pub fn awaited(&mut self) -> BTreeSet<Instance> {
        std::mem::take(&mut self.awaited)
    }
}
