//! The pure core: every container's state, and what each input means for it.
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
//! an exit is recorded before anybody is told of it, and a container's start is published before its exit.

mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use brood_launcher::state::{ExitRecord, Status};

pub use types::{Command, Effect, Event, EventKind, Failure, FailureKind, Input, Instance, Reply, Target, Ticket};

use crate::limits::WAITERS_PER_CONTAINER_MAX;

/// Where a container is in its life. Each variant holds what exists only then.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Being prepared, cloned and set up.
    Creating {
        reply: Ticket,
        /// An exit that came before the set-up's end was known; it is told after the start.
        early_exit: Option<ExitRecord>,
    },
    /// Set-up failed; the child, if there is one, has yet to be reaped.
    Failing { reply: Ticket, failure: Failure },
    /// Waits for `start`.
    Created,
    /// Released, execve not yet reported.
    Starting { reply: Ticket, early_exit: Option<ExitRecord> },
    /// The program runs.
    Running,
    /// The init process is gone.
    Stopped(ExitRecord),
    /// What it held is being removed.
    Removing { replies: Vec<Ticket>, exit: Option<ExitRecord>, failure: Option<(Ticket, Failure)> },
}

/// One container.
#[derive(Clone, Debug)]
struct Container {
    id: String,
    phase: Phase,
    /// In the supervisor's pid namespace; 0 until cloned.
    pid: i32,
    auto_remove: bool,
    waiters: Vec<Ticket>,
    /// Forced deletions that wait for the exit.
    deleters: Vec<Ticket>,
}

/// All containers.
#[derive(Debug, Default)]
pub struct Registry {
    containers: HashMap<Instance, Container>,
    by_id: BTreeMap<String, Instance>,
    last_instance: u64,
}

