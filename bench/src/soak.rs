//! `brood-bench soak`: many short containers one after the other, and whether anything is left of them: memory, descriptors,
//! processes, cgroups, mounts, entries of the state directory. It fails when something is.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::bundle::Bundle;
use crate::contenders::{self, LAUNCH_LIMIT};
use crate::daemon::{self, Daemon};
use crate::machine::Machine;
use crate::session::{self, Session};
use crate::{interrupt, processes, report};

/// Looks at what there is, evenly spread; the first one is after the first of so many parts.
const LOOKS: usize = 10;
/// How much more memory than half-way is flat.
const MEMORY_GROWTH_MAX: f64 = 1.1;
/// Containers in flight on the daemon's connection.
const IN_FLIGHT: usize = 4;
/// What names of containers begin with, and so those of their cgroups have in them.
const PREFIX: &str = "brood-bench-soak-";

/// Whose containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Face {
    /// `brood daemon`, by RPC
    Daemon,
    /// `brood-oci create`, `start`, `delete --force`
    Oci,
}

/// Options of `soak`.
#[derive(Args, Debug)]
pub struct Options {
    /// Containers
    #[arg(short, long = "count", value_name = "COUNT", default_value_t = 10_000)]
    n: usize,
    /// Who runs them
    #[arg(long, value_enum, default_value = "daemon")]
    face: Face,
    /// Limit each container's memory, processors and processes
    #[arg(long)]
    limits: bool,
    /// Where the JSON file goes
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// The brood or brood-oci to measure [default: the one beside this executable]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// One run.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Machine,
    face: Face,
    limits: bool,
    containers: usize,
    seconds: f64,
    before: Look,
    looks: Vec<Look>,
}

/// What there is at one moment, between containers.
#[derive(Clone, Debug, Serialize)]
struct Look {
    containers: usize,
    /// Of all processes of Brood's own, proportional; 0 without a daemon.
    pss_bytes: u64,
    /// Of the same processes.
    descriptors: u64,
    /// Processes below the daemon, or below this one: zombies too.
    processes: usize,
    /// Cgroup directories of containers of ours.
    cgroups: usize,
    /// Lines of our mountinfo.
    mounts: usize,
    /// Directories in the state directory.
    states: usize,
}

/// Who makes containers, and what it leaves.
enum Maker {
    Daemon { daemon: Daemon, session: Session },
    Oci { program: PathBuf, root: PathBuf },
}

/// The whole run.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "must be run as root: containers need it");
    ensure!(options.n >= LOOKS, "--count: at least {LOOKS}");
    interrupt::install()?;
    let bundle = Bundle::create_with(false, None, options.limits)?;
    let mut maker = Maker::new(options, &bundle)?;
    let before = maker.look(0)?;
    let (began, mut looks) = (Instant::now(), Vec::new());
    for part in 1..=LOOKS {
        let (from, to) = (options.n * (part - 1) / LOOKS, options.n * part / LOOKS);
        let Some(()) = maker.lives(&bundle, from..to)? else {
            eprintln!("brood-bench: interrupted; nothing is reported");
            return Ok(ExitCode::from(interrupt::STATUS));
        };
        looks.push(maker.look(to)?);
    }
    let seconds = began.elapsed().as_secs_f64();
    maker.stop()?;
    let (face, limits) = (options.face, options.limits);
    let outcome = Outcome { machine: Machine::survey(), face, limits, containers: options.n, seconds, before, looks };
    print(&outcome)?;
    fs::create_dir_all(&options.out).with_context(|| format!("cannot make {}", options.out.display()))?;
    let stem = if face == Face::Oci { "soak-oci" } else { "soak" };
    let json = options.out.join(format!("{stem}.json"));
    report::write_json(&outcome, &json)?;
    eprintln!("wrote {}", json.display());
    outcome.judge()?;
    Ok(ExitCode::SUCCESS)
}

impl Outcome {
    /// Nothing may be more than at the beginning, and memory flat from half-way on.
    fn judge(&self) -> Result<()> {
        for look in &self.looks {
            let left = |what: &str, before: usize, now: usize| {
                ensure!(now <= before, "{what}: {before} before, {now} after {} containers", look.containers);
                Ok(())
            };
            left("processes", self.before.processes, look.processes)?;
            left("cgroups", self.before.cgroups, look.cgroups)?;
            left("mounts", self.before.mounts, look.mounts)?;
            left("state directories", self.before.states, look.states)?;
        }
        let (first, last) = (self.looks.first().context("no look")?, self.looks.last().context("no look")?);
        let middle = self.looks.get(LOOKS / 2).context("no look")?;
        ensure!(
            last.descriptors <= first.descriptors,
            "descriptors: {} after {}, {} after {}",
            first.descriptors,
            first.containers,
            last.descriptors,
            last.containers
        );
        let growth = last.pss_bytes as f64 / middle.pss_bytes.max(1) as f64;
        ensure!(growth <= MEMORY_GROWTH_MAX, "memory: {growth:.2} times that after {}", middle.containers);
        Ok(())
    }
}

