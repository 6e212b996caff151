//! A container that stands still, and one that is out of memory.

use super::super::types::{Effect, EventKind, Failure, FailureKind, Instance, Reply, Ticket};
use super::{Life, Phase};

/// Whether a container that runs does so. An exec always has [`Pace::Going`]: it is its container that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Pace {
    /// It runs.
    Going,
    /// On the way to standing still, or back.
    Changing {
        /// Who asked.
        reply: Ticket,
        /// Where to.
        to_paused: bool,
        /// It was killed meanwhile. On cgroup v1 what is being frozen may not die of that, and is killed once more after it.
        killed: bool,
    },
    /// It stands still.
    Paused,
}

impl Life {
    /// Freezing takes a while, and is answered when it is done.
    pub(in super::super) fn pause(&mut self, ticket: Ticket, instance: Instance, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Running(Pace::Going) if self.ended.is_none() && self.is_init() => {
                self.phase = Phase::Running(Pace::Changing { reply: ticket, to_paused: true, killed: false });
                effects.push(Effect::Freeze(instance));
            }
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Created
            | Phase::Starting { .. }
            | Phase::Running(_)
            | Phase::Stopped(_)
            | Phase::Failed(_)
            | Phase::Removing { .. } => self.refuse(ticket, "pause", effects),
        }
    }

    pub(in super::super) fn resume(&mut self, ticket: Ticket, instance: Instance, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Running(Pace::Paused) if self.ended.is_none() => {
                self.phase = Phase::Running(Pace::Changing { reply: ticket, to_paused: false, killed: false });
                effects.push(Effect::Thaw(instance));
            }
            Phase::Creating { .. }
            | Phase::Failing { .. }
            | Phase::Created
            | Phase::Starting { .. }
            | Phase::Running(_)
            | Phase::Stopped(_)
            | Phase::Failed(_)
            | Phase::Removing { .. } => self.refuse(ticket, "resume", effects),
        }
    }

    /// The outcome of freezing or thawing. One that failed leaves things as they were.
    pub(in super::super) fn changed_pace(
        &mut self,
        instance: Instance,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) {
        let Phase::Running(Pace::Changing { reply, to_paused, killed }) = self.phase else { return };
        let paused = to_paused == result.is_ok();
        self.phase = Phase::Running(if paused { Pace::Paused } else { Pace::Going });
        match result {
            Ok(()) => {
                let kind = if to_paused { EventKind::Paused } else { EventKind::Resumed };
                effects.push(Effect::Publish(instance, kind));
                effects.push(Effect::Reply(reply, Reply::Done));
            }
            Err(failure) => effects.push(Effect::Reply(reply, Reply::Refused(failure))),
        }
        if paused && self.ended.is_none() && (killed || !self.deleters.is_empty()) {
            effects.push(self.end_it(instance));
        }
    }

    /// It has stopped: whoever wanted it to stand still, or to go on, is told so.
    pub(super) fn give_up_change(&mut self, effects: &mut Vec<Effect>) {
        if let Phase::Running(Pace::Changing { reply, .. }) = self.phase {
            let failure = Failure::new(FailureKind::WrongState, format!("{self} has stopped"));
            effects.push(Effect::Reply(reply, Reply::Refused(failure)));
        }
    }

    /// The kernel has killed for memory: told after the start, and before the exit that may come of it.
    pub(in super::super) fn out_of_memory(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Creating { .. } | Phase::Starting { .. } => self.early_oom = true,
            Phase::Created | Phase::Running(_) => effects.push(Effect::Publish(instance, EventKind::OutOfMemory)),
            // Nobody hears of it but by the failure; or everything was told.
            Phase::Failing { .. } | Phase::Stopped(_) | Phase::Failed(_) | Phase::Removing { .. } => {}
        }
    }

    pub(super) fn tell_early_oom(&mut self, instance: Instance, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.early_oom) {
            effects.push(Effect::Publish(instance, EventKind::OutOfMemory));
        }
    }
}