impl Registry {
    /// Takes one input and returns what is to be done, in order.
    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Command(ticket, command) => self.command(ticket, command, &mut effects),
            Input::Abandon(ticket, instance) => {
                if let Some(container) = self.containers.get_mut(&instance) {
                    container.waiters.retain(|waiter| *waiter != ticket);
                }
            }
            Input::Event(instance, event) => self.event(instance, event, &mut effects),
        }
        effects
    }

    /// The instance that has this name now.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Instance> {
        self.by_id.get(id).copied()
    }

    /// IDs and instances, sorted by ID.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Instance)> {
        self.by_id.iter().map(|(id, instance)| (id.as_str(), *instance))
    }

    /// Status, pid (0 when there is no process) and exit of a container.
    #[must_use]
    pub fn look(&self, instance: Instance) -> Option<(Status, i32, Option<&ExitRecord>)> {
        let container = self.containers.get(&instance)?;
        Some(match &container.phase {
            Phase::Creating { .. } | Phase::Failing { .. } => (Status::Creating, container.pid, None),
            Phase::Created | Phase::Starting { .. } => (Status::Created, container.pid, None),
            Phase::Running => (Status::Running, container.pid, None),
            Phase::Stopped(exit) => (Status::Stopped, 0, Some(exit)),
            Phase::Removing { exit, .. } => (Status::Stopped, 0, exit.as_ref()),
        })
    }

    /// Takes over a container that an earlier supervisor left: with its exit when it has one.
    pub fn adopt(&mut self, id: &str, pid: i32, parked: bool, auto_remove: bool, exit: Option<ExitRecord>) -> Instance {
        let phase = match exit {
            Some(exit) => Phase::Stopped(exit),
            None if parked => Phase::Created,
            None => Phase::Running,
        };
        self.insert(id.to_owned(), phase, pid, auto_remove)
    }

    fn insert(&mut self, id: String, phase: Phase, pid: i32, auto_remove: bool) -> Instance {
        self.last_instance += 1;
        let instance = Instance(self.last_instance);
        self.by_id.insert(id.clone(), instance);
        let container = Container { id, phase, pid, auto_remove, waiters: Vec::new(), deleters: Vec::new() };
        self.containers.insert(instance, container);
        instance
    }

    fn command(&mut self, ticket: Ticket, command: Command, effects: &mut Vec<Effect>) {
        let target = match command {
            Command::Create { id, auto_remove } => {
                if self.by_id.contains_key(&id) {
                    let failure = Failure::new(
                        FailureKind::AlreadyExists,
                        format!("container with given ID already exists: {id}"),
                    );
                    effects.push(Effect::Reply(ticket, Reply::Refused(failure)));
                } else {
                    let phase = Phase::Creating { reply: ticket, early_exit: None };
                    let instance = self.insert(id, phase, 0, auto_remove);
                    effects.push(Effect::Launch(instance, ticket));
                }
                return;
            }
            Command::Start(target) | Command::Wait(target) => target,
            Command::Kill { target, .. } | Command::Delete { target, .. } => target,
        };
        let Some(container) = self.containers.get_mut(&target) else {
            let failure = Failure::new(FailureKind::NotFound, "container does not exist".to_owned());
            effects.push(Effect::Reply(ticket, Reply::Refused(failure)));
            return;
        };
        match command {
            Command::Create { .. } => {}
            Command::Start(_) => container.start(ticket, target, effects),
            Command::Wait(_) => container.wait(ticket, effects),
            Command::Kill { signal, all, .. } => container.kill(ticket, target, signal, all, effects),
            Command::Delete { force, .. } => container.delete(ticket, target, force, effects),
        }
    }

    fn event(&mut self, instance: Instance, event: Event, effects: &mut Vec<Effect>) {
        let Some(container) = self.containers.get_mut(&instance) else { return };
        match event {
            Event::Cloned { pid } => container.pid = pid,
            Event::NotCloned(failure) => container.not_cloned(instance, failure, effects),
            Event::SetUp { parked } => container.set_up(instance, parked, effects),
            Event::SetUpFailed(failure) => container.set_up_failed(instance, failure, effects),
            Event::Released(result) => container.released(instance, result, effects),
            Event::NotReleased(failure) => container.not_released(instance, failure, effects),
            Event::Exited(exit) => container.exited(instance, exit, effects),
            Event::Removed(result) => {
                if container.removed(instance, result, effects) {
                    let container = self.containers.remove(&instance);
                    // The name may belong to a newer container only if this one had lost it, which it cannot.
                    container.and_then(|container| self.by_id.remove(&container.id));
                }
            }
        }
    }
}

impl Container {
    fn refuse(&self, ticket: Ticket, verb: &str, effects: &mut Vec<Effect>) {
        let status = match self.phase {
            Phase::Creating { .. } | Phase::Failing { .. } => "being created",
            Phase::Created => "created, not started",
            Phase::Starting { .. } => "being started",
            Phase::Running => "running",
            Phase::Stopped(_) => "stopped",
            Phase::Removing { .. } => "being deleted",
        };
        let message = format!("cannot {verb} container {}: it is {status}", self.id);
        effects.push(Effect::Reply(ticket, Reply::Refused(Failure::new(FailureKind::WrongState, message))));
    }

