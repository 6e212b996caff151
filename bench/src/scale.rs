//! `brood-bench scale`: what changes as a node fills with idle containers: latency of a start and of an exit, the list, the
//! time without a supervisor, memory and descriptors; and at last all of them end at once.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::bundle::Bundle;
use crate::contenders::{self, Contender};
use crate::daemon::Daemon;
use crate::floor::Floor;
use crate::machine::Machine;
use crate::processes::{self, Usage};
use crate::session::{self, Session};
use crate::stats::{Summary, micros};
use crate::{interrupt, memory, report};

/// How long all exits, or a supervisor, may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Containers that one connection waits for, each two questions: a handle and a wait.
const PER_CONNECTION: usize = 5000;
/// Calls of `list`.
const LISTS: usize = 10;

/// Options of `scale`.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of idle containers to look at
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0, 100, 1000])]
    counts: Vec<usize>,
    /// Starts and exits that are timed at each of them, in turns with the floor
    #[arg(short, long = "count", value_name = "COUNT", default_value_t = 50)]
    n: usize,
    /// Do not fetch memory from the hypervisor before starts are timed
    #[arg(long)]
    cold_memory: bool,
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
    version: String,
    stages: Vec<Stage>,
    /// From the first kill of all containers to the answer to the last wait.
    all_exits_ms: f64,
    /// Descriptors of all processes, after everything was removed.
    descriptors_after: u64,
}

/// One look.
#[derive(Debug, Serialize)]
struct Stage {
    containers: usize,
    /// What it took to fetch a page of memory that the kernel had no use for, in microseconds.
    page_us: Option<f64>,
    processes: Vec<Usage>,
    floor: Summary,
    start: Summary,
    /// Right after the removal of another container.
    start_after_removal: Summary,
    /// From SIGKILL to the answer to a wait.
    exit: Summary,
    list: Summary,
    /// From SIGKILL of the supervisor to the list by the next one.
    restart_ms: f64,
    /// From SIGHUP of the keeper to the list by the next supervisor.
    upgrade_ms: f64,
}

impl Stage {
    fn total(&self, value: fn(&Usage) -> u64) -> u64 {
        self.processes.iter().map(value).sum()
    }
}

/// A daemon under measurement. The containers go with it.
struct Node {
    bundle: Rc<Bundle>,
    daemon: Daemon,
    session: Session,
    up: usize,
}

/// The whole run.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "must be run as root: containers need it");
    interrupt::install()?;
    let machine = Machine::survey();
    let bundle = Rc::new(Bundle::create(false)?);
    let mut floor = Floor::new(Rc::clone(&bundle));
    floor.prepare()?;
    let program = contenders::ours("brood", options.brood.as_deref())?;
    let daemon = Daemon::start(&program, bundle.scratch("state")?.join("daemon"))?;
    let session = Session::connect(&daemon.socket())?;
    let mut node = Node { bundle, daemon, session, up: 0 };
    let version = node.session.version()?;
    let mut counts = options.counts.clone();
    counts.sort_unstable();
    let mut stages = Vec::new();
    for count in counts {
        stages.push(node.stage(count, options, &mut floor).with_context(|| format!("at {count} containers"))?);
    }
    let all_exits_ms = node.end_all()?;
    let processes = processes::of_daemon(node.daemon.keeper()?)?;
    let descriptors_after = processes.iter().map(|usage| usage.descriptors).sum();
    floor.finish()?;
    node.daemon.stop()?;
    let outcome = Outcome { machine, version, stages, all_exits_ms, descriptors_after };
    print(&outcome)?;
    std::fs::create_dir_all(&options.out).with_context(|| format!("cannot make {}", options.out.display()))?;
    let json = options.out.join("scale.json");
    report::write_json(&outcome, &json)?;
    eprintln!("wrote {}", json.display());
    Ok(ExitCode::SUCCESS)
}

