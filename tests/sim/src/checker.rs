//! What must hold, whatever happens. The checker knows nothing of the core: it sees what the kernel did, what was asked,
//! written and told, and when supervisor and keeper died.

use std::collections::{BTreeMap, BTreeSet};

use brood_launcher::state::{ExitRecord, PidRecord};

use crate::limits::{EXECS_MAX, EXECS_PER_CONTAINER_MAX, WAITERS_PER_CONTAINER_MAX};
use crate::registry::{EventKind, FailureKind, Reply, Ticket};
use crate::world::disk::Told;
use crate::world::kernel::Ending;

/// One container or exec from its order to its removal, over all supervisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u64);

/// What a ticket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A creation, of a container or an exec.
    Create(Uid),
    /// A start.
    Start(Uid),
    /// A signal.
    Kill(Uid),
    /// A removal.
    Delete(Uid),
    /// To stand still.
    Pause(Uid),
    /// To go on.
    Resume(Uid),
    /// An exit.
    Wait(Uid),
    /// Something that is not there.
    Nothing,
}

/// What the checker knows of one container or exec.
#[derive(Clone, Debug, Default)]
struct Life {
    /// Of an exec: its container.
    container: Option<Uid>,
    /// Of a container: it has a pid namespace of its own.
    owns_namespace: bool,
    process: Option<PidRecord>,
    /// How it really ended.
    truth: Option<Ending>,
    /// Nobody can know that any more.
    unknowable: bool,
    /// The supervisor has heard that the program runs, and has not died since.
    runs: bool,
    /// A supervisor died while it was being made or started: what was due then may never be told.
    cut: bool,
    /// Its creation failed.
    failed: bool,
    added: bool,
    started: bool,
    /// Whether it was told to stand still; unknown after a crash.
    paused: Option<bool>,
    /// It does not wait for a start.
    at_once: bool,
    /// The supervisor has heard of a lack of memory that is not told.
    oom: bool,
    on_file: Option<ExitRecord>,
    told: Option<ExitRecord>,
    deleted: bool,
    gone: bool,
    /// Nobody knows its process.
    stray: bool,
}

/// Everything seen so far.
#[derive(Debug, Default)]
pub struct Checker {
    lives: BTreeMap<Uid, Life>,
    asked: BTreeMap<Ticket, Asked>,
    /// Containers and execs that had a process and are gone.
    pub finished: u64,
    /// Exits that were told to be lost, with a reason.
    pub lost: u64,
    /// Refusals at a limit.
    pub overloaded: u64,
    /// The first thing that was wrong.
    pub violation: Option<String>,
}

