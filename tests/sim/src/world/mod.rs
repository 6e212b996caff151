//! The world around the core, and who is next. Whatever can happen is an [`Option`](Turn); one of them is drawn, and
//! happens to the end, unless the supervisor is killed in between.

mod clients;
pub mod disk;
mod keeper;
pub mod kernel;
mod launch;
mod recover;
mod rest;
mod supervisor;

use brood_launcher::state::PidRecord;

pub use crate::checker::Uid;
use crate::checker::{Asked, Checker};
use crate::cores::MakeCore;
use crate::random::Random;
use crate::registry::Instance;
use clients::Clients;
use disk::Disk;
use keeper::Keeper;
use kernel::{Ending, Kernel, Parent, Stage};
use supervisor::Supervisor;

/// What kind of history: drawn from the seed, so that each has its own weather.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Commands that clients give.
    pub commands: u32,
    /// Clients.
    pub clients: usize,
    /// Names that containers may have.
    pub names: usize,
    /// Chance in a thousand that an effect or a step of one kills the supervisor.
    pub crash: u64,
    /// Chance in a thousand that a turn kills the keeper.
    pub keeper_crash: u64,
    /// Chance in a thousand that a system call fails.
    pub fault: u64,
    /// Chance in a thousand that a process fails or hangs while it is set up.
    pub bad_child: u64,
    /// The kernel tells the status of what others have reaped (Linux 6.15).
    pub kernel_tells: bool,
    /// Weights: clients, the ends of programs, all else.
    pub weights: [u64; 3],
}

impl Weather {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Weather {
        let often = |random: &mut Random, chances: &[u64]| chances[random.index(chances.len())];
        Weather {
            commands: 40 + random.below(160) as u32,
            clients: 1 + random.index(4),
            names: 1 + random.index(4),
            crash: often(random, &[0, 0, 1, 5, 30]),
            keeper_crash: often(random, &[0, 0, 0, 1, 5]),
            fault: often(random, &[0, 0, 10, 60]),
            bad_child: often(random, &[0, 50, 300]),
            kernel_tells: random.coin(),
            weights: [often(random, &[1, 4, 16]), often(random, &[1, 4]), often(random, &[2, 8])],
        }
    }
}

/// Something that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A client gives a command, or goes away.
    Client(usize),
    /// A task of the supervisor takes its next step.
    Task(usize),
    /// The supervisor notices that a pidfd is readable.
    Notice(Instance),
    /// The supervisor reads what the keeper says.
    HearKeeper,
    /// A child takes its steps.
    Child(PidRecord),
    /// A program ends.
    End(PidRecord),
    /// The keeper reaps, or reads what it is told.
    Keeper,
    /// The host's init process reaps.
    Host,
    /// The keeper, or an administrator, starts a supervisor.
    StartSupervisor,
}

/// Everything.
pub struct World {
    random: Random,
    weather: Weather,
    make_core: MakeCore,
    /// Nanoseconds since the beginning.
    now: u64,
    kernel: Kernel,
    disk: Disk,
    keeper: Option<Keeper>,
    supervisor: Option<Supervisor>,
    clients: Clients,
    /// Reaped by the host, and watched by the supervisor of now.
    only_watched: Vec<Uid>,
    last_uid: u64,
    last_ticket: u64,
    /// Nothing fails and nobody dies any more.
    calm: bool,
    /// What must hold.
    pub checker: Checker,
    log: Option<Vec<String>>,
    /// Turns taken.
    pub turns: u64,
    /// How often a supervisor died.
    pub supervisors_killed: u64,
    /// How often the keeper died.
    pub keepers_killed: u64,
}

/// Writes a line of the history, if somebody wants to read it.
macro_rules! say {
    ($world:expr, $($text:tt)*) => {
        if let Some(log) = &mut $world.log {
            log.push(format!("{:>10.3} ms  {}", $world.now as f64 / 1e6, format_args!($($text)*)));
        }
    };
}
use say;

