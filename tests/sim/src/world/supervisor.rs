//! The supervisor's hands: what `core/src/supervisor` does with the core's effects, in this world. It can be killed before
//! each effect, and within those that are more than one system call.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use brood_launcher::state::{ExitRecord, PidRecord};

use super::disk::Told;
use super::keeper::Answer;
use super::kernel::Ending;
use super::launch::{Order, Task};
use super::{Uid, World, say};
use crate::cores::Core;
use crate::registry::{
    Effect, Event, EventKind, Failure, FailureKind, Inherited, Input, Instance, Reaper, Reply, Ticket,
};

/// A process on disk.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) container: String,
    pub(super) exec: Option<String>,
}

/// What is kept of a process beside the core's view.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) uid: Uid,
    /// That of its container.
    pub(super) cgroup: Uid,
    pub(super) place: Place,
    pub(super) process: PidRecord,
    /// Open until it is reaped.
    pub(super) pidfd: bool,
    /// The exit source reports a descriptor once.
    pub(super) noticed: bool,
    pub(super) reaper: Reaper,
}

/// All that a supervisor has in memory.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) core: Box<dyn Core>,
    pub(super) records: BTreeMap<Instance, Record>,
    pub(super) inherited: Inherited,
    pub(super) tasks: Vec<Task>,
    pub(super) orders: BTreeMap<Ticket, Order>,
    pub(super) uids: BTreeMap<Instance, Uid>,
    /// The keeper is not known to be gone.
    pub(super) linked: bool,
    /// Containers and execs whose removal has failed.
    pub(super) stuck: BTreeSet<Uid>,
    inputs: VecDeque<Input>,
    acting: bool,
}

impl Supervisor {
    pub(super) fn new(core: Box<dyn Core>, linked: bool) -> Supervisor {
        Supervisor {
            core,
            records: BTreeMap::new(),
            inherited: Inherited::default(),
            tasks: Vec::new(),
            orders: BTreeMap::new(),
            uids: BTreeMap::new(),
            linked,
            stuck: BTreeSet::new(),
            inputs: VecDeque::new(),
            acting: false,
        }
    }

    /// What the exit source watches.
    pub(super) fn watched(&self) -> impl Iterator<Item = (Instance, PidRecord)> {
        let watched = self.records.iter().filter(|(_, record)| record.pidfd && !record.noticed);
        watched.map(|(instance, record)| (*instance, record.process))
    }
}

impl World {
    pub(super) fn event(&mut self, instance: Instance, event: Event) {
        self.dispatch(Input::Event(instance, event));
    }

