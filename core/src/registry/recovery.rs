//! Taking over what an earlier supervisor left: the decisions. What was found, in files, in the kernel and with the
//! keeper, is said by [`Remains`]; nothing here looks for itself.
//!
//! | found | becomes |
//! | --- | --- |
//! | exit file, and the journal has that exit | stopped, with that exit; or being removed, if that was ordered |
//! | exit file, and the journal ends before it | the exit is told now: the supervisor died between the two |
//! | process alive, same start time | running (or created), watched; the keeper is its parent now and reaps it |
//! | the same, but no keeper was there either | as above; its status is read from the zombie, or from the kernel (6.15) |
//! | process gone, the keeper knows | the keeper's exit is told now |
//! | process gone, the keeper does not know yet | asked again; by then it has reaped and tells |
//! | process gone, nobody knows | stopped, 255, with the reason |
//!
//! Execs are taken over in the same way, before their container's exit is told. What has no pid file is half made, and
//! not taken over.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use brood_launcher::state::{ExitRecord, PidRecord};

use super::life::{Life, Phase, Role};
use super::{Event, Instance, Registry};

/// Whose child a process is, and so who reaps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaper {
    /// Launched by us.
    Us,
    /// Inherited from an earlier supervisor by the keeper, which tells us the status.
    Keeper,
    /// Inherited by somebody else while no daemon was there; the kernel tells, if it is new enough.
    Stranger,
}

/// A process that was written down.
#[derive(Clone, Debug)]
pub struct Remains {
    /// From its pid file.
    pub process: PidRecord,
    /// From its exit file, with the number that the journal was to give it.
    pub exit: Option<(ExitRecord, u64)>,
    /// It is there, perhaps as a zombie.
    pub lives: bool,
    /// The keeper is its parent.
    pub of_keeper: bool,
    /// It waits for its start.
    pub parked: bool,
    /// Remove it when it ends.
    pub auto_remove: bool,
}

/// A container that was written down.
#[derive(Clone, Debug)]
pub struct ContainerRemains {
    /// Its name.
    pub id: String,
    /// Its init process.
    pub init: Remains,
    /// The init process lives and is the first in a pid namespace.
    pub leads_namespace: bool,
    /// Its execs by name.
    pub execs: Vec<(String, Remains)>,
}

/// What others know of the processes.
#[derive(Debug)]
pub struct Known<'a> {
    /// What the keeper has seen.
    pub kept: HashMap<PidRecord, &'a ExitRecord>,
    /// Number of the last event in the journal.
    pub last_seq: u64,
}

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its exit was told.
    Told(ExitRecord),
    /// It is to be watched.
    Alive,
    /// Its exit is known, and to be told.
    Ended(ExitRecord),
    /// It is gone, and nobody has told how it ended; the keeper is asked once more.
    Unaccounted,
}

/// A process that was taken over.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What it is called from now on.
    pub instance: Instance,
    /// Where it stands.
    pub standing: Standing,
    /// Who reaps it.
    pub reaper: Reaper,
}

impl Adopted {
    /// What the core is to hear as soon as everything of the container is ready to be acted on.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        match &self.standing {
            Standing::Told(_) => Some(Event::Adopted),
            Standing::Ended(exit) => Some(Event::Exited(exit.clone())),
            Standing::Alive | Standing::Unaccounted => None,
        }
    }
}

impl Remains {
    fn standing(&self, known: &Known<'_>) -> Standing {
        match (&self.exit, known.kept.get(&self.process)) {
            (Some((exit, seq)), _) if *seq <= known.last_seq => Standing::Told(exit.clone()),
            (Some((exit, _)), _) => Standing::Ended(exit.clone()),
            (None, _) if self.lives => Standing::Alive,
            (None, Some(&kept)) => Standing::Ended(kept.clone()),
            (None, None) => Standing::Unaccounted,
        }
    }

    fn phase(&self, standing: &Standing) -> Phase {
        match standing {
            Standing::Told(exit) if self.auto_remove => {
                Phase::Removing { replies: Vec::new(), exit: Some(exit.clone()), failure: None, begun: false }
            }
            Standing::Told(exit) => Phase::Stopped(exit.clone()),
            Standing::Alive | Standing::Ended(_) | Standing::Unaccounted if self.parked => Phase::Created,
            Standing::Alive | Standing::Ended(_) | Standing::Unaccounted => Phase::Running,
        }
    }

    fn lives_on(&self) -> bool {
        self.lives && self.exit.is_none()
    }
}

impl Registry {
    /// Takes over a container and its execs, these first in the result. The caller enters what it needs to act on them,
    /// and then hands [`Adopted::event`] of each to [`Registry::handle`], in this order.
    pub fn take_over(&mut self, found: ContainerRemains, known: &Known<'_>) -> Vec<Adopted> {
        let ContainerRemains { id, init, leads_namespace, execs } = found;
        // A namespace's first process is the last one in there: with a live exec, a dead init process was none.
        let own_pid_namespace =
            if init.lives_on() { leads_namespace } else { !execs.iter().any(|(_, exec)| exec.lives_on()) };
        let role = Role::Init { execs: BTreeMap::new(), own_pid_namespace };
        let container = self.adopt(&id, role, &init, known);
        self.by_id.insert(id, container.instance);
        let mut adopted = Vec::with_capacity(execs.len() + 1);
        for (name, exec) in execs {
            let exec = self.adopt(&name, Role::Exec { container: container.instance }, &exec, known);
            self.enter_exec(container.instance, &name, exec.instance);
            adopted.push(exec);
        }
        adopted.push(container);
        adopted
    }

    fn adopt(&mut self, name: &str, role: Role, remains: &Remains, known: &Known<'_>) -> Adopted {
        let standing = remains.standing(known);
        let phase = remains.phase(&standing);
        let instance = self.insert(Life::new(name.to_owned(), role, phase, remains.process.pid, remains.auto_remove));
        let reaper = if remains.lives_on() && !remains.of_keeper { Reaper::Stranger } else { Reaper::Keeper };
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