impl Node {
    fn stage(&mut self, count: usize, options: &Options, floor: &mut Floor) -> Result<Stage> {
        let n = options.n;
        while self.up < count {
            ensure!(!interrupt::requested(), "interrupted");
            self.up += 1;
            self.start(self.up)?;
        }
        let page_us = (!options.cold_memory).then(memory::fetch).transpose()?;
        let (mut floors, mut starts, mut exits) = (Vec::new(), Vec::new(), Vec::new());
        let first = self.up + 1;
        for turn in 0..n {
            floors.push(micros(floor.launch_once()?));
            // While this one starts the kernel takes down what the floor's has left: that is in nobody's time.
            self.start(first + 2 * turn)?;
            starts.push(micros(self.start(first + 2 * turn + 1)?));
        }
        let mut after_removals = Vec::new();
        for turn in 0..n {
            exits.push(micros(self.exit(first + 2 * turn)?));
            after_removals.push(micros(self.start(first + 2 * n + turn)?));
            exits.push(micros(self.exit(first + 2 * turn + 1)?));
        }
        for turn in 0..n {
            self.exit(first + 2 * n + turn)?;
        }
        let sum = |samples: &[f64]| Summary::of(samples).context("nothing was timed");
        let lists = (0..LISTS).map(|_| self.list(count).map(micros)).collect::<Result<Vec<_>>>()?;
        let processes = processes::of_daemon(self.daemon.keeper()?)?;
        let (restart_ms, upgrade_ms) = (self.restart(count)?, self.upgrade(count)?);
        let (floor, start, exit, list) = (sum(&floors)?, sum(&starts)?, sum(&exits)?, sum(&lists)?);
        let start_after_removal = sum(&after_removals)?;
        Ok(Stage {
            containers: count,
            page_us,
            processes,
            floor,
            start,
            start_after_removal,
            exit,
            list,
            restart_ms,
            upgrade_ms,
        })
    }

    fn start(&self, number: usize) -> Result<Duration> {
        let create = session::to_run(name(number), self.bundle.idle_path());
        self.session.run(session::start(self.session.client(), &create)).with_context(|| format!("container {number}"))
    }

    /// Kills a container whose exit is waited for, and removes it.
    fn exit(&self, number: usize) -> Result<Duration> {
        let container = self.session.client().get(&name(number));
        let exit = container.wait();
        let pid = self.pids()?.into_iter().find(|(id, _)| *id == name(number)).context("it is not listed")?.1;
        let killed = Instant::now();
        kill(pid)?;
        let exit = self.session.run(async { Ok(exit.await?) })?;
        let took = killed.elapsed();
        ensure!(exit.status == 137, "exit status {}", exit.status);
        self.session.run(async { Ok(container.delete(false).await?) })?;
        Ok(took)
    }