    /// Handles an input and its effects, and those that come up meanwhile, one after the other.
    pub(super) fn dispatch(&mut self, input: Input) {
        let Some(supervisor) = &mut self.supervisor else { return };
        supervisor.inputs.push_back(input);
        if std::mem::replace(&mut supervisor.acting, true) {
            return;
        }
        loop {
            let Some(supervisor) = &mut self.supervisor else { return };
            let Some(input) = supervisor.inputs.pop_front() else { break };
            say!(self, "core <- {input:?}");
            if let Input::Event(instance, event) = &input {
                self.note_event(*instance, event);
            }
            let Some(supervisor) = &mut self.supervisor else { return };
            for effect in supervisor.core.handle(input) {
                if self.crashes() {
                    return;
                }
                say!(self, "    core -> {effect:?}");
                self.act(effect);
            }
        }
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.acting = false;
        }
    }

    /// Tells the checker what the supervisor knows from now on.
    fn note_event(&mut self, instance: Instance, event: &Event) {
        let Some(supervisor) = &self.supervisor else { return };
        let Some(&uid) = supervisor.uids.get(&instance) else { return };
        match event {
            Event::SetUp { parked: false } | Event::Restored | Event::Released(Ok(())) => self.checker.runs(uid),
            Event::SetUpFailed(_) | Event::NotCloned(_) => self.checker.creation_failed(uid),
            Event::Exited(exit) if exit.never_ran => self.checker.never_ran(uid),
            Event::OutOfMemory => self.checker.out_of_memory(uid),
            _ => {}
        }
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Launch(instance, ticket) => self.begin_launch(instance, ticket),
            Effect::Release(instance) => self.begin(Task::Release(instance)),
            Effect::Signal { instance, signal, all, reply } => {
                let result = self.signal(instance, signal, all);
                if let Some(ticket) = reply {
                    self.reply(ticket, result.map_or_else(Reply::Refused, |()| Reply::Done));
                }
            }
            Effect::Freeze(instance) => self.begin(Task::ChangePace(instance, true)),
            Effect::Thaw(instance) => self.begin(Task::ChangePace(instance, false)),
            Effect::RecordExit(instance, exit) => self.record_exit(instance, exit),
            Effect::Reap(instance) => self.reap(instance),
            Effect::Discard(instance) => {
                self.strike_off(instance);
                if !self.crashes() {
                    self.reap(instance);
                }
            }
            Effect::Publish(instance, kind) => self.publish(instance, kind),
            Effect::Remove(instance) => self.begin(Task::Remove(instance)),
            Effect::Forget(instance) => {
                if let Some(supervisor) = &mut self.supervisor {
                    supervisor.records.remove(&instance);
                }
            }
            Effect::Reply(ticket, reply) => self.reply(ticket, reply),
        }
    }

    fn begin(&mut self, task: Task) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.tasks.push(task);
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.checker.replied(ticket, &reply);
    }

    fn record(&self, instance: Instance) -> Option<Record> {
        self.supervisor.as_ref()?.records.get(&instance).cloned()
    }

    fn signal(&mut self, instance: Instance, number: i32, all: bool) -> Result<(), Failure> {
        let not_running = || Failure::new(FailureKind::WrongState, "not running".to_owned());
        let record = self.record(instance).ok_or_else(not_running)?;
        if all {
            let members = self.kernel.members(record.cgroup);
            if number != libc::SIGKILL && members.is_empty() {
                return Err(not_running());
            }
            members.into_iter().for_each(|process| self.deliver(process, number));
            return Ok(());
        }
        if !record.pidfd || self.kernel.get(record.process).is_none() {
            return Err(not_running());
        }
        self.deliver(record.process, number);
        Ok(())
    }

    /// A signal may be handled or ignored, but for SIGKILL.
    fn deliver(&mut self, process: PidRecord, number: i32) {
        if number == libc::SIGKILL || self.random.coin() {
            self.end(process, Ending::Signal(number as u8));
        }
    }

    /// The journal, then the exit file.
    fn record_exit(&mut self, instance: Instance, exit: ExitRecord) {
        let Some(record) = self.record(instance) else { return };
        self.append(&record, Told::Exit(exit.clone()));
        if !self.crashes() {
            self.write_exit(record.uid, &record.place, exit);
        }
    }

    pub(super) fn write_exit(&mut self, uid: Uid, place: &Place, exit: ExitRecord) {
        if let Some(folder) = self.disk.process(&place.container, place.exec.as_deref()) {
            self.checker.exit_written(uid, &exit);
            folder.exit = Some(exit);
        }
    }

    /// From here on it is half made.
    fn strike_off(&mut self, instance: Instance) {
        let Some(record) = self.record(instance) else { return };
        if let Some(folder) = self.disk.process(&record.place.container, record.place.exec.as_deref()) {
            folder.pid = None;
        }
    }

    fn publish(&mut self, instance: Instance, kind: EventKind) {
        if let Some(record) = self.record(instance) {
            self.append(&record, Told::Event(kind));
        }
    }

    fn append(&mut self, record: &Record, told: Told) {
        say!(self, "journal: {:?} {told:?}", record.uid);
        self.checker.told(record.uid, &told);
        let frozen = self.kernel.is_frozen(record.cgroup);
        if matches!(told, Told::Event(EventKind::Paused)) && !frozen
            || matches!(told, Told::Event(EventKind::Resumed)) && frozen
        {
            self.checker.violation.get_or_insert(format!("{:?}: told {told:?}, and it is not so", record.uid));
        }
        self.disk.last_exit = match told {
            Told::Exit(exit) => Some((record.place.clone(), record.process, exit)),
            Told::Event(_) => None,
        };
    }

    fn reap(&mut self, instance: Instance) {
        let Some(supervisor) = &mut self.supervisor else { return };
        let Some(record) = supervisor.records.get_mut(&instance) else { return };
        record.pidfd = false;
        let (uid, process, reaper) = (record.uid, record.process, record.reaper);
        self.checker.reaped(uid);
        if reaper == Reaper::Us {
            self.kernel.reap(process);
        } else {
            supervisor.inherited.told(process);
            self.tell_keeper(Answer::Recorded(process));
        }
    }

    /// The exit source reports its pidfd.
    pub(super) fn notice(&mut self, instance: Instance) {
        if let Some(record) = self.supervisor.as_mut().and_then(|supervisor| supervisor.records.get_mut(&instance)) {
            record.noticed = true;
        }
        self.on_exit(instance);
    }

    pub(super) fn on_exit(&mut self, instance: Instance) {
        let Some(record) = self.record(instance).filter(|record| record.pidfd) else { return };
        let Some(supervisor) = &mut self.supervisor else { return };
        let process = self.kernel.get(record.process);
        let zombie = process.and_then(|process| Some(process.record(process.ending?, self.now)));
        let told = |ending: Ending| ending.record(self.now);
        let exit = match record.reaper {
            Reaper::Us => match zombie {
                Some(exit) => exit,
                None => ExitRecord::unknown("waitid", self.now),
            },
            Reaper::Keeper if supervisor.linked => return supervisor.inherited.await_keeper(instance),
            Reaper::Keeper | Reaper::Stranger => match zombie.or_else(|| self.asked_kernel(record.uid).map(told)) {
                Some(exit) => exit,
                None => ExitRecord::unknown("reaped by another process", self.now),
            },
        };
        self.perhaps_out_of_memory(instance, &record);
        self.event(instance, Event::Exited(exit));
    }

    /// What ended was killed for memory, or something else in the container was, as its counter says now.
    fn perhaps_out_of_memory(&mut self, instance: Instance, record: &Record) {
        if self.calm || !self.random.permille(100) {
            return;
        }
        let container = match &record.place.exec {
            None => Some(instance),
            Some(_) => self.supervisor.as_ref().and_then(|supervisor| supervisor.core.find(&record.place.container)),
        };
        if let Some(container) = container {
            self.event(container, Event::OutOfMemory);
        }
    }

    /// Of a process that others have reaped, while a pidfd of it is open.
    fn asked_kernel(&self, uid: Uid) -> Option<Ending> {
        if self.weather.kernel_tells { self.checker.truth(uid) } else { None }
    }
}