impl Checker {
    fn fail(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    fn life(&mut self, uid: Uid) -> &mut Life {
        self.lives.entry(uid).or_default()
    }

    /// Something begins; `container` is that of an exec.
    pub fn ordered(&mut self, uid: Uid, container: Option<Uid>, owns_namespace: bool) {
        let paused = Some(false);
        self.lives.insert(uid, Life { container, owns_namespace, paused, gone: true, ..Life::default() });
    }

    /// It has a folder.
    pub fn made(&mut self, uid: Uid) {
        self.life(uid).gone = false;
    }

    /// It has a process.
    pub fn cloned(&mut self, uid: Uid, process: PidRecord) {
        self.life(uid).process = Some(process);
    }

    /// The process ended like this.
    pub fn ended(&mut self, uid: Uid, ending: Ending) {
        self.life(uid).truth = Some(ending);
    }

    /// How it really ended.
    #[must_use]
    pub fn truth(&self, uid: Uid) -> Option<Ending> {
        self.lives.get(&uid)?.truth
    }

    /// Its status went with a process that will tell nobody.
    pub fn status_lost(&mut self, uid: Uid) {
        self.life(uid).unknowable = true;
    }

    /// The supervisor has heard that the program runs.
    pub fn runs(&mut self, uid: Uid) {
        self.life(uid).runs = true;
    }

    /// The supervisor has heard that it is out of memory.
    pub fn out_of_memory(&mut self, uid: Uid) {
        let life = self.life(uid);
        life.oom = life.told.is_none();
    }

    /// Its creation failed.
    pub fn creation_failed(&mut self, uid: Uid) {
        self.life(uid).failed = true;
    }

    /// The supervisor has heard that it ended before its program began: a creation that has been told to nobody has failed.
    pub fn never_ran(&mut self, uid: Uid) {
        let life = self.life(uid);
        life.failed |= life.cut && !life.added;
    }

    /// The supervisor died: nobody waits any more, and what it was about to tell may be lost.
    pub fn crashed(&mut self) {
        self.asked.clear();
        for life in self.lives.values_mut() {
            life.cut |= !life.started || !life.added;
            life.runs = false;
            life.paused = None;
            life.oom = false;
        }
    }

    /// It does not wait for a start: until its program begins nobody is told of it.
    pub fn runs_at_once(&mut self, uid: Uid) {
        self.life(uid).at_once = true;
    }

    /// A ticket was issued.
    pub fn asked(&mut self, ticket: Ticket, asked: Asked) {
        self.asked.insert(ticket, asked);
    }

    /// Whoever asked has gone away.
    pub fn abandoned(&mut self, ticket: Ticket) {
        self.asked.remove(&ticket);
    }

    /// Whether it waits for its answer.
    #[must_use]
    pub fn waits(&self, ticket: Ticket) -> bool {
        self.asked.contains_key(&ticket)
    }

    /// The exit file was written.
    pub fn exit_written(&mut self, uid: Uid, exit: &ExitRecord) {
        self.check_exit(uid, exit);
        let before = self.life(uid).on_file.replace(exit.clone());
        let told = self.life(uid).told.as_ref() == Some(exit);
        if before.is_some() || !told {
            self.fail(format!("{uid:?}: its exit was written twice, or is not the one that was told"));
        }
    }

    fn check_exit(&mut self, uid: Uid, exit: &ExitRecord) {
        let life = self.life(uid).clone();
        let Some(truth) = life.truth else { return self.fail(format!("{uid:?}: an exit of a process that lives")) };
        let said = (exit.status, exit.signal);
        let expected = truth.record(0);
        if exit.reason.is_some() {
            self.lost += 1;
            if !life.unknowable {
                self.fail(format!("{uid:?}: {:?} was lost, and somebody knew it", truth));
            }
        } else if said != (expected.status, expected.signal) {
            self.fail(format!("{uid:?}: told {said:?}, and it was {truth:?}"));
        }
    }

    /// An event is in the journal: from now on it is visible.
    pub fn told(&mut self, uid: Uid, told: &Told) {
        match told {
            Told::Event(EventKind::Create | EventKind::ExecAdded) => self.told_added(uid),
            Told::Event(EventKind::Start | EventKind::StartProcess) => self.told_started(uid),
            Told::Event(EventKind::Restore) => self.told_restored(uid),
            Told::Event(EventKind::Checkpoint) => self.told_checkpointed(uid),
            Told::Event(EventKind::Delete) => self.told_deleted(uid),
            Told::Event(EventKind::Paused) => self.told_paused(uid, true),
            Told::Event(EventKind::Resumed) => self.told_paused(uid, false),
            Told::Event(EventKind::OutOfMemory) => self.told_oom(uid),
            Told::Exit(exit) => self.told_exit(uid, exit),
        }
    }

    fn told_added(&mut self, uid: Uid) {
        let life = self.life(uid);
        let wrong = life.added || life.started || life.told.is_some() || life.deleted;
        life.added = true;
        if wrong {
            self.fail(format!("{uid:?}: created after something else, or twice"));
        }
    }

    fn told_started(&mut self, uid: Uid) {
        let life = self.life(uid);
        let wrong = (!life.added && !life.cut) || life.started || life.told.is_some() || life.deleted;
        life.started = true;
        if wrong {
            self.fail(format!("{uid:?}: started before it was created, after its end, or twice"));
        }
    }

    fn told_restored(&mut self, uid: Uid) {
        let life = self.life(uid);
        if (!life.added && !life.cut) || life.started || life.told.is_some() {
            self.fail(format!("{uid:?}: restored before it was created, or after its start"));
        }
    }

    fn told_checkpointed(&mut self, uid: Uid) {
        if self.life(uid).told.is_some() {
            self.fail(format!("{uid:?}: a checkpoint after its end was told"));
        }
    }

    fn told_deleted(&mut self, uid: Uid) {
        let life = self.life(uid);
        let wrong = life.deleted || life.told.is_none() || !life.gone;
        life.deleted = true;
        if wrong {
            self.fail(format!("{uid:?}: deleted before its end was told, while it is there, or twice"));
        }
    }

    fn told_paused(&mut self, uid: Uid, paused: bool) {
        let life = self.life(uid);
        // One whose start failed has not ended yet, and may be paused without ever having been told to run.
        let early = (!life.added && !life.cut) || (life.runs && !life.started);
        let wrong = early || life.paused == Some(paused) || life.told.is_some();
        life.paused = Some(paused);
        if wrong {
            self.fail(format!("{uid:?}: paused or resumed before its start, after its end, or twice"));
        }
    }

    fn told_oom(&mut self, uid: Uid) {
        let life = self.life(uid);
        let early = (!life.added && !life.cut) || (life.runs && !life.started);
        let wrong = early || life.told.is_some() || !std::mem::take(&mut life.oom);
        if wrong {
            self.fail(format!("{uid:?}: out of memory before its start, after its end, or without a reason"));
        }
    }

    fn told_exit(&mut self, uid: Uid, exit: &ExitRecord) {
        self.check_exit(uid, exit);
        let life = self.life(uid);
        let twice = life.told.replace(exit.clone()).is_some();
        let life = life.clone();
        if twice {
            self.fail(format!("{uid:?}: its exit was told twice"));
        }
        if !life.added && !life.cut && !life.failed {
            self.fail(format!("{uid:?}: its exit was told and its creation was not"));
        }
        // Whoever has asked for an exec in it knows of it.
        let known = self.lives.values().any(|exec| exec.container == Some(uid));
        if exit.never_ran && life.at_once && !life.added && !known {
            self.fail(format!("{uid:?}: its exit was told, and it never ran"));
        }
        if life.runs && !life.started {
            self.fail(format!("{uid:?}: its exit was told before its start"));
        }
        if life.oom {
            self.fail(format!("{uid:?}: its exit was told before its lack of memory"));
        }
        if let Some(container) = life.container {
            let init = self.life(container);
            if init.owns_namespace && init.told.is_some() {
                self.fail(format!("{uid:?}: an exec's exit was told after that of its container {container:?}"));
            }
        } else if life.owns_namespace {
            let late =
                self.lives.iter().find(|(_, exec)| exec.container == Some(uid) && exec.added && exec.told.is_none());
            if let Some((exec, _)) = late {
                let text = format!("{uid:?}: its exit was told before that of its exec {exec:?}");
                self.fail(text);
            }
        }
    }

    /// The supervisor reaped it.
    pub fn reaped(&mut self, uid: Uid) {
        let life = self.life(uid);
        if life.on_file.is_none() {
            // Only a creation that failed is nobody's business; should the supervisor die now, nobody knows its status.
            let failed = life.failed;
            life.unknowable = true;
            if !failed {
                self.fail(format!("{uid:?}: reaped before its exit was durable"));
            }
        }
    }

    /// An exec that was not written down when the supervisor died; its process, if it lives, ends with the container.
    pub fn left_to_its_container(&mut self, uid: Uid) {
        self.life(uid).stray = true;
    }

    /// Its folder is gone.
    pub fn removed(&mut self, uid: Uid) {
        let life = self.life(uid);
        let (had_process, twice) = (life.process.is_some(), std::mem::replace(&mut life.gone, true));
        if had_process && !twice {
            self.finished += 1;
        }
        let early = |life: &Life| life.process.is_some() && life.truth.is_none();
        let early = self
            .lives
            .iter()
            .find(|(one, life)| ((**one == uid && !life.stray) || life.container == Some(uid)) && early(life));
        if let Some((one, _)) = early {
            let text = format!("{uid:?}: removed while {one:?} lives");
            self.fail(text);
        }
    }

    /// Somebody is answered.
    pub fn replied(&mut self, ticket: Ticket, reply: &Reply) {
        let Some(asked) = self.asked.remove(&ticket) else {
            return self.fail(format!("{ticket:?} is answered, and nobody asks (any more)"));
        };
        let problem = match (asked, reply) {
            (_, Reply::Refused(failure)) => return self.refused(asked, failure.kind),
            (Asked::Create(uid), Reply::Created(_)) => {
                (!self.life(uid).added).then_some("before it was in the journal")
            }
            (Asked::Start(uid), Reply::Done) => (!self.life(uid).started).then_some("before it was in the journal"),
            (Asked::Pause(uid), Reply::Done) => {
                (self.life(uid).paused != Some(true)).then_some("before it was in the journal")
            }
            (Asked::Resume(uid), Reply::Done) => {
                (self.life(uid).paused != Some(false)).then_some("before it was in the journal")
            }
            (Asked::Wait(uid), Reply::Exit(exit)) => {
                let durable =
                    self.life(uid).told.as_ref() == Some(exit) && self.life(uid).on_file.as_ref() == Some(exit);
                (!durable).then_some("with an exit that is not durable")
            }
            (Asked::Delete(uid), Reply::Done) => {
                let life = self.life(uid).clone();
                let container_gone = life.container.is_some_and(|container| self.life(container).gone);
                let silent = life.container.is_none() && !life.deleted && !life.failed;
                if silent {
                    Some("before it was in the journal")
                } else {
                    (!life.gone && !container_gone).then_some("while it is there")
                }
            }
            (Asked::Kill(_), Reply::Done) => None,
            _ => Some("with something else than was asked for"),
        };
        if let Some(problem) = problem {
            self.fail(format!("{ticket:?}, {asked:?}: answered {problem}: {reply:?}"));
        }
    }

    fn refused(&mut self, asked: Asked, kind: FailureKind) {
        self.overloaded += u64::from(kind == FailureKind::Overloaded);
        let waiting = |uid| self.asked.values().filter(|other| **other == Asked::Wait(uid)).count();
        match (asked, kind) {
            (Asked::Wait(uid), FailureKind::Overloaded) if waiting(uid) < WAITERS_PER_CONTAINER_MAX => {
                self.fail(format!("{uid:?}: a wait was refused below the limit"));
            }
            (Asked::Create(uid), FailureKind::Overloaded) if self.life(uid).container.is_none() => {
                self.fail(format!("{uid:?}: a container is not limited"));
            }
            (Asked::Wait(uid), FailureKind::WrongState) if self.life(uid).told.is_some() => {
                self.fail(format!("{uid:?}: a wait was refused, and its exit is known"));
            }
            _ => {}
        }
    }

    /// How many wait for an exit, and how many execs there are, of one container and of all.
    pub fn bounds(&mut self, of_container: usize, of_all: usize) {
        let mut waiters: BTreeMap<u64, usize> = BTreeMap::new();
        for asked in self.asked.values() {
            if let Asked::Wait(Uid(uid)) = asked {
                *waiters.entry(*uid).or_default() += 1;
            }
        }
        let most = waiters.values().copied().max().unwrap_or(0);
        if most > WAITERS_PER_CONTAINER_MAX || of_container > EXECS_PER_CONTAINER_MAX || of_all > EXECS_MAX {
            self.fail(format!("over the limits: {most} waiters, {of_container} execs of one, {of_all} of all"));
        }
    }

    /// Nothing happens any more, and everything was deleted: nobody may still wait.
    pub fn at_rest(&mut self) {
        if let Some((ticket, asked)) = self.asked.iter().next() {
            self.fail(format!("{ticket:?}, {asked:?}: never answered"));
        }
        let told: BTreeSet<Uid> =
            self.lives.iter().filter(|(_, life)| life.told.is_some()).map(|(uid, _)| *uid).collect();
        let missing = self.lives.iter().find(|(uid, life)| life.added && !told.contains(uid));
        if let Some((uid, _)) = missing {
            self.fail(format!("{uid:?}: created, and its exit was never told"));
        }
    }
}
