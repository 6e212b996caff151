//! The life of one process, an init process or an exec: the same phases, the same answers. What an init process waits for
//! before it tells its exit or is removed, its execs, is decided by [`super::Registry`].

mod pause;

use std::collections::BTreeMap;

use brood_launcher::state::ExitRecord;

use super::types::{Effect, EventKind, Failure, FailureKind, Instance, Reply, Ticket};
use crate::limits::WAITERS_PER_CONTAINER_MAX;

pub(super) use pause::Pace;

/// Where a process is in its life. Each variant holds what exists only then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
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
    /// The program runs, or could.
    Running(Pace),
    /// The init process is gone.
    Stopped(ExitRecord),
    /// It could not be created, and what was made of it could not be removed.
    Failed(Failure),
    /// What it held is being removed, or will be once its execs are gone.
    Removing {
        replies: Vec<Ticket>,
        exit: Option<ExitRecord>,
        /// Why it could not be created, and who is to hear of that.
        failure: Option<(Option<Ticket>, Failure)>,
        begun: bool,
    },
}

/// What a process is in its container.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Its life is the container's.
    Init {
        /// Those of its execs that are registered, by name.
        execs: BTreeMap<String, Instance>,
        /// Its end is the end of its execs.
        own_pid_namespace: bool,
    },
    /// One more process.
    Exec {
        /// In which container.
        container: Instance,
    },
}

/// One process, and with an init process the container.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// The container's ID, or the exec's name.
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) phase: Phase,
    /// In the supervisor's pid namespace; 0 until cloned.
    pub(super) pid: i32,
    auto_remove: bool,
    waiters: Vec<Ticket>,
    /// Forced deletions that wait for the exit.
    deleters: Vec<Ticket>,
    /// An exit that is not told yet: those of the execs go before the init process's.
    ended: Option<ExitRecord>,
    /// An exec whose container is being removed: killed as soon as there is something to kill.
    doomed: bool,
    /// It ran out of memory before its start was told.
    early_oom: bool,
    /// Taken over from a supervisor that died while it made this: nobody has been told that there is such a process.
    pub(super) untold: bool,
}

impl Life {
    pub(super) fn new(name: String, role: Role, phase: Phase, pid: i32, auto_remove: bool) -> Life {
        let (waiters, deleters) = (Vec::new(), Vec::new());
        let (ended, doomed, early_oom, untold) = (None, false, false, false);
        Life { name, role, phase, pid, auto_remove, waiters, deleters, ended, doomed, early_oom, untold }
    }