    fn start(&mut self, ticket: Ticket, instance: Instance, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Created => {
                self.phase = Phase::Starting { reply: ticket, early_exit: None };
                effects.push(Effect::Release(instance));
            }
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Stopped(_)
            | Phase::Removing { .. } => self.refuse(ticket, "start", effects),
        }
    }

    fn wait(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Stopped(exit) | Phase::Removing { exit: Some(exit), .. } => {
                effects.push(Effect::Reply(ticket, Reply::Exit(exit.clone())));
            }
            Phase::Failing { failure, .. } | Phase::Removing { failure: Some((_, failure)), .. } => {
                effects.push(Effect::Reply(ticket, Reply::Refused(failure.clone())));
            }
            Phase::Removing { .. } => self.refuse(ticket, "wait for", effects),
            Phase::Creating { .. } | Phase::Created | Phase::Starting { .. } | Phase::Running => {
                if self.waiters.len() < WAITERS_PER_CONTAINER_MAX {
                    self.waiters.push(ticket);
                } else {
                    let message = format!("container {}: more than {WAITERS_PER_CONTAINER_MAX} waiters", self.id);
                    let failure = Failure::new(FailureKind::Overloaded, message);
                    effects.push(Effect::Reply(ticket, Reply::Refused(failure)));
                }
            }
        }
    }

    fn kill(&mut self, ticket: Ticket, instance: Instance, signal: i32, all: bool, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Created | Phase::Starting { .. } | Phase::Running => {
                effects.push(Effect::Signal { instance, signal, all, reply: Some(ticket) });
            }
            Phase::Creating { .. } | Phase::Failing { .. } | Phase::Stopped(_) | Phase::Removing { .. } => {
                self.refuse(ticket, "kill", effects);
            }
        }
    }

    fn delete(&mut self, ticket: Ticket, instance: Instance, force: bool, effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Stopped(exit) => {
                let exit = Some(exit.clone());
                self.phase = Phase::Removing { replies: vec![ticket], exit, failure: None };
                effects.push(Effect::Remove(instance));
            }
            Phase::Removing { replies, .. } => replies.push(ticket),
            Phase::Created | Phase::Starting { .. } | Phase::Running if force => {
                self.deleters.push(ticket);
                effects.push(Effect::Signal { instance, signal: libc::SIGKILL, all: true, reply: None });
            }
            // Killed as soon as there is something to kill.
            Phase::Creating { .. } | Phase::Failing { .. } if force => self.deleters.push(ticket),
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Created
            | Phase::Starting { .. }
            | Phase::Running => self.refuse(ticket, "delete", effects),
        }
    }

    fn not_cloned(&mut self, instance: Instance, failure: Failure, effects: &mut Vec<Effect>) {
        if let Phase::Creating { reply, .. } = self.phase {
            self.fail_waiters(&failure, effects);
            // The preparation has undone itself, but removal is what frees the name.
            self.phase = Phase::Removing { replies: Vec::new(), exit: None, failure: Some((reply, failure)) };
            effects.push(Effect::Remove(instance));
        }
    }

    fn set_up(&mut self, instance: Instance, parked: bool, effects: &mut Vec<Effect>) {
        let Phase::Creating { reply, early_exit } = &mut self.phase else { return };
        let (reply, early_exit) = (*reply, early_exit.take());
        effects.push(Effect::Publish(instance, EventKind::Create));
        if parked {
            self.phase = Phase::Created;
        } else {
            effects.push(Effect::Publish(instance, EventKind::Start));
            self.phase = Phase::Running;
        }
        effects.push(Effect::Reply(reply, Reply::Created(instance)));
        if !self.deleters.is_empty() {
            effects.push(Effect::Signal { instance, signal: libc::SIGKILL, all: true, reply: None });
        }
        if let Some(exit) = early_exit {
            self.exited(instance, exit, effects);
        }
    }

    fn set_up_failed(&mut self, instance: Instance, failure: Failure, effects: &mut Vec<Effect>) {
        let Phase::Creating { reply, early_exit } = &mut self.phase else { return };
        let (reply, reaped) = (*reply, early_exit.take().is_some());
        self.fail_waiters(&failure, effects);
        if reaped {
            self.phase = Phase::Removing { replies: Vec::new(), exit: None, failure: Some((reply, failure)) };
            effects.push(Effect::Reap(instance));
            effects.push(Effect::Remove(instance));
        } else {
            self.phase = Phase::Failing { reply, failure };
            // It is on its way out by itself, unless it hangs; the kill makes that certain.
            effects.push(Effect::Signal { instance, signal: libc::SIGKILL, all: true, reply: None });
        }
    }

    fn released(&mut self, instance: Instance, result: Result<(), Failure>, effects: &mut Vec<Effect>) {
        let Phase::Starting { reply, early_exit } = &mut self.phase else { return };
        let (reply, early_exit) = (*reply, early_exit.take());
        // Without the program the process ends by itself; its exit is told like any other.
        self.phase = Phase::Running;
        match result {
            Ok(()) => {
                effects.push(Effect::Publish(instance, EventKind::Start));
                effects.push(Effect::Reply(reply, Reply::Done));
            }
            Err(failure) => effects.push(Effect::Reply(reply, Reply::Refused(failure))),
        }
        if let Some(exit) = early_exit {
            self.exited(instance, exit, effects);
        }
    }

    /// Nobody was reached: it still waits, and can be started again.
    fn not_released(&mut self, instance: Instance, failure: Failure, effects: &mut Vec<Effect>) {
        let Phase::Starting { reply, early_exit } = &mut self.phase else { return };
        let (reply, early_exit) = (*reply, early_exit.take());
        self.phase = Phase::Created;
        effects.push(Effect::Reply(reply, Reply::Refused(failure)));
        if let Some(exit) = early_exit {
            self.exited(instance, exit, effects);
        }
    }

    fn exited(&mut self, instance: Instance, exit: ExitRecord, effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Creating { early_exit, .. } | Phase::Starting { early_exit, .. } => *early_exit = Some(exit),
            Phase::Failing { reply, failure } => {
                let failure = Some((*reply, failure.clone()));
                self.phase = Phase::Removing { replies: Vec::new(), exit: None, failure };
                effects.push(Effect::Reap(instance));
                effects.push(Effect::Remove(instance));
            }
            Phase::Created | Phase::Running => {
                effects.push(Effect::RecordExit(instance, exit.clone()));
                effects.push(Effect::Reap(instance));
                for waiter in self.waiters.drain(..) {
                    effects.push(Effect::Reply(waiter, Reply::Exit(exit.clone())));
                }
                if self.auto_remove || !self.deleters.is_empty() {
                    let replies = std::mem::take(&mut self.deleters);
                    self.phase = Phase::Removing { replies, exit: Some(exit), failure: None };
                    effects.push(Effect::Remove(instance));
                } else {
                    self.phase = Phase::Stopped(exit);
                }
            }
            // A process ends once.
            Phase::Stopped(_) | Phase::Removing { .. } => {}
        }
    }

    /// True when the container is gone for good.
    fn removed(&mut self, instance: Instance, result: Result<(), Failure>, effects: &mut Vec<Effect>) -> bool {
        let Phase::Removing { replies, exit, failure } = &mut self.phase else { return false };
        let mut replies = std::mem::take(replies);
        replies.append(&mut self.deleters);
        if let Some((ticket, failure)) = failure.take() {
            effects.push(Effect::Forget(instance));
            effects.push(Effect::Reply(ticket, Reply::Refused(failure)));
            // Whoever wanted it gone has what they wanted.
            effects.extend(replies.into_iter().map(|ticket| Effect::Reply(ticket, Reply::Done)));
            return true;
        }
        match (result, exit.take()) {
            (Err(failure), Some(exit)) => {
                // It keeps its name and can be deleted again.
                self.phase = Phase::Stopped(exit);
                effects
                    .extend(replies.into_iter().map(|ticket| Effect::Reply(ticket, Reply::Refused(failure.clone()))));
                false
            }
            _ => {
                effects.push(Effect::Publish(instance, EventKind::Delete));
                effects.push(Effect::Forget(instance));
                effects.extend(replies.into_iter().map(|ticket| Effect::Reply(ticket, Reply::Done)));
                true
            }
        }
    }

    fn fail_waiters(&mut self, failure: &Failure, effects: &mut Vec<Effect>) {
        let refused = |ticket| Effect::Reply(ticket, Reply::Refused(failure.clone()));
        effects.extend(self.waiters.drain(..).map(refused));
    }
}
