//! Many seeds, one seed, the shortest history that fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cores::MakeCore;
use crate::random::Random;
use crate::world::{Weather, World};

/// A history that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was wrong.
    pub violation: String,
}

/// What was simulated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Histories.
    pub seeds: u64,
    /// Containers and execs that were cloned and are gone.
    pub lifecycles: u64,
    /// Turns.
    pub turns: u64,
    /// Deaths of a supervisor.
    pub supervisors_killed: u64,
    /// Deaths of a keeper.
    pub keepers_killed: u64,
    /// Exits that nobody could know.
    pub exits_lost: u64,
    /// Refusals at a limit.
    pub overloaded: u64,
}

impl Tally {
    fn add(&mut self, world: &World) {
        self.seeds += 1;
        self.lifecycles += world.checker.finished;
        self.turns += world.turns;
        self.supervisors_killed += world.supervisors_killed;
        self.keepers_killed += world.keepers_killed;
        self.exits_lost += world.checker.lost;
        self.overloaded += world.checker.overloaded;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { seeds, lifecycles, turns, supervisors_killed, keepers_killed, exits_lost, overloaded } = self;
        write!(
            f,
            "{lifecycles} lifecycles in {seeds} histories, {turns} turns; killed: {supervisors_killed} supervisors, "
        )?;
        write!(f, "{keepers_killed} keepers; {exits_lost} exits lost for good, {overloaded} refusals at a limit")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn panic_text(panic: &dyn std::any::Any) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

/// Runs a seed; with its log if somebody wants to read it.
#[must_use]
pub fn world(seed: u64, weather: Option<Weather>, core: MakeCore, log: bool) -> World {
    let mut world = World::new(seed, weather, core, log);
    world.run();
    world
}

/// Runs seeds from `first` on, on `threads` threads, until there were so many lifecycles.
///
/// # Errors
/// The failure with the lowest seed of those found.
pub fn many(first: u64, lifecycles: u64, threads: usize, core: MakeCore) -> Result<Tally, Failure> {
    let (next, tally) = (AtomicU64::new(first), Mutex::new(Tally::default()));
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let work = || {
        while locked(&failure).is_none() && locked(&tally).lifecycles < lifecycles {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let violation = match std::panic::catch_unwind(|| world(seed, None, core, false)) {
                Ok(world) => {
                    locked(&tally).add(&world);
                    world.checker.violation
                }
                Err(panic) => Some(format!("the core panicked: {}", panic_text(&*panic))),
            };
            let Some(violation) = violation else { continue };
            let mut failure = locked(&failure);
            if failure.as_ref().is_none_or(|other| seed < other.seed) {
                *failure = Some(Failure { seed, violation });
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failure = locked(&failure).take();
    failure.map_or_else(|| Ok(*locked(&tally)), Err)
}

/// Looks for a short history that fails in the same way, in calmer and calmer weather. Returns its seed, its weather and
/// its violation.
#[must_use]
pub fn shortest(seed: u64, core: MakeCore) -> Option<(u64, Weather, World)> {
    let kind = |text: &str| text.chars().filter(|character| !character.is_ascii_digit()).collect::<String>();
    let mut weather = Weather::draw(&mut Random::new(seed));
    let mut best = world(seed, None, core, true);
    let wanted = kind(best.checker.violation.as_deref()?);
    let mut found = seed;
    let calmer: [fn(&mut Weather); 9] = [
        |weather| weather.names = 1,
        |weather| weather.clients = 1,
        |weather| weather.fault = 0,
        |weather| weather.bad_child = 0,
        |weather| weather.keeper_crash = 0,
        |weather| weather.crash = 0,
        |weather| weather.commands /= 2,
        |weather| weather.commands /= 2,
        |weather| weather.commands -= weather.commands / 4,
    ];
    loop {
        let before = best.log().len();
        for change in calmer {
            let mut candidate = weather.clone();
            change(&mut candidate);
            for seed in 0..3000 {
                let mut world = World::new(seed, Some(candidate.clone()), core, false);
                world.run();
                if world.checker.violation.as_deref().map(kind).as_ref() != Some(&wanted) {
                    continue;
                }
                let logged = self::world(seed, Some(candidate.clone()), core, true);
                if logged.log().len() < best.log().len() {
                    (best, found, weather) = (logged, seed, candidate.clone());
                }
            }
        }
        if best.log().len() == before {
            return Some((found, weather, best));
        }
    }
}