impl Maker {
    fn new(options: &Options, bundle: &Bundle) -> Result<Maker> {
        let root = bundle.scratch("state")?.join("root");
        Ok(match options.face {
            Face::Daemon => {
                let daemon = Daemon::start(&contenders::ours("brood", options.program.as_deref())?, root)?;
                let session = Session::connect(&daemon.socket())?;
                Maker::Daemon { daemon, session }
            }
            Face::Oci => {
                fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
                Maker::Oci { program: contenders::ours("brood-oci", options.program.as_deref())?, root }
            }
        })
    }

    /// So many containers come and go; `None` when the user wants the end.
    fn lives(&self, bundle: &Bundle, numbers: std::ops::Range<usize>) -> Result<Option<()>> {
        let name = |number| format!("{PREFIX}{number}");
        match self {
            Maker::Daemon { session, .. } => {
                let client = session.client();
                let launch = |number| async move {
                    ensure!(!interrupt::requested(), "interrupted");
                    let create = session::to_run(name(number), bundle.path());
                    session::launch(client, &create).await.map(drop).with_context(|| name(number))
                };
                let all = futures::stream::iter(numbers.clone()).map(launch).buffer_unordered(IN_FLIGHT);
                let lived = session.run_within(LAUNCH_LIMIT * numbers.len() as u32, all.try_collect::<()>());
                if interrupt::requested() { Ok(None) } else { lived.map(Some) }
            }
            Maker::Oci { program, root } => {
                for number in numbers {
                    if interrupt::requested() {
                        return Ok(None);
                    }
                    life(program, root, &bundle.idle_path(), &name(number)).with_context(|| name(number))?;
                }
                Ok(Some(()))
            }
        }
    }

    fn look(&self, containers: usize) -> Result<Look> {
        let (usages, tree, root) = match self {
            Maker::Daemon { daemon, .. } => {
                let keeper = daemon.keeper()?;
                (processes::of_daemon(keeper)?, processes::tree(keeper)?.len(), daemon.root())
            }
            Maker::Oci { root, .. } => (Vec::new(), processes::tree(rustix::process::getpid())?.len(), root.as_path()),
        };
        let entries = fs::read_dir(root).with_context(|| root.display().to_string())?.flatten();
        Ok(Look {
            containers,
            pss_bytes: usages.iter().map(|usage| usage.pss_bytes).sum(),
            descriptors: usages.iter().map(|usage| usage.descriptors).sum(),
            processes: tree,
            cgroups: cgroups_below(Path::new("/sys/fs/cgroup")),
            mounts: fs::read_to_string("/proc/self/mountinfo").context("mountinfo")?.lines().count(),
            states: entries.filter(|entry| entry.path().is_dir()).count(),
        })
    }

    fn stop(&mut self) -> Result<()> {
        match self {
            Maker::Daemon { daemon, .. } => daemon.stop(),
            Maker::Oci { .. } => Ok(()),
        }
    }
}

/// One container's life as a caller of an OCI runtime sees it.
fn life(program: &Path, root: &Path, bundle: &Path, id: &str) -> Result<()> {
    let call = |args: &[&str]| -> Result<()> {
        let mut command = daemon::command(program);
        command.arg("--root").arg(root).args(args);
        if args.first() == Some(&"create") {
            command.arg("--bundle").arg(bundle);
        }
        // Those of the caller are the container's.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.arg(id).status().with_context(|| program.display().to_string())?;
        ensure!(status.success(), "{}: {status}", args.join(" "));
        Ok(())
    };
    call(&["create"])?;
    let made = cgroups_below(Path::new("/sys/fs/cgroup"));
    let started = call(&["start"]);
    call(&["delete", "--force"])?;
    ensure!(made > 0, "it had no cgroup that this program could count");
    started
}

/// Directories of cgroups of our containers, in all hierarchies.
fn cgroups_below(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .map(|entry| {
            let own = usize::from(entry.file_name().to_string_lossy().contains(PREFIX));
            own + cgroups_below(&entry.path())
        })
        .sum()
}

fn print(outcome: &Outcome) -> Result<()> {
    let mut out = io::stdout().lock();
    let Outcome { machine, face, limits, containers, seconds, before, looks } = outcome;
    let (face, limits) =
        (if *face == Face::Oci { "brood-oci" } else { "brood daemon" }, if *limits { "" } else { "no " });
    writeln!(out, "{}\n{face}, {limits}limits: {containers} containers in {seconds:.0} s\n", machine.line())?;
    writeln!(out, "| containers | PSS, KiB | descriptors | processes | cgroups | mounts | state directories |")?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for Look { containers, pss_bytes, descriptors, processes, cgroups, mounts, states } in
        std::iter::once(before).chain(looks)
    {
        let pss = pss_bytes / 1024;
        writeln!(out, "| {containers} | {pss} | {descriptors} | {processes} | {cgroups} | {mounts} | {states} |")?;
    }
    Ok(())
}