    fn pids(&self) -> Result<Vec<(String, i32)>> {
        self.session.run_within(LIMIT, async {
            let response = self.session.client().brood.list_request().send().promise.await?;
            let containers = response.get()?.get_reply()?.get_containers()?;
            let pid = |state: brood_schema::brood_capnp::container_state::Reader<'_>| -> Result<(String, i32)> {
                let init = state.get_processes()?.iter().next();
                Ok((state.get_id()?.to_string()?, init.map_or(0, |init| init.get_pid() as i32)))
            };
            containers.iter().map(pid).collect()
        })
    }

    fn list(&self, count: usize) -> Result<Duration> {
        let began = Instant::now();
        let listed = self.session.list()?;
        let took = began.elapsed();
        ensure!(listed as usize == count, "list says {listed} containers, there are {count}");
        Ok(took)
    }

    /// Until another supervisor has answered, in milliseconds.
    fn another(&mut self, count: usize, old: i32, began: Instant) -> Result<f64> {
        loop {
            ensure!(began.elapsed() < LIMIT, "no other supervisor within {} s", LIMIT.as_secs());
            // Of one that is about to end the connection breaks.
            if let Ok(session) = Session::connect(&self.daemon.socket()) {
                self.session = session;
                if self.supervisor().is_ok_and(|pid| pid != old) && self.list(count).is_ok() {
                    return Ok(began.elapsed().as_secs_f64() * 1000.0);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn supervisor(&self) -> Result<i32> {
        let all = processes::of_daemon(self.daemon.keeper()?)?;
        Ok(all.iter().find(|usage| usage.role == "supervisor").context("no supervisor")?.pid)
    }

    fn restart(&mut self, count: usize) -> Result<f64> {
        let old = self.supervisor()?;
        let began = Instant::now();
        kill(old)?;
        self.another(count, old, began)
    }

    fn upgrade(&mut self, count: usize) -> Result<f64> {
        let old = self.supervisor()?;
        let began = Instant::now();
        kill_process(self.daemon.keeper()?, Signal::HUP).context("SIGHUP")?;
        self.another(count, old, began)
    }

    /// Ends all containers at once, each with somebody who waits for it, and removes them. How long until the last was told.
    fn end_all(&self) -> Result<f64> {
        let pids = self.pids()?;
        let mut containers = Vec::new();
        for ids in pids.chunks(PER_CONNECTION) {
            let client = self.session.another(&self.daemon.socket())?;
            containers.extend(ids.iter().map(|(id, _)| client.get(id)));
        }
        let waits: Vec<_> = containers.iter().map(brood::client::Container::wait).collect();
        self.list(pids.len())?;
        let began = Instant::now();
        pids.iter().try_for_each(|(_, pid)| kill(*pid))?;
        let exits = self.session.run_within(LIMIT, async { Ok(futures::future::try_join_all(waits).await?) })?;
        let took = began.elapsed().as_secs_f64() * 1000.0;
        ensure!(exits.iter().all(|exit| exit.status == 137), "an exit was told wrongly");
        let deletes = containers.iter().map(|container| container.delete(false));
        self.session.run_within(LIMIT, async { Ok(futures::future::try_join_all(deletes).await?) })?;
        self.list(0)?;
        Ok(took)
    }
}

fn name(number: usize) -> String {
    format!("brood-bench-{number}")
}

fn kill(pid: i32) -> Result<()> {
    kill_process(Pid::from_raw(pid).context("no pid")?, Signal::KILL).context("SIGKILL")
}

fn print(outcome: &Outcome) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n{}; busybox sleep, output to files; milliseconds\n", outcome.machine.line(), outcome.version)?;
    writeln!(
        out,
        "| containers | floor p50 | start p50 | p99 | start / floor | after a removal | exit told p50 | p99 | list | restart | upgrade | PSS, KiB | descriptors |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for stage in &outcome.stages {
        let ms = |us: f64| us / 1000.0;
        let Stage { containers, floor, start, exit, list, restart_ms, upgrade_ms, .. } = stage;
        let ratio = start.median_us / floor.median_us;
        let (pss, descriptors) = (stage.total(|usage| usage.pss_bytes) / 1024, stage.total(|usage| usage.descriptors));
        let (f, s50, s99) = (ms(floor.median_us), ms(start.median_us), ms(start.p99_us));
        let after = ms(stage.start_after_removal.median_us);
        let (e50, e99, l) = (ms(exit.median_us), ms(exit.p99_us), ms(list.median_us));
        writeln!(
            out,
            "| {containers} | {f:.2} | {s50:.2} | {s99:.2} | {ratio:.2} | {after:.2} | {e50:.2} | {e99:.2} | {l:.2} | {restart_ms:.0} | {upgrade_ms:.0} | {pss} | {descriptors} |"
        )?;
    }
    for pair in outcome.stages.windows(2) {
        let more = (pair[1].containers - pair[0].containers).max(1) as f64;
        let grown = |value: fn(&Usage) -> u64| (pair[1].total(value) as f64 - pair[0].total(value) as f64) / more;
        let (pss, descriptors) = (grown(|usage| usage.pss_bytes), grown(|usage| usage.descriptors));
        writeln!(
            out,
            "{} to {}: {pss:.0} bytes PSS and {descriptors:.2} descriptors per container",
            pair[0].containers, pair[1].containers
        )?;
    }
    for Stage { containers, page_us, .. } in &outcome.stages {
        if let Some(page_us) = page_us {
            writeln!(out, "among {containers}: fetching a page of memory before that took {page_us:.1} us")?;
        }
    }
    let Outcome { all_exits_ms, descriptors_after, .. } = outcome;
    writeln!(out, "all killed at once: the last exit is told after {all_exits_ms:.0} ms")?;
    writeln!(out, "descriptors after all were removed: {descriptors_after}")?;
    Ok(())
}
