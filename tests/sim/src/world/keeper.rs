//! The keeper: reaps what it inherits, remembers it, and tells the supervisor.

use std::collections::{BTreeMap, VecDeque};

use brood_launcher::state::{ExitRecord, PidRecord};

use super::kernel::Parent;
use super::{Uid, World, say};
use crate::random::Random;
use crate::registry::Event;

/// To the supervisor.
#[derive(Clone, Debug)]
enum Word {
    Exit(PidRecord, ExitRecord),
    Synced,
}

/// To the keeper.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Recorded(PidRecord),
    Sync,
}

/// What it has in memory and in its sockets.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    kept: BTreeMap<(i32, u64), (Uid, ExitRecord)>,
    told: VecDeque<Word>,
    answers: VecDeque<Answer>,
}

impl Keeper {
    pub(super) fn has_to_read(&self) -> bool {
        !self.answers.is_empty()
    }

    pub(super) fn speaks(&self) -> bool {
        !self.told.is_empty()
    }

    pub(super) fn tell(&mut self, answer: Answer) {
        self.answers.push_back(answer);
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = (PidRecord, &ExitRecord)> {
        self.kept.iter().map(|(&(pid, start_time), (_, exit))| (PidRecord { pid, start_time }, exit))
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = Uid> {
        self.kept.values().map(|(uid, _)| *uid)
    }

    /// What it was told last may not have reached it.
    pub(super) fn lose_supervisor(&mut self, random: &mut Random) {
        let read = random.index(self.answers.len() + 1);
        self.answers.truncate(read);
        self.told.clear();
    }
}

impl World {
    pub(super) fn keeper_turn(&mut self) {
        let reads_first = self.random.coin() && self.keeper.as_ref().is_some_and(Keeper::has_to_read);
        if reads_first || !self.keeper_reaps() {
            self.keeper_reads();
        }
    }

    fn keeper_reads(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        let Some(answer) = keeper.answers.pop_front() else { return };
        say!(self, "keeper: hears {answer:?}");
        match answer {
            Answer::Recorded(process) => drop(keeper.kept.remove(&(process.pid, process.start_time))),
            Answer::Sync => {
                while self.keeper_reaps() {}
                if let Some(keeper) = self.keeper.as_mut().filter(|_| self.supervisor.is_some()) {
                    keeper.told.push_back(Word::Synced);
                }
            }
        }
    }

    /// Reaps one. False when there is none.
    fn keeper_reaps(&mut self) -> bool {
        let Some(process) = self.kernel.ended_child(Parent::Keeper) else { return false };
        let Some(seen) = self.kernel.get(process).cloned() else { return false };
        let uid = seen.uid;
        let (Some(ending), Some(keeper)) = (self.kernel.reap(process), &mut self.keeper) else { return false };
        let exit = seen.record(ending, self.now);
        if self.supervisor.is_some() {
            keeper.told.push_back(Word::Exit(process, exit.clone()));
        }
        keeper.kept.insert((process.pid, process.start_time), (uid, exit));
        say!(self, "keeper: reaps {} of {uid:?}: {ending:?}", process.pid);
        true
    }

    /// The supervisor reads one message, or the end of file.
    pub(super) fn hear_keeper(&mut self) {
        let Some(supervisor) = &mut self.supervisor else { return };
        match self.keeper.as_mut().map(|keeper| keeper.told.pop_front()) {
            Some(None) => {}
            Some(Some(Word::Exit(process, exit))) => match supervisor.inherited.find(process) {
                Some(instance) => self.event(instance, Event::Exited(exit)),
                None => self.tell_keeper(Answer::Recorded(process)),
            },
            Some(Some(Word::Synced)) => self.give_up(),
            None => {
                say!(self, "supervisor: the keeper is gone");
                supervisor.linked = false;
                self.give_up();
                let awaited = self.supervisor.as_mut().map(|supervisor| supervisor.inherited.awaited());
                awaited.into_iter().flatten().for_each(|instance| self.on_exit(instance));
            }
        }
    }

    /// All that anybody knows has been told.
    fn give_up(&mut self) {
        let lost = self.supervisor.as_mut().map(|supervisor| supervisor.inherited.give_up());
        for instance in lost.into_iter().flatten() {
            self.event(instance, Event::Exited(ExitRecord::unknown("nobody was there", self.now)));
        }
    }

    pub(super) fn tell_keeper(&mut self, answer: Answer) {
        let linked = self.supervisor.as_ref().is_some_and(|supervisor| supervisor.linked);
        if let Some(keeper) = self.keeper.as_mut().filter(|_| linked) {
            keeper.tell(answer);
        }
    }
}
