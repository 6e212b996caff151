//! A million lifecycles, and proof that the checker would have found something.

#![expect(clippy::print_stdout, reason = "the figures of a test that passed")]

use brood_sim::{cores, run, scale};

/// More with BROOD_SIM_LIFECYCLES, others with BROOD_SIM_FIRST.
const LIFECYCLES: u64 = 1_000_000;
/// A broken core is found long before this.
const LIFECYCLES_OF_A_MUTANT: u64 = 300_000;

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn a_million_lifecycles_keep_every_promise() {
    let lifecycles = parameter("BROOD_SIM_LIFECYCLES", LIFECYCLES);
    let tally = match run::many(parameter("BROOD_SIM_FIRST", 0), lifecycles, threads(), cores::real) {
        Ok(tally) => tally,
        Err(run::Failure { seed, violation }) => {
            let world = run::world(seed, None, cores::real, true);
            let log = world.log();
            let tail = log[log.len().saturating_sub(40)..].join("\n");
            panic!("{tail}\nseed {seed}: {violation}\nreplay: cargo run -q -p brood-sim -- --seed {seed} [--shrink]");
        }
    };
    println!("{tally}");
    // It was no fair weather.
    let rough = [tally.supervisors_killed, tally.keepers_killed, tally.exits_lost, tally.overloaded];
    assert!(rough.iter().all(|count| *count > lifecycles / 1000), "{tally}");
}

#[test]
fn every_broken_core_is_found() {
    let unfound = cores::MUTANTS.iter().filter(|mutant| {
        let core = cores::broken(mutant.name).expect("build.rs made it");
        match run::many(0, LIFECYCLES_OF_A_MUTANT, threads(), core) {
            Ok(_) => true,
            Err(run::Failure { seed, violation }) => {
                println!("{}: seed {seed}: {violation}", mutant.name);
                false
            }
        }
    });
    let unfound: Vec<&str> = unfound.map(|mutant| mutant.name).collect();
    assert!(unfound.is_empty(), "the checker found nothing wrong with {unfound:?}");
}

#[test]
fn a_seed_is_one_history() {
    let logs = [(); 2]
        .map(|()| (0..50).map(|seed| run::world(seed, None, cores::real, true).log().join("\n")).collect::<Vec<_>>());
    assert!(logs[0] == logs[1]);
    assert!(logs[0][0] != logs[0][1]);
}

/// The figures are printed, not judged; that nothing is left is.
#[test]
fn a_large_node_is_counted_to_its_last_container() {
    println!("{}\n{}", scale::HEAD, scale::measure(50_000));
}
