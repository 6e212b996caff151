//! `brood-bench throughput`: launches per second when several are in flight on one RPC connection, beside the floor's.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;

use crate::bundle::Bundle;
use crate::contenders::{self, Contender, LAUNCH_LIMIT};
use crate::daemon::Daemon;
use crate::floor::Floor;
use crate::interrupt;
use crate::machine::Machine;
use crate::report;
use crate::session::{self, Session};
use crate::stats::{Summary, micros};

/// The launches are spread over so many rounds, in each of which everybody has a turn: noise hits all alike.
const ROUNDS: u32 = 4;

/// Options of `throughput`.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of launches in flight
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: Vec<u32>,
    /// Launches for each of these numbers, and of the floor
    #[arg(short, long = "count", value_name = "COUNT", default_value_t = 400, value_parser = clap::value_parser!(u32).range(4..))]
    n: u32,
    /// Launches before those, not recorded
    #[arg(long, default_value_t = 10)]
    warmup: u32,
    /// Give each container a network namespace of its own
    #[arg(long)]
    netns: bool,
    /// Where the JSON file goes
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// The brood to measure [default: the one beside this executable]
    #[arg(long, value_name = "FILE")]
    brood: Option<PathBuf>,
}

/// One run.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Machine,
    netns: bool,
    launches: u32,
    version: String,
    /// The floor first; then by number in flight.
    lines: Vec<Line>,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    in_flight: u32,
    launches_per_second: f64,
    /// Of single launches, as their caller sees them.
    latency: Summary,
}

/// What is measured in turns: the time that was spent, and every launch's own.
#[derive(Default)]
struct Lane {
    busy: Duration,
    samples_us: Vec<f64>,
}

/// The whole run.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "must be run as root: containers need it");
    interrupt::install()?;
    let machine = Machine::survey();
    let bundle = Rc::new(Bundle::create(options.netns)?);
    let program = contenders::ours("brood", options.brood.as_deref())?;
    let daemon = Daemon::start(&program, bundle.scratch("state")?.join("daemon"))?;
    let session = Session::connect(&daemon.socket())?;
    let mut floor = Floor::new(Rc::clone(&bundle));
    floor.prepare().context("floor")?;
    let measured = measure(options, &bundle, &session, &mut floor);
    floor.finish()?;
    let Some(lanes) = measured? else {
        eprintln!("brood-bench: interrupted; nothing is reported");
        return Ok(ExitCode::from(interrupt::STATUS));
    };
    let (floor_lane, rpc_lanes) = lanes.split_first().context("nothing was measured")?;
    let rpc = options.in_flight.iter().zip(rpc_lanes);
    let lines = std::iter::once(floor_lane.line("floor", 1)).chain(rpc.map(|(k, lane)| lane.line("brood (RPC)", *k)));
    let lines = lines.collect::<Option<Vec<Line>>>().context("nothing was measured")?;
    let outcome = Outcome { machine, netns: options.netns, launches: options.n, version: session.version()?, lines };
    print(&outcome)?;
    std::fs::create_dir_all(&options.out).with_context(|| format!("cannot make {}", options.out.display()))?;
    let stem = if options.netns { "throughput-netns" } else { "throughput" };
    let json = options.out.join(format!("{stem}.json"));
    report::write_json(&outcome, &json)?;
    eprintln!("wrote {}", json.display());
    Ok(ExitCode::SUCCESS)
}

/// The rounds; `None` when the user wanted the end. The floor is first of the lanes.
fn measure(options: &Options, bundle: &Bundle, session: &Session, floor: &mut Floor) -> Result<Option<Vec<Lane>>> {
    let mut next_id = 0;
    for _ in 0..options.warmup {
        floor.launch_once().context("floor")?;
    }
    in_flight(session, &bundle.path(), &mut next_id, options.warmup, 2, &mut Lane::default())?;
    let mut lanes: Vec<Lane> = std::iter::repeat_with(Lane::default).take(options.in_flight.len() + 1).collect();
    for round in 0..ROUNDS {
        let share = options.n / ROUNDS + u32::from(round < options.n % ROUNDS);
        for _ in 0..share {
            let (started, lane) = (Instant::now(), &mut lanes[0]);
            lane.samples_us.push(micros(floor.launch_once().context("floor")?));
            lane.busy += started.elapsed();
            if interrupt::requested() {
                return Ok(None);
            }
        }
        for (&width, lane) in options.in_flight.iter().zip(&mut lanes[1..]) {
            in_flight(session, &bundle.path(), &mut next_id, share, width, lane)?;
            if interrupt::requested() {
                return Ok(None);
            }
        }
    }
    Ok(Some(lanes))
}

/// So many launches, never more than `width` of them at a time, none between two answers.
fn in_flight(
    session: &Session,
    bundle: &Path,
    next_id: &mut u64,
    total: u32,
    width: u32,
    lane: &mut Lane,
) -> Result<()> {
    let started = Instant::now();
    session.run_within(LAUNCH_LIMIT.saturating_mul(total.max(1)), async {
        let mut left = total;
        let mut flying = FuturesUnordered::new();
        loop {
            while left > 0 && flying.len() < width as usize && !interrupt::requested() {
                left -= 1;
                *next_id += 1;
                let create = session::to_run(format!("brood-bench-{next_id}"), bundle.to_path_buf());
                flying.push(async move { session::launch(session.client(), &create).await });
            }
            match flying.next().await {
                Some(time) => lane.samples_us.push(micros(time?)),
                None => return Ok(()),
            }
        }
    })?;
    lane.busy += started.elapsed();
    Ok(())
}

impl Lane {
    fn line(&self, name: &str, in_flight: u32) -> Option<Line> {
        let latency = Summary::of(&self.samples_us)?;
        let launches_per_second = self.samples_us.len() as f64 / self.busy.as_secs_f64();
        Some(Line { name: name.to_owned(), in_flight, launches_per_second, latency })
    }
}

fn print(outcome: &Outcome) -> Result<()> {
    let mut out = io::stdout().lock();
    let netns = if outcome.netns { "with" } else { "without" };
    writeln!(out, "{}", outcome.machine.line())?;
    writeln!(
        out,
        "{} launches each in {ROUNDS} turns, {netns} network namespace; latency in milliseconds",
        outcome.launches
    )?;
    writeln!(out, "{}\n", outcome.version)?;
    writeln!(
        out,
        "{:12} {:>9} {:>10} {:>9} {:>10} {:>10} {:>10}",
        "", "in flight", "launches/s", "x floor", "median", "p90", "p99"
    )?;
    let floor = outcome.lines.first().map_or(f64::NAN, |line| line.launches_per_second);
    for Line { name, in_flight, launches_per_second: rate, latency } in &outcome.lines {
        write!(out, "{name:12} {in_flight:>9} {rate:>10.0} {:>9.2}", rate / floor)?;
        for time in [latency.median_us, latency.p90_us, latency.p99_us] {
            write!(out, " {:>10.2}", time / 1000.0)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
