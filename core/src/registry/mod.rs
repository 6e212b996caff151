//! The pure core: every process's state, and what each input means for it.
//!
//! A container is its init process; an exec has the same life ([`life`]) inside of one.
//!
//! ```text
//!   create --> Creating --parked--> Created --start--> Starting --execve--> Running
//!                 |  |                 |                  |                  ^ |
//!                 |  +---- running ----|------------------|------------------+ |
//!                 |                    +------- exit -----+------- exit -------+
//!         set-up failed                                   v
//!                 |                                    Stopped
//!                 v                                       | delete
//!              Failing --exit--> Removing <---------------+
//!                                   +--removed--> (name free)
//! ```
//!
//! [`Registry::handle`] takes an input and returns effects, in the order in which they must happen. There is no clock,
//! no I/O and no waiting here: [`crate::supervisor`] is the only one that acts. Two rules are kept by the order alone:
//! an exit is recorded before anybody is told of it, and a process's start is published before its exit.
//!
//! Between a container and its execs: an exec is refused once the init process has ended. If the container has a pid
//! namespace of its own, the kernel ends the execs with the init process, and their exits are told before its own
//! ([`Registry::settle`]). If not, they may live on; they are killed when the container is removed. Either way nothing of
//! the container is removed before its execs have ended and been reaped.

mod life;
mod recovery;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use brood_launcher::state::{ExitRecord, Status};

use life::{Life, Pace, Phase, Role};
pub use recovery::Inherited;
pub use types::{
    Adopted, Command, ContainerRemains, Effect, Event, EventKind, Failure, FailureKind, Input, Instance, Kept,
    ProcessCommand, Reaper, Remains, Reply, Standing, Target, Ticket,
};

use crate::limits::{EXECS_MAX, EXECS_PER_CONTAINER_MAX};

/// All containers and their execs.
#[derive(Debug, Default)]
pub struct Registry {
    lives: HashMap<Instance, Life>,
    by_id: BTreeMap<String, Instance>,
    last_instance: u64,
}

