//! `brood-bench idle`: what containers cost that do nothing: memory and descriptors of Brood's own processes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::bundle::Bundle;
use crate::daemon::Daemon;
use crate::machine::Machine;
use crate::processes::{self, Usage};
use crate::session::{self, Session};
use crate::stats::{Summary, micros};
use crate::{contenders, interrupt, report};

/// The latest starts, at the count in question, whose latency is reported.
const LATEST: usize = 50;
/// Calls of `list`, of which the table shows the median.
const LISTS: usize = 20;

/// Options of `idle`.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of idle containers to look at
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0, 200])]
    counts: Vec<usize>,
    /// Containers that come and go before the first look, so that it is not at an untouched heap
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
    version: String,
    stages: Vec<Stage>,
    /// From SIGTERM to the end of a daemon that kills and removes all of them.
    stop_us: f64,
}

/// One look.
#[derive(Debug, Serialize)]
struct Stage {
    containers: usize,
    processes: Vec<Usage>,
    /// Per container more than at the look before.
    growth: Option<Growth>,
    /// How many of the latest starts `start` sums up.
    starts: usize,
    /// Latency of the latest starts, when there were any since the look before.
    start: Option<Summary>,
    list: Summary,
}

/// What one more container costs, over all processes.
#[derive(Debug, Serialize)]
struct Growth {
    pss_bytes: f64,
    private_bytes: f64,
    descriptors: f64,
}

/// The whole run. The containers go with the daemon, which goes with its value, however this ends.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "must be run as root: containers need it");
    interrupt::install()?;
    let machine = Machine::survey();
    let bundle = Bundle::create(options.netns)?;
    let program = contenders::ours("brood", options.brood.as_deref())?;
    let mut daemon = Daemon::start(&program, bundle.scratch("state")?.join("daemon"))?;
    let session = Session::connect(&daemon.socket())?;
    let Some(stages) = measure(options, &bundle, &daemon, &session)? else {
        eprintln!("brood-bench: interrupted; nothing is reported");
        return Ok(ExitCode::from(interrupt::STATUS));
    };
    let version = session.version()?;
    drop(session);
    let stopping = Instant::now();
    daemon.stop()?;
    let stop_us = micros(stopping.elapsed());
    let outcome = Outcome { machine, netns: options.netns, version, stages, stop_us };
    print(&outcome)?;
    std::fs::create_dir_all(&options.out).with_context(|| format!("cannot make {}", options.out.display()))?;
    let json = options.out.join(if options.netns { "idle-netns.json" } else { "idle.json" });
    report::write_json(&outcome, &json)?;
    eprintln!("wrote {}", json.display());
    Ok(ExitCode::SUCCESS)
}

/// Count after count, upwards; `None` when the user wanted the end.
fn measure(options: &Options, bundle: &Bundle, daemon: &Daemon, session: &Session) -> Result<Option<Vec<Stage>>> {
    for number in 0..options.warmup {
        let create = session::to_run(format!("brood-bench-warmup-{number}"), bundle.path());
        session.run(session::launch(session.client(), &create)).context("warm-up")?;
    }
    let mut counts = options.counts.clone();
    counts.sort_unstable();
    let (mut up, mut stages) = (0, Vec::<Stage>::new());
    for count in counts {
        let mut samples_us = Vec::new();
        while up < count {
            if interrupt::requested() {
                return Ok(None);
            }
            up += 1;
            let create = session::to_run(format!("brood-bench-{up}"), bundle.idle_path());
            let time = session.run(session::start(session.client(), &create));
            samples_us.push(micros(time.with_context(|| format!("container {up}"))?));
        }
        let latest = &samples_us[samples_us.len().saturating_sub(LATEST)..];
        let (starts, start) = (latest.len(), Summary::of(latest));
        let list = time_list(session, count)?;
        let processes = processes::of_daemon(daemon.keeper()?)?;
        let growth = stages.last().filter(|last| last.containers < count).map(|last| {
            let per_container = |value: fn(&Usage) -> u64| {
                let sum = |usages: &[Usage]| usages.iter().map(value).sum::<u64>() as f64;
                (sum(&processes) - sum(&last.processes)) / (count - last.containers) as f64
            };
            Growth {
                pss_bytes: per_container(|usage| usage.pss_bytes),
                private_bytes: per_container(|usage| usage.private_bytes),
                descriptors: per_container(|usage| usage.descriptors),
            }
        });
        stages.push(Stage { containers: count, processes, growth, starts, start, list });
    }
    Ok(Some(stages))
}

/// Times `list`, which must name every container.
fn time_list(session: &Session, count: usize) -> Result<Summary> {
    let mut samples_us = Vec::new();
    for _ in 0..LISTS {
        let started = Instant::now();
        let listed = session.list()?;
        samples_us.push(micros(started.elapsed()));
        ensure!(listed as usize == count, "list says {listed} containers, there are {count}");
    }
    Summary::of(&samples_us).context("list was never called")
}

fn print(outcome: &Outcome) -> Result<()> {
    let mut out = io::stdout().lock();
    let kib = |bytes: u64| bytes / 1024;
    writeln!(out, "{}", outcome.machine.line())?;
    writeln!(out, "{}; busybox sleep, output to files; KiB\n", outcome.version)?;
    writeln!(
        out,
        "{:>10} {:12} {:>8} {:>8} {:>8} {:>11} {:>7}",
        "containers", "process", "RSS", "PSS", "private", "descriptors", "threads"
    )?;
    for stage in &outcome.stages {
        let mut seen = BTreeMap::<&str, u32>::new();
        for usage in &stage.processes {
            let number = seen.entry(&usage.role).and_modify(|number| *number += 1).or_insert(1);
            let name = if usage.role == "zygote" { format!("zygote {number}") } else { usage.role.clone() };
            let (rss, pss, private) = (kib(usage.rss_bytes), kib(usage.pss_bytes), kib(usage.private_bytes));
            let Usage { descriptors, threads, .. } = usage;
            let containers = stage.containers;
            writeln!(out, "{containers:>10} {name:12} {rss:>8} {pss:>8} {private:>8} {descriptors:>11} {threads:>7}")?;
        }
    }
    writeln!(out)?;
    for stage in &outcome.stages {
        write!(out, "{} containers: list {:.2} ms", stage.containers, stage.list.median_us / 1000.0)?;
        if let Some(start) = &stage.start {
            let starts = stage.starts;
            let (p50, p99) = (start.median_us / 1000.0, start.p99_us / 1000.0);
            write!(out, ", start (last {starts}) p50 {p50:.2} ms, p99 {p99:.2} ms")?;
        }
        writeln!(out)?;
        if let Some(Growth { pss_bytes, private_bytes, descriptors }) = &stage.growth {
            writeln!(
                out,
                "    per container: {pss_bytes:.0} bytes PSS, {private_bytes:.0} bytes private, {descriptors:.2} descriptors"
            )?;
        }
    }
    writeln!(out, "stop, all killed and removed: {:.0} ms", outcome.stop_us / 1000.0)?;
    Ok(())
}
