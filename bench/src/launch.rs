//! `brood-bench launch`: everybody launches the same bundle, one after the other, in a new order each round, so that
//! whatever else the machine does hits all of them alike.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bundle::Bundle;
use crate::contenders::{self, Contender};
use crate::machine::Machine;
use crate::report::{self, Absence, Contest, Entry};
use crate::seccomp::docker;
use crate::shuffle::Random;
use crate::stats::{Summary, micros};
use crate::{chart, interrupt};

/// Options of `launch`.
#[derive(Args, Debug)]
pub struct Options {
    /// Measured launches of each contender
    #[arg(short, long = "count", value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Launches of each contender before those, not recorded
    #[arg(long, default_value_t = 10)]
    warmup: u32,
    /// Give each container a network namespace of its own
    #[arg(long)]
    netns: bool,
    /// Give each container the seccomp profile of docker and podman (the floor has none)
    #[arg(long)]
    seccomp: bool,
    /// Limit each container's memory, processors and processes (the floor has no limits)
    #[arg(long)]
    limits: bool,
    /// Seed of the order within the rounds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure only these, e.g. floor,brood-rpc,crun
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the JSON and the SVG file go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// The brood-oci to measure [default: the one beside this executable]
    #[arg(long, value_name = "FILE")]
    brood_oci: Option<PathBuf>,
    /// The brood to measure [default: the one beside this executable]
    #[arg(long, value_name = "FILE")]
    brood: Option<PathBuf>,
}

/// A contender and what it has done so far.
struct Lane {
    contender: Box<dyn Contender>,
    samples_us: Vec<f64>,
    failure: Option<String>,
    version: String,
    notes: Vec<String>,
}

/// The whole run. Fails when nothing could be measured; the status tells whether somebody had to be dropped.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "must be run as root: the floor makes namespaces and mounts");
    let profile = options.seccomp.then(|| docker::default_profile(docker::ORDINARY));
    let bundle = Rc::new(Bundle::create_with(options.netns, profile, options.limits)?);
    let (present, absent) = line_up(&bundle, options)?;
    let Options { n, warmup, seed, netns, .. } = *options;
    let rounds = Rounds { what: "launches", count: n, warmup, seed, netns };
    let mut stem = "launch".to_owned();
    for (name, given) in [("-netns", netns), ("-seccomp", options.seccomp), ("-limits", options.limits)] {
        stem += if given { name } else { "" };
    }
    contest(present, absent, &rounds, &options.out, &stem)
}

/// Those that take part.
pub type Contenders = Vec<Box<dyn Contender>>;

/// How often, and in which order.
pub struct Rounds {
    /// What is measured, in the plural.
    pub what: &'static str,
    /// Measured ones of each contender.
    pub count: u32,
    /// Those before, not recorded.
    pub warmup: u32,
    /// Of the order within the rounds.
    pub seed: u64,
    /// Whether each container has a network namespace of its own.
    pub netns: bool,
}