/// More turns than any history needs.
const TURNS_MAX: u64 = 200_000;

impl World {
    /// The world of a seed, or of a weather of one's own.
    #[must_use]
    pub fn new(seed: u64, weather: Option<Weather>, make_core: MakeCore, log: bool) -> World {
        let mut random = Random::new(seed);
        let drawn = Weather::draw(&mut random);
        let weather = weather.unwrap_or(drawn);
        let mut world = World {
            clients: Clients::new(weather.clients, weather.commands),
            random,
            weather,
            make_core,
            now: 0,
            kernel: Kernel::default(),
            disk: Disk::default(),
            keeper: Some(Keeper::default()),
            supervisor: None,
            only_watched: Vec::new(),
            last_uid: 0,
            last_ticket: 0,
            calm: false,
            checker: Checker::default(),
            log: log.then(Vec::new),
            turns: 0,
            supervisors_killed: 0,
            keepers_killed: 0,
        };
        say!(world, "seed {seed}: {:?}", world.weather);
        world
    }

    /// Lets everything happen; then has everything end and be deleted, and looks at what is left.
    pub fn run(&mut self) {
        while self.clients.have_commands() && self.turn() {}
        self.come_to_rest();
    }

    /// The history so far, one line an event.
    #[must_use]
    pub fn log(&self) -> &[String] {
        self.log.as_deref().unwrap_or_default()
    }

    /// Whether all is well.
    fn is_sound(&mut self) -> bool {
        if self.turns > TURNS_MAX {
            self.checker.violation.get_or_insert("it does not come to rest".to_owned());
        }
        self.checker.violation.is_none()
    }