impl Registry {
    /// Takes one input and returns what is to be done, in order.
    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Command(ticket, Command::Create { id, auto_remove }) => {
                self.create(ticket, id, auto_remove, &mut effects);
            }
            Input::Command(ticket, Command::Exec { target, id, auto_remove }) => {
                self.exec(ticket, target, id, auto_remove, &mut effects);
            }
            Input::Command(ticket, Command::Process(target, command)) => {
                self.command(ticket, target, command, &mut effects);
                self.settle(target, &mut effects);
            }
            Input::Abandon(ticket, instance) => {
                if let Some(life) = self.lives.get_mut(&instance) {
                    life.abandon(ticket);
                }
            }
            Input::Event(instance, event) => self.event(instance, event, &mut effects),
        }
        effects
    }

    /// Containers and execs that are registered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lives.len()
    }

    /// How many are on their way from one lasting state to another: being made, started or removed.
    #[must_use]
    pub fn changing(&self) -> usize {
        self.lives.values().filter(|life| life.is_changing()).count()
    }

    /// The container that has this name now.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Instance> {
        self.by_id.get(id).copied()
    }

    /// The exec of a container that has this name now.
    #[must_use]
    pub fn find_exec(&self, container: Instance, name: &str) -> Option<Instance> {
        self.exec_table(container)?.get(name).copied()
    }

    /// IDs and instances of the containers, sorted by ID.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Instance)> {
        self.by_id.iter().map(|(id, instance)| (id.as_str(), *instance))
    }

    /// Names and instances of a container's execs, sorted by name.
    pub fn execs(&self, container: Instance) -> impl Iterator<Item = (&str, Instance)> {
        let table = self.exec_table(container).into_iter().flatten();
        table.map(|(name, instance)| (name.as_str(), *instance))
    }

    /// Status, pid (0 when there is no process) and exit of a container or exec.
    #[must_use]
    pub fn look(&self, instance: Instance) -> Option<(Status, i32, Option<&ExitRecord>)> {
        let life = self.lives.get(&instance)?;
        Some(match &life.phase {
            Phase::Creating { .. } | Phase::Failing { .. } => (Status::Creating, life.pid, None),
            Phase::Created | Phase::Starting { .. } => (Status::Created, life.pid, None),
            Phase::Running(Pace::Going | Pace::Changing { to_paused: true, .. }) => (Status::Running, life.pid, None),
            Phase::Running(Pace::Paused | Pace::Changing { to_paused: false, .. }) => (Status::Paused, life.pid, None),
            Phase::Stopped(exit) => (Status::Stopped, 0, Some(exit)),
            Phase::Failed(_) => (Status::Stopped, 0, None),
            Phase::Removing { exit, .. } => (Status::Stopped, 0, exit.as_ref()),
        })
    }

    fn insert(&mut self, life: Life) -> Instance {
        self.last_instance += 1;
        let instance = Instance(self.last_instance);
        self.lives.insert(instance, life);
        instance
    }

    fn exec_table(&self, container: Instance) -> Option<&BTreeMap<String, Instance>> {
        match &self.lives.get(&container)?.role {
            Role::Init { execs, .. } => Some(execs),
            Role::Exec { .. } => None,
        }
    }

    fn enter_exec(&mut self, container: Instance, name: &str, exec: Instance) {
        if let Some(Life { role: Role::Init { execs, .. }, .. }) = self.lives.get_mut(&container) {
            execs.insert(name.to_owned(), exec);
        }
    }

    fn create(&mut self, ticket: Ticket, id: String, auto_remove: bool, effects: &mut Vec<Effect>) {
        if self.by_id.contains_key(&id) {
            let failure =
                Failure::new(FailureKind::AlreadyExists, format!("container with given ID already exists: {id}"));
            effects.push(Effect::Reply(ticket, Reply::Refused(failure)));
            return;
        }
        let role = Role::Init { execs: BTreeMap::new(), own_pid_namespace: false };
        let phase = Phase::Creating { reply: ticket, early_exit: None };
        let instance = self.insert(Life::new(id.clone(), role, phase, 0, auto_remove));
        self.by_id.insert(id, instance);
        effects.push(Effect::Launch(instance, ticket));
    }

    fn exec(&mut self, ticket: Ticket, container: Instance, id: String, auto_remove: bool, effects: &mut Vec<Effect>) {
        let refused = |failure| Effect::Reply(ticket, Reply::Refused(failure));
        let total = self.lives.len() - self.by_id.len();
        let Some(life) = self.lives.get(&container) else {
            effects.push(refused(not_found()));
            return;
        };
        let Role::Init { execs, .. } = &life.role else {
            effects.push(refused(not_found()));
            return;
        };
        if !life.takes_execs() {
            return life.refuse(ticket, "exec in", effects);
        }
        if execs.contains_key(&id) {
            let message = format!("exec {id} already exists in {life}");
            effects.push(refused(Failure::new(FailureKind::AlreadyExists, message)));
            return;
        }
        if execs.len() >= EXECS_PER_CONTAINER_MAX || total >= EXECS_MAX {
            let message = format!("{life}: more than {EXECS_PER_CONTAINER_MAX} execs, or {EXECS_MAX} in all");
            effects.push(refused(Failure::new(FailureKind::Overloaded, message)));
            return;
        }
        let phase = Phase::Creating { reply: ticket, early_exit: None };
        let instance = self.insert(Life::new(id.clone(), Role::Exec { container }, phase, 0, auto_remove));
        self.enter_exec(container, &id, instance);
        if let Some(life) = self.lives.get_mut(&container) {
            // Whoever asks for an exec knows of it, and is to be told the end of both.
            life.untold = false;
        }
        effects.push(Effect::Launch(instance, ticket));
    }

    fn command(&mut self, ticket: Ticket, target: Target, command: ProcessCommand, effects: &mut Vec<Effect>) {
        let Some(life) = self.lives.get_mut(&target) else {
            effects.push(Effect::Reply(ticket, Reply::Refused(not_found())));
            return;
        };
        match command {
            ProcessCommand::Start => life.start(ticket, target, effects),
            ProcessCommand::Wait => life.wait(ticket, effects),
            ProcessCommand::Kill { signal, all } => life.kill(ticket, target, signal, all, effects),
            ProcessCommand::Delete { force } => life.delete(ticket, target, force, effects),
            ProcessCommand::Pause => life.pause(ticket, target, effects),
            ProcessCommand::Resume => life.resume(ticket, target, effects),
        }
    }

    fn event(&mut self, instance: Instance, event: Event, effects: &mut Vec<Effect>) {
        let Some(life) = self.lives.get_mut(&instance) else { return };
        match event {
            Event::Cloned { pid, owns_pid_namespace } => {
                life.pid = pid;
                if let Role::Init { own_pid_namespace, .. } = &mut life.role {
                    *own_pid_namespace = owns_pid_namespace;
                }
            }
            Event::NotCloned(failure) => life.not_cloned(failure, effects),
            Event::SetUp { parked } => life.set_up(instance, parked, effects),
            Event::Restored => life.restored(instance, effects),
            Event::SetUpFailed(failure) => life.set_up_failed(instance, failure, effects),
            Event::Released(result) => life.released(instance, result, effects),
            Event::NotReleased(failure) => life.not_released(instance, failure, effects),
            Event::PaceChanged(result) => life.changed_pace(instance, result, effects),
            Event::Checkpointed => life.checkpointed(instance, effects),
            Event::OutOfMemory => life.out_of_memory(instance, effects),
            Event::Exited(exit) => life.exited(instance, exit, effects),
            // What had to wait, below, is all.
            Event::Adopted => {}
            Event::Removed(result) => {
                if life.removed(instance, result, effects) {
                    return self.drop_life(instance, effects);
                }
                // Those that were to go with it, if it is a container and stays.
                let execs: Vec<Instance> = self.execs(instance).map(|(_, exec)| exec).collect();
                execs.into_iter().for_each(|exec| self.begin_exec_removal(instance, exec, effects));
            }
        }
        self.settle(instance, effects);
    }

    /// Does what had to wait: a container tells its exit after those of its execs that end with it, and is removed after
    /// all of them are gone or have ended.
    fn settle(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        let Some(life) = self.lives.get_mut(&instance) else { return };
        let container = match life.role {
            Role::Init { .. } => instance,
            Role::Exec { container } => {
                life.tell_exit(instance, effects);
                container
            }
        };
        if instance != container {
            self.begin_exec_removal(container, instance, effects);
        }
        let waits = self.lives.get(&container).is_some_and(Life::waits_for_execs);
        if waits {
            self.settle_container(container, effects);
        }
    }

    fn settle_container(&mut self, container: Instance, effects: &mut Vec<Effect>) {
        let execs: Vec<Instance> = self.execs(container).map(|(_, exec)| exec).collect();
        let any = |lives: &HashMap<Instance, Life>, is: fn(&Life) -> bool| {
            execs.iter().any(|exec| lives.get(exec).is_some_and(is))
        };
        let (live, busy) = (any(&self.lives, Life::is_live), any(&self.lives, Life::is_busy));
        let Some(life) = self.lives.get_mut(&container) else { return };
        let held = live && matches!(life.role, Role::Init { own_pid_namespace: true, .. });
        if !held {
            life.tell_exit(container, effects);
        }
        if life.waits_for_removal() {
            if !busy {
                life.begin_removal(container, effects);
                return;
            }
            for exec in execs {
                if let Some(life) = self.lives.get_mut(&exec) {
                    life.doom(exec, effects);
                }
            }
        }
    }

    /// Begins the removal of an exec if it is to be removed, unless its container is being removed, and it with that.
    fn begin_exec_removal(&mut self, container: Instance, exec: Instance, effects: &mut Vec<Effect>) {
        let going = self.lives.get(&container).is_some_and(Life::is_going);
        if let Some(life) = self.lives.get_mut(&exec)
            && !going
        {
            life.begin_removal(exec, effects);
        }
    }

    /// It is gone for good, a container with what is kept of its execs.
    fn drop_life(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        match self.lives.remove(&instance) {
            Some(Life { name, role: Role::Init { execs, .. }, .. }) => {
                // The name may belong to a newer container only if this one had lost it, which it cannot.
                self.by_id.remove(&name);
                for exec in execs.into_values() {
                    effects.push(Effect::Forget(exec));
                    if let Some(life) = self.lives.remove(&exec) {
                        life.gone_with_container(effects);
                    }
                }
            }
            Some(Life { name, role: Role::Exec { container }, .. }) => {
                if let Some(Life { role: Role::Init { execs, .. }, .. }) = self.lives.get_mut(&container) {
                    execs.remove(&name);
                }
                self.settle(container, effects);
            }
            None => {}
        }
    }
}

fn not_found() -> Failure {
    Failure::new(FailureKind::NotFound, "container or exec does not exist".to_owned())
}