    /// Whoever waited for the exit has gone away.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        self.waiters.retain(|waiter| *waiter != ticket);
    }

    /// Whether there is a process, or will be, whose exit has not been told.
    pub(super) fn is_live(&self) -> bool {
        match self.phase {
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Created
            | Phase::Starting { .. }
            | Phase::Running(_) => true,
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Removing { .. } => false,
        }
    }

    /// Whether it is on its way from one lasting state to another.
    pub(super) fn is_changing(&self) -> bool {
        match self.phase {
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Starting { .. }
            | Phase::Running(Pace::Changing { .. })
            | Phase::Removing { .. } => true,
            Phase::Created | Phase::Running(Pace::Going | Pace::Paused) | Phase::Stopped(_) | Phase::Failed(_) => false,
        }
    }

    /// Whether it lives or is being removed.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Stopped(_) | Phase::Failed(_))
    }

    /// Whether an exec may join.
    pub(super) fn takes_execs(&self) -> bool {
        let phase = matches!(self.phase, Phase::Created | Phase::Starting { .. } | Phase::Running(Pace::Going));
        phase && self.ended.is_none()
    }

    /// Whether something waits for its execs: an exit to be told, or a removal.
    pub(super) fn waits_for_execs(&self) -> bool {
        self.ended.is_some() || self.waits_for_removal()
    }

    /// Whether it is to be removed and nothing has been done for that yet.
    pub(super) fn waits_for_removal(&self) -> bool {
        matches!(self.phase, Phase::Removing { begun: false, .. })
    }

    /// Whether it is being removed at this moment.
    pub(super) fn is_going(&self) -> bool {
        matches!(self.phase, Phase::Removing { begun: true, .. })
    }

    /// Answers that its state does not allow it.
    pub(super) fn refuse(&self, ticket: Ticket, verb: &str, effects: &mut Vec<Effect>) {
        let status = match self.phase {
            Phase::Created | Phase::Running(_) if self.ended.is_some() => "stopped",
            Phase::Creating { .. } | Phase::Failing { .. } => "being created",
            Phase::Created => "created, not started",
            Phase::Starting { .. } => "being started",
            Phase::Running(Pace::Going) => "running",
            Phase::Running(Pace::Changing { to_paused: true, .. }) => "being paused",
            Phase::Running(Pace::Changing { to_paused: false, .. }) => "being resumed",
            Phase::Running(Pace::Paused) => "paused",
            Phase::Stopped(_) => "stopped",
            Phase::Failed(_) => "left over from a failed creation",
            Phase::Removing { .. } => "being deleted",
        };
        let message = format!("cannot {verb} {self}: it is {status}");
        effects.push(Effect::Reply(ticket, Reply::Refused(Failure::new(FailureKind::WrongState, message))));
    }

    pub(super) fn start(&mut self, ticket: Ticket, instance: Instance, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Created | Phase::Running(_) if self.ended.is_some() => self.refuse(ticket, "start", effects),
            Phase::Created => {
                self.phase = Phase::Starting { reply: ticket, early_exit: None };
                self.untold = false;
                effects.push(Effect::Release(instance));
            }
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Starting { .. }
            | Phase::Running(_)
            | Phase::Stopped(_)
            | Phase::Failed(_)
            | Phase::Removing { .. } => self.refuse(ticket, "start", effects),
        }
    }

    pub(super) fn wait(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Stopped(exit) | Phase::Removing { exit: Some(exit), .. } => {
                effects.push(Effect::Reply(ticket, Reply::Exit(exit.clone())));
            }
            Phase::Failing { failure, .. }
            | Phase::Failed(failure)
            | Phase::Removing { failure: Some((_, failure)), .. } => {
                effects.push(Effect::Reply(ticket, Reply::Refused(failure.clone())));
            }
            Phase::Removing { .. } => self.refuse(ticket, "wait for", effects),
            Phase::Creating { .. } | Phase::Created | Phase::Starting { .. } | Phase::Running(_) => {
                if self.waiters.len() < WAITERS_PER_CONTAINER_MAX {
                    self.waiters.push(ticket);
                } else {
                    let message = format!("{self}: more than {WAITERS_PER_CONTAINER_MAX} waiters");
                    let failure = Failure::new(FailureKind::Overloaded, message);
                    effects.push(Effect::Reply(ticket, Reply::Refused(failure)));
                }
            }
        }
    }

    pub(super) fn kill(
        &mut self,
        ticket: Ticket,
        instance: Instance,
        signal: i32,
        all: bool,
        effects: &mut Vec<Effect>,
    ) {
        match self.phase {
            Phase::Created | Phase::Running(_) if self.ended.is_some() => self.refuse(ticket, "kill", effects),
            Phase::Created | Phase::Starting { .. } | Phase::Running(_) => {
                if let Phase::Running(Pace::Changing { killed, .. }) = &mut self.phase {
                    *killed |= signal == libc::SIGKILL;
                }
                let all = all && self.is_init();
                effects.push(Effect::Signal { instance, signal, all, reply: Some(ticket) });
            }
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Stopped(_)
            | Phase::Failed(_)
            | Phase::Removing { .. } => {
                self.refuse(ticket, "kill", effects);
            }
        }
    }

    pub(super) fn delete(&mut self, ticket: Ticket, instance: Instance, force: bool, effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Stopped(exit) => {
                let exit = Some(exit.clone());
                self.phase = Phase::Removing { replies: vec![ticket], exit, failure: None, begun: false };
            }
            Phase::Failed(_) => {
                self.phase = Phase::Removing { replies: vec![ticket], exit: None, failure: None, begun: false };
            }
            Phase::Removing { replies, .. } => replies.push(ticket),
            // As soon as its exit has been told.
            Phase::Created | Phase::Running(_) if self.ended.is_some() => self.deleters.push(ticket),
            Phase::Created | Phase::Starting { .. } | Phase::Running(_) if force => {
                self.deleters.push(ticket);
                effects.push(self.end_it(instance));
            }
            // Killed as soon as there is something to kill.
            Phase::Creating { .. } | Phase::Failing { .. } if force => self.deleters.push(ticket),
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Created
            | Phase::Starting { .. }
            | Phase::Running(_) => self.refuse(ticket, "delete", effects),
        }
    }

    pub(super) fn not_cloned(&mut self, failure: Failure, effects: &mut Vec<Effect>) {
        if let Phase::Creating { reply, .. } = self.phase {
            self.fail_waiters(&failure, effects);
            // The preparation has undone itself, but removal is what frees the name.
            self.phase = removing(reply, failure);
        }
    }

    pub(super) fn set_up(&mut self, instance: Instance, parked: bool, effects: &mut Vec<Effect>) {
        let (added, started) = self.event_kinds();
        if parked {
            self.is_set_up(instance, Phase::Created, &[added], effects);
        } else {
            self.is_set_up(instance, Phase::Running(Pace::Going), &[added, started], effects);
        }
    }

    pub(super) fn restored(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        let (added, started) = self.event_kinds();
        let told = [added, EventKind::Restore, started];
        self.is_set_up(instance, Phase::Running(Pace::Going), &told, effects);
    }

    /// What is told comes before the answer, and that before an exit which overtook it.
    fn is_set_up(&mut self, instance: Instance, phase: Phase, told: &[EventKind], effects: &mut Vec<Effect>) {
        let Phase::Creating { reply, early_exit } = &mut self.phase else { return };
        let (reply, early_exit) = (*reply, early_exit.take());
        effects.extend(told.iter().map(|kind| Effect::Publish(instance, *kind)));
        self.phase = phase;
        self.tell_early_oom(instance, effects);
        effects.push(Effect::Reply(reply, Reply::Created(instance)));
        if self.doomed || !self.deleters.is_empty() {
            effects.push(self.end_it(instance));
        }
        if let Some(exit) = early_exit {
            self.exited(instance, exit, effects);
        }
    }

    pub(super) fn set_up_failed(&mut self, instance: Instance, failure: Failure, effects: &mut Vec<Effect>) {
        let Phase::Creating { reply, early_exit } = &mut self.phase else { return };
        let (reply, ended) = (*reply, early_exit.take().is_some());
        self.fail_waiters(&failure, effects);
        if ended {
            self.phase = removing(reply, failure);
            effects.push(Effect::Discard(instance));
        } else {
            self.phase = Phase::Failing { reply, failure };
            // It is on its way out by itself, unless it hangs; the kill makes that certain.
            effects.push(self.end_it(instance));
        }
    }

    pub(super) fn released(&mut self, instance: Instance, result: Result<(), Failure>, effects: &mut Vec<Effect>) {
        let Phase::Starting { reply, early_exit } = &mut self.phase else { return };
        let (reply, early_exit) = (*reply, early_exit.take());
        // Without the program the process ends by itself; its exit is told like any other.
        self.phase = Phase::Running(Pace::Going);
        match result {
            Ok(()) => {
                effects.push(Effect::Publish(instance, self.event_kinds().1));
                effects.push(Effect::Reply(reply, Reply::Done));
            }
            Err(failure) => effects.push(Effect::Reply(reply, Reply::Refused(failure))),
        }
        self.tell_early_oom(instance, effects);
        if let Some(exit) = early_exit {
            self.exited(instance, exit, effects);
        }
    }

    /// Told as long as its exit is not.
    pub(super) fn checkpointed(&self, instance: Instance, effects: &mut Vec<Effect>) {
        if let Phase::Running(_) = self.phase {
            effects.push(Effect::Publish(instance, EventKind::Checkpoint));
        }
    }

    /// Nobody was reached: it still waits, and can be started again.
    pub(super) fn not_released(&mut self, instance: Instance, failure: Failure, effects: &mut Vec<Effect>) {
        let Phase::Starting { reply, early_exit } = &mut self.phase else { return };
        let (reply, early_exit) = (*reply, early_exit.take());
        self.phase = Phase::Created;
        effects.push(Effect::Reply(reply, Reply::Refused(failure)));
        self.tell_early_oom(instance, effects);
        if let Some(exit) = early_exit {
            self.exited(instance, exit, effects);
        }
    }

    pub(super) fn exited(&mut self, instance: Instance, exit: ExitRecord, effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Creating { early_exit, .. } | Phase::Starting { early_exit, .. } => *early_exit = Some(exit),
            Phase::Failing { reply, failure } => {
                self.phase = removing(*reply, failure.clone());
                effects.push(Effect::Discard(instance));
            }
            Phase::Created | Phase::Running(_) if self.untold && exit.never_ran && self.ended.is_none() => {
                self.unmake(instance, effects);
            }
            // Told by `tell_exit`, which may have to wait.
            Phase::Created | Phase::Running(_) => self.ended = self.ended.take().or(Some(exit)),
            // A process ends once.
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Removing { .. } => {}
        }
    }

    /// A creation that failed after its supervisor had died: undone like any other.
    fn unmake(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        let message = format!("{self}: the supervisor that made it died, and its program never ran");
        let failure = Failure::new(FailureKind::SetupFailed, message);
        self.fail_waiters(&failure, effects);
        self.give_up_change(effects);
        let replies = std::mem::take(&mut self.deleters);
        self.phase = Phase::Removing { replies, exit: None, failure: Some((None, failure)), begun: false };
        effects.push(Effect::Discard(instance));
    }

    /// Tells the exit that has not been told yet.
    pub(super) fn tell_exit(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        let Some(exit) = self.ended.take() else { return };
        effects.push(Effect::RecordExit(instance, exit.clone()));
        effects.push(Effect::Reap(instance));
        self.give_up_change(effects);
        for waiter in self.waiters.drain(..) {
            effects.push(Effect::Reply(waiter, Reply::Exit(exit.clone())));
        }
        if self.auto_remove || !self.deleters.is_empty() {
            let replies = std::mem::take(&mut self.deleters);
            self.phase = Phase::Removing { replies, exit: Some(exit), failure: None, begun: false };
        } else {
            self.phase = Phase::Stopped(exit);
        }
    }

    /// Begins the removal that has not begun yet.
    pub(super) fn begin_removal(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        if let Phase::Removing { begun, .. } = &mut self.phase
            && !std::mem::replace(begun, true)
        {
            effects.push(Effect::Remove(instance));
        }
    }

    /// Its container is being removed, and so it must end.
    pub(super) fn doom(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.doomed, true) {
            return;
        }
        if let Phase::Created | Phase::Starting { .. } | Phase::Running(_) = self.phase {
            effects.push(self.end_it(instance));
        }
    }

    /// True when it is gone for good.
    pub(super) fn removed(
        &mut self,
        instance: Instance,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Phase::Removing { replies, exit, failure, begun: true } = &mut self.phase else { return false };
        let mut replies = std::mem::take(replies);
        replies.append(&mut self.deleters);
        let (exit, creation) = (exit.take(), failure.take());
        let was_created = exit.is_some();
        let refused = |(ticket, failure)| Effect::Reply(ticket, Reply::Refused(failure));
        let told = |(ticket, failure): (Option<Ticket>, Failure)| Some(refused((ticket?, failure)));
        if let Err(problem) = result {
            // It keeps its name and can be deleted again.
            self.phase = match (exit, &creation) {
                (Some(exit), _) => Phase::Stopped(exit),
                (None, Some((_, failure))) => Phase::Failed(failure.clone()),
                (None, None) => Phase::Failed(problem.clone()),
            };
            effects.extend(creation.and_then(told));
            effects.extend(replies.into_iter().map(|ticket| refused((ticket, problem.clone()))));
            return false;
        }
        if self.is_init() && was_created {
            effects.push(Effect::Publish(instance, EventKind::Delete));
        }
        effects.push(Effect::Forget(instance));
        effects.extend(creation.and_then(told));
        // Whoever wanted it gone has what they wanted.
        effects.extend(replies.into_iter().map(|ticket| Effect::Reply(ticket, Reply::Done)));
        true
    }

    /// An exec whose container was removed, and it with that: whoever wanted it gone has what they wanted.
    pub(super) fn gone_with_container(self, effects: &mut Vec<Effect>) {
        if let Phase::Removing { replies, .. } = self.phase {
            effects.extend(replies.into_iter().map(|ticket| Effect::Reply(ticket, Reply::Done)));
        }
    }

    fn fail_waiters(&mut self, failure: &Failure, effects: &mut Vec<Effect>) {
        let refused = |ticket| Effect::Reply(ticket, Reply::Refused(failure.clone()));
        effects.extend(self.waiters.drain(..).map(refused));
    }

    fn is_init(&self) -> bool {
        matches!(self.role, Role::Init { .. })
    }

    /// What is published when it is set up, and when its program runs.
    fn event_kinds(&self) -> (EventKind, EventKind) {
        match self.role {
            Role::Init { .. } => (EventKind::Create, EventKind::Start),
            Role::Exec { .. } => (EventKind::ExecAdded, EventKind::StartProcess),
        }
    }

    fn end_it(&self, instance: Instance) -> Effect {
        Effect::Signal { instance, signal: libc::SIGKILL, all: self.is_init(), reply: None }
    }
}

impl std::fmt::Display for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_init() { "container" } else { "exec" };
        write!(f, "{kind} {}", self.name)
    }
}

/// The removal after a failure, which is told when it is complete.
fn removing(reply: Ticket, failure: Failure) -> Phase {
    Phase::Removing { replies: Vec::new(), exit: None, failure: Some((Some(reply), failure)), begun: false }
}