/// Measures and reports: the table on stdout, the samples and the picture in files of this name.
pub fn contest(present: Contenders, absent: Vec<Absence>, rounds: &Rounds, out: &Path, stem: &str) -> Result<ExitCode> {
    interrupt::install()?;
    let machine = Machine::survey();
    let mut lanes: Vec<Lane> = present.into_iter().map(Lane::new).collect();
    // Ours last: with a cgroup of ours a controller of cgroup v2 is in use, and crun could not have it (`LegacyView`).
    for lane in lanes.iter_mut().rev() {
        lane.prepare();
    }
    race(&mut lanes, rounds);
    // Before the figures, because a contender that leaves something behind is dropped for it.
    for lane in &mut lanes {
        lane.finish();
    }
    if interrupt::requested() {
        eprintln!("brood-bench: interrupted; nothing is reported");
        return Ok(ExitCode::from(interrupt::STATUS));
    }

    let failed = lanes.iter().any(|lane| lane.failure.is_some());
    let contest = tally(lanes, absent, machine, rounds);
    ensure!(!contest.entries.is_empty(), "no contender could be measured");
    report::print_table(&contest)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let (json, svg) = (out.join(format!("{stem}.json")), out.join(format!("{stem}.svg")));
    report::write_json(&contest, &json)?;
    chart::draw(&contest, &svg)?;
    eprintln!("wrote {} and {}", json.display(), svg.display());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Who takes part, according to `--only` and to what is installed.
fn line_up(bundle: &Rc<Bundle>, options: &Options) -> Result<(Contenders, Vec<Absence>)> {
    let mut field = contenders::find(bundle, options.brood.as_deref(), options.brood_oci.as_deref())?;
    for name in &options.only {
        let absent = field.absent.iter().find(|(absent, _)| contenders::key(absent) == *name);
        ensure!(absent.is_none(), "--only {name}: {}", absent.map_or("", |(_, reason)| reason));
        ensure!(
            field.present.iter().any(|c| contenders::key(c.name()) == *name),
            "--only {name}: there is no such contender"
        );
    }
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| *only == contenders::key(name));
    field.present.retain(|contender| wanted(contender.name()));
    field.absent.retain(|(name, _)| wanted(name));
    let absent = field.absent.into_iter().map(|(name, reason)| Absence { name: name.to_owned(), reason }).collect();
    Ok((field.present, absent))
}

/// The rounds. A contender that fails stops taking part; ctrl-C ends all.
fn race(lanes: &mut [Lane], rounds: &Rounds) {
    let mut random = Random::new(rounds.seed);
    let mut order: Vec<usize> = (0..lanes.len()).collect();
    for round in 0..rounds.warmup.saturating_add(rounds.count) {
        random.shuffle(&mut order);
        for &index in &order {
            if interrupt::requested() {
                return;
            }
            let lane = &mut lanes[index];
            let time = lane.launch();
            if round >= rounds.warmup {
                lane.samples_us.extend(time.map(micros));
            }
        }
    }
}

impl Lane {
    fn new(contender: Box<dyn Contender>) -> Self {
        Self { contender, samples_us: Vec::new(), failure: None, version: String::new(), notes: Vec::new() }
    }

    /// Gets the contender ready and asks what it is while it still knows.
    fn prepare(&mut self) {
        if interrupt::requested() {
            return;
        }
        let outcome = self.contender.prepare();
        if self.accept("prepare", outcome).is_some() {
            self.version = self.contender.version();
            self.notes = self.contender.notes();
        }
    }

    /// One launch, unless the contender has failed before.
    fn launch(&mut self) -> Option<Duration> {
        if self.failure.is_some() {
            return None;
        }
        let outcome = self.contender.launch_once();
        self.accept("launch", outcome)
    }

    /// Cleans up, after a failure as well.
    fn finish(&mut self) {
        let outcome = self.contender.finish();
        self.accept("finish", outcome);
    }

    /// Drops the contender from the run, loudly, at its first failure.
    fn accept<T>(&mut self, phase: &str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                eprintln!("brood-bench: {} is dropped: {phase}: {error:#}", self.contender.name());
                self.failure.get_or_insert_with(|| format!("{phase}: {error:#}"));
                None
            }
        }
    }
}

/// Figures for those that made it, reasons for the others.
fn tally(lanes: Vec<Lane>, mut absent: Vec<Absence>, machine: Machine, rounds: &Rounds) -> Contest {
    let mut notes = Vec::new();
    let mut entries = Vec::new();
    for lane in lanes {
        let name = lane.contender.name().to_owned();
        if let Some(reason) = lane.failure {
            absent.push(Absence { name, reason });
        } else if let Some(summary) = Summary::of(&lane.samples_us) {
            notes.extend(lane.notes);
            entries.push(Entry { name, version: lane.version, summary, samples_us: lane.samples_us });
        }
    }
    Contest {
        machine,
        what: rounds.what,
        netns: rounds.netns,
        launches: rounds.count,
        warmup: rounds.warmup,
        seed: rounds.seed,
        entries,
        absent,
        notes,
    }
}
