//! `brood-sim`: many seeds, or one of them to be read.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use brood_sim::{cores, run, scale};
use clap::Parser;

/// Simulates the pure core with clients, kernel, disk, faults and crashes, from a seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// Replay this seed and print its history.
    #[arg(long)]
    seed: Option<u64>,
    /// Then look for the shortest history that fails in the same way, and print that.
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Containers and execs to simulate, from clone to removal.
    #[arg(long, default_value_t = 1_000_000)]
    lifecycles: u64,
    /// The first seed of many.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Threads; by default as many as there are processors.
    #[arg(long)]
    threads: Option<usize>,
    /// Instead, time the core among so many containers.
    #[arg(long, value_name = "CONTAINERS", num_args = 1..)]
    scale: Vec<usize>,
    /// A core that is broken on purpose, by its name in mutants.rs.
    #[arg(long)]
    mutant: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let core = match &arguments.mutant {
        None => cores::real,
        Some(name) => cores::broken(name).ok_or_else(|| anyhow::anyhow!("no such mutant: {name}"))?,
    };
    let mut out = std::io::stdout().lock();
    if !arguments.scale.is_empty() {
        writeln!(out, "{}", scale::HEAD)?;
        arguments.scale.iter().try_for_each(|containers| writeln!(out, "{}", scale::measure(*containers)))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(seed) = arguments.seed {
        let world = if arguments.shrink { run::shortest(seed, core).map(|(_, _, world)| world) } else { None };
        let world = world.unwrap_or_else(|| run::world(seed, None, core, true));
        world.log().iter().try_for_each(|line| writeln!(out, "{line}"))?;
        return Ok(match &world.checker.violation {
            Some(violation) => {
                writeln!(out, "WRONG: {violation}")?;
                ExitCode::FAILURE
            }
            None => {
                writeln!(out, "all is well: {} turns, {} lifecycles", world.turns, world.checker.finished)?;
                ExitCode::SUCCESS
            }
        });
    }
    let threads = arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let began = Instant::now();
    match run::many(arguments.first, arguments.lifecycles, threads, core) {
        Ok(tally) => {
            let seconds = began.elapsed().as_secs_f64();
            let rate = tally.lifecycles as f64 / seconds;
            writeln!(out, "{tally}\n{seconds:.1} s, {rate:.0} lifecycles a second")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(run::Failure { seed, violation }) => {
            writeln!(out, "seed {seed}: {violation}\nreplay: cargo run -q -p brood-sim -- --seed {seed}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
