//! Processes: pids that are used again, zombies, parents that die, pid namespaces.

use std::collections::{BTreeMap, BTreeSet};

use brood_launcher::state::{ExitRecord, PidRecord};

use super::Uid;

/// Pids are so few that they are used again all the time.
const PID_MAX: i32 = 90;

/// Who reaps a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The supervisor that cloned it.
    Supervisor,
    /// The keeper, after a supervisor's death.
    Keeper,
    /// The host's init process, after the keeper's.
    Host,
}

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Walks through its steps.
    SettingUp,
    /// The same, and will never report.
    Hung,
    /// A step failed: it has said so and ended.
    Failed,
    /// Waits for its start.
    Parked,
    /// Released, not at its program yet.
    Released,
    /// The program runs.
    Running,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// exit(2).
    Code(u8),
    /// A signal.
    Signal(u8),
}

impl Ending {
    /// As a record.
    #[must_use]
    pub fn record(self, time_ns: u64) -> ExitRecord {
        match self {
            Ending::Code(code) => ExitRecord::new(Some(code), None, time_ns),
            Ending::Signal(signal) => ExitRecord::new(None, Some(signal), time_ns),
        }
    }
}

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Pid and start time.
    pub name: PidRecord,
    /// Whose process it is.
    pub uid: Uid,
    /// In whose cgroup.
    pub cgroup: Uid,
    /// Who reaps it.
    pub parent: Parent,
    /// The pid namespace, named by the container that made it; `None` for the host's.
    pub namespace: Option<Uid>,
    /// The first in it.
    pub leads: bool,
    /// How far it is.
    pub stage: Stage,
    /// It waits for a start after set-up.
    pub parks: bool,
    /// Somebody reads its reports; without, it may go on or end at the next one.
    pub heard: bool,
    /// Once it has ended; then it is a zombie.
    pub ending: Option<Ending>,
}

impl Process {
    /// How it ended, as whoever looks at the zombie sees it.
    #[must_use]
    pub fn record(&self, ending: Ending, time_ns: u64) -> ExitRecord {
        ExitRecord { never_ran: self.stage != Stage::Running, ..ending.record(time_ns) }
    }
}

/// All processes.
#[derive(Debug, Default)]
pub struct Kernel {
    processes: BTreeMap<i32, Process>,
    frozen: BTreeSet<Uid>,
    last_pid: i32,
    ticks: u64,
}

impl Kernel {
    /// clone3(2). The new process is the supervisor's.
    pub fn clone_process(&mut self, make: impl FnOnce(PidRecord) -> Process) -> PidRecord {
        loop {
            self.last_pid = self.last_pid % PID_MAX + 1;
            if !self.processes.contains_key(&self.last_pid) {
                break;
            }
        }
        self.ticks += 1;
        let name = PidRecord { pid: self.last_pid, start_time: self.ticks };
        self.processes.insert(name.pid, make(name));
        name
    }

    /// Whether no pid is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.processes.len() >= PID_MAX as usize
    }

    /// All of them, zombies included.
    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// The process, if it has not been reaped.
    #[must_use]
    pub fn get(&self, name: PidRecord) -> Option<&Process> {
        self.processes.get(&name.pid).filter(|process| process.name == name)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, name: PidRecord) -> Option<&mut Process> {
        self.processes.get_mut(&name.pid).filter(|process| process.name == name)
    }

    /// Whether it lives.
    #[must_use]
    pub fn runs(&self, name: PidRecord) -> bool {
        self.get(name).is_some_and(|process| process.ending.is_none())
    }

    /// It ends, and with the first one of a pid namespace all in there. Returns those that ended, and how.
    pub fn end(&mut self, name: PidRecord, ending: Ending) -> Vec<(PidRecord, Ending)> {
        let Some(process) = self.get_mut(name).filter(|process| process.ending.is_none()) else { return Vec::new() };
        process.ending = Some(ending);
        let mut ended = vec![(name, ending)];
        if let (true, Some(namespace)) = (process.leads, process.namespace) {
            for other in self.processes.values_mut() {
                if other.namespace == Some(namespace) && other.ending.is_none() {
                    other.ending = Some(Ending::Signal(libc::SIGKILL as u8));
                    ended.push((other.name, Ending::Signal(libc::SIGKILL as u8)));
                }
            }
        }
        ended
    }

    /// Whether wait(2) finds it, and its pidfd is readable: the first one of a pid namespace ends last, when all others
    /// in there have been reaped (pid_namespaces(7)).
    #[must_use]
    pub fn waitable(&self, name: PidRecord) -> bool {
        let Some(process) = self.get(name).filter(|process| process.ending.is_some()) else { return false };
        let alone = || {
            let mut others = self.processes.values().filter(|other| other.namespace == process.namespace);
            others.all(|other| other.name == name)
        };
        !process.leads || alone()
    }

    /// wait(2): the zombie goes.
    pub fn reap(&mut self, name: PidRecord) -> Option<Ending> {
        if !self.waitable(name) {
            return None;
        }
        self.processes.remove(&name.pid).and_then(|process| process.ending)
    }

    /// The first zombie of a parent that can be reaped.
    #[must_use]
    pub fn ended_child(&self, parent: Parent) -> Option<PidRecord> {
        let mut children =
            self.processes.values().filter(|process| process.parent == parent && process.ending.is_some());
        children.find(|process| self.waitable(process.name)).map(|process| process.name)
    }

    /// A parent dies: its children get another, and nobody reads their reports.
    pub fn orphan(&mut self, from: Parent, to: Parent) {
        for process in self.processes.values_mut().filter(|process| process.parent == from) {
            process.parent = to;
        }
    }

    /// Nobody reads reports any more.
    pub fn deafen(&mut self) {
        self.processes.values_mut().for_each(|process| process.heard = false);
    }

    /// `cgroup.freeze`: its processes stand still, and can be killed.
    pub fn freeze(&mut self, cgroup: Uid, frozen: bool) {
        let _ = if frozen { self.frozen.insert(cgroup) } else { self.frozen.remove(&cgroup) };
    }

    /// Whether it is.
    #[must_use]
    pub fn is_frozen(&self, cgroup: Uid) -> bool {
        self.frozen.contains(&cgroup)
    }

    /// Those of a cgroup that live.
    #[must_use]
    pub fn members(&self, cgroup: Uid) -> Vec<PidRecord> {
        let members = self.processes.values().filter(|process| process.cgroup == cgroup && process.ending.is_none());
        members.map(|process| process.name).collect()
    }
}