    /// Draws one of all that can happen next and lets it happen. False when nothing can, or something is wrong.
    fn turn(&mut self) -> bool {
        self.turns += 1;
        self.now += 1000 + self.random.below(4_000_000);
        if !self.calm && self.keeper.is_some() && self.random.permille(self.weather.keeper_crash) {
            self.kill_keeper();
        }
        let mut turns = Vec::with_capacity(16);
        self.collect(&mut turns);
        let total: u64 = turns.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return false;
        }
        let mut drawn = self.random.below(total);
        let turn = turns.iter().find(|(_, weight)| {
            let here = drawn < *weight;
            drawn = drawn.wrapping_sub(*weight);
            here
        });
        if let Some((turn, _)) = turn {
            self.take(*turn);
        }
        self.is_sound()
    }

    fn collect(&self, turns: &mut Vec<(Turn, u64)>) {
        let [client, end, other] = self.weather.weights;
        let moves = |process: &&kernel::Process| process.ending.is_none() && !self.kernel.is_frozen(process.cgroup);
        for process in self.kernel.iter().filter(moves) {
            match process.stage {
                Stage::SettingUp | Stage::Released => turns.push((Turn::Child(process.name), other)),
                Stage::Running => turns.push((Turn::End(process.name), end)),
                Stage::Hung | Stage::Parked | Stage::Failed => {}
            }
        }
        if self.kernel.ended_child(Parent::Host).is_some() {
            turns.push((Turn::Host, other));
        }
        if let Some(keeper) = &self.keeper
            && (keeper.has_to_read() || self.kernel.ended_child(Parent::Keeper).is_some())
        {
            turns.push((Turn::Keeper, other));
        }
        let Some(supervisor) = &self.supervisor else {
            return turns.push((Turn::StartSupervisor, other));
        };
        if self.clients.have_commands() {
            turns.extend((0..self.weather.clients).map(|one| (Turn::Client(one), client)));
        }
        let tasks = supervisor.tasks.iter().enumerate().filter(|(_, task)| self.can_go_on(task));
        turns.extend(tasks.map(|(index, _)| (Turn::Task(index), other)));
        let readable = supervisor.watched().filter(|(_, process)| self.is_readable(*process));
        turns.extend(readable.map(|(instance, _)| (Turn::Notice(instance), other)));
        let speaks = match &self.keeper {
            Some(keeper) => keeper.speaks(),
            None => supervisor.linked,
        };
        if speaks {
            turns.push((Turn::HearKeeper, other));
        }
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Client(client) => self.client(client),
            Turn::Task(index) => self.go_on(index),
            Turn::Notice(instance) => self.notice(instance),
            Turn::HearKeeper => self.hear_keeper(),
            Turn::Child(process) => self.child_steps(process),
            Turn::End(process) => {
                let code = self.random.below(4) as u8;
                self.end(process, Ending::Code(code));
            }
            Turn::Keeper => self.keeper_turn(),
            Turn::Host => self.host_reaps(),
            Turn::StartSupervisor => self.recover(),
        }
    }

    /// A pidfd of it is readable: it has ended, and waits to be reaped or was.
    fn is_readable(&self, process: PidRecord) -> bool {
        self.kernel.get(process).is_none() || self.kernel.waitable(process)
    }

    /// A process ends, perhaps with others.
    fn end(&mut self, process: PidRecord, ending: Ending) {
        for (process, ending) in self.kernel.end(process, ending) {
            let Some(uid) = self.kernel.get(process).map(|process| process.uid) else { continue };
            say!(self, "kernel: {} of {uid:?} ends: {ending:?}", process.pid);
            self.checker.ended(uid, ending);
        }
    }

    /// Nobody who would tell has its status: it went with a process that died, or to the host's init process.
    fn host_reaps(&mut self) {
        let Some(process) = self.kernel.ended_child(Parent::Host) else { return };
        let Some(uid) = self.kernel.get(process).map(|process| process.uid) else { return };
        say!(self, "host: reaps {} of {uid:?}", process.pid);
        self.kernel.reap(process);
        // Whoever watches it can still ask a new kernel.
        let watched = self.supervisor.as_ref().is_some_and(|one| one.watched().any(|(_, watched)| watched == process));
        if self.weather.kernel_tells && watched {
            self.only_watched.push(uid);
        } else {
            self.checker.status_lost(uid);
        }
    }

    fn new_uid(&mut self) -> Uid {
        self.last_uid += 1;
        Uid(self.last_uid)
    }

    /// A system call fails.
    fn faulty(&mut self) -> bool {
        !self.calm && self.random.permille(self.weather.fault)
    }

    /// Kills the supervisor, perhaps. True when it is dead: whatever it was doing ends here.
    fn crashes(&mut self) -> bool {
        if !self.calm && self.supervisor.is_some() && self.random.permille(self.weather.crash) {
            self.kill_supervisor();
        }
        self.supervisor.is_none()
    }

    fn kill_supervisor(&mut self) {
        say!(self, "=== the supervisor is killed");
        self.supervisor = None;
        self.supervisors_killed += 1;
        self.checker.crashed();
        self.clients.disconnect();
        self.kernel.deafen();
        self.only_watched.drain(..).for_each(|uid| self.checker.status_lost(uid));
        match &mut self.keeper {
            Some(keeper) => {
                self.kernel.orphan(Parent::Supervisor, Parent::Keeper);
                keeper.lose_supervisor(&mut self.random);
            }
            None => self.kernel.orphan(Parent::Supervisor, Parent::Host),
        }
    }

    fn kill_keeper(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        self.keepers_killed += 1;
        say!(self, "=== the keeper is killed");
        for (process, kept) in keeper.kept() {
            // Some of these may be durable; then nobody will say that they are lost.
            say!(self, "    with the exit of {} {kept:?}", process.pid);
        }
        keeper.uids().for_each(|uid| self.checker.status_lost(uid));
        self.kernel.orphan(Parent::Keeper, Parent::Host);
    }

    fn ticket(&mut self, asked: Asked) -> crate::registry::Ticket {
        self.last_ticket += 1;
        let ticket = crate::registry::Ticket(self.last_ticket);
        self.checker.asked(ticket, asked);
        ticket
    }
}
