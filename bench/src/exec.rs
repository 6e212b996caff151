//! `brood-bench exec`: everybody runs one more process, again and again, in a container of its own that sleeps.
#![expect(unsafe_code, reason = "what runs between fork and exec must not allocate")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brood_launcher::state::{INIT, PidRecord, StateRoot, open_process};
use clap::Args;
use nix::sched::{CloneFlags, setns};

use crate::bundle::Bundle;
use crate::contenders::command::{REFUSES_HYBRID, time_to_exit};
use crate::contenders::hybrid::LegacyView;
use crate::contenders::{self, Contender};
use crate::daemon::{self, Daemon};
use crate::launch::{self, Rounds};
use crate::report::Absence;
use crate::session::{self, Session};

/// What is run: in every container the same.
const PROGRAM: &str = "/bin/true";
/// The container of each contender, in a state directory of its own.
const ID: &str = "brood-bench-exec";

/// Options of `exec`.
#[derive(Args, Debug)]
pub struct Options {
    /// Measured execs of each contender
    #[arg(short, long = "count", value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Execs of each contender before those, not recorded
    #[arg(long, default_value_t = 10)]
    warmup: u32,
    /// Seed of the order within the rounds
    #[arg(long, default_value_t = 1)]
    seed: u64,
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

/// The whole run.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "must be run as root: an exec enters namespaces");
    let bundle = Rc::new(Bundle::create(false)?);
    let brood = contenders::ours("brood", options.brood.as_deref())?;
    let ours = |name, form| Box::new(Ours::new(name, form, brood.clone(), Rc::clone(&bundle))) as Box<dyn Contender>;
    let mut present = vec![
        ours("floor", Form::Floor),
        ours("brood execSync (RPC)", Form::Sync),
        ours("brood exec (command)", Form::Command),
    ];
    let mut absent = Vec::new();
    let runtimes = [
        ("brood-oci", contenders::ours("brood-oci", options.brood_oci.as_deref())),
        ("runc", contenders::on_path("runc").context("not on PATH")),
        ("crun", contenders::on_path("crun").context("not on PATH")),
    ];
    for (name, program) in runtimes {
        match program {
            Ok(program) => present.push(Box::new(Runtime::new(name, program, Rc::clone(&bundle)))),
            Err(reason) => absent.push(Absence { name: name.to_owned(), reason: format!("{reason:#}") }),
        }
    }
    let rounds = Rounds { what: "execs", count: options.n, warmup: options.warmup, seed: options.seed, netns: false };
    launch::contest(present, absent, &rounds, &options.out, "exec")
}

/// How a daemon's container gets one more process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// By hand: setns into its namespaces, fork, exec, wait. No cgroup, no change of identity.
    Floor,
    /// `Container.execSync` on a connection that is there before.
    Sync,
    /// `brood exec`, from spawn to reap.
    Command,
}

/// A daemon with a container.
struct Ours {
    name: &'static str,
    form: Form,
    program: PathBuf,
    bundle: Rc<Bundle>,
    // The connection goes before the daemon.
    session: Option<Session>,
    daemon: Option<Daemon>,
}

impl Ours {
    fn new(name: &'static str, form: Form, program: PathBuf, bundle: Rc<Bundle>) -> Ours {
        Ours { name, form, program, bundle, session: None, daemon: None }
    }

    fn up(&self) -> Result<(&Session, &Daemon)> {
        self.session.as_ref().zip(self.daemon.as_ref()).context("the contender is not prepared")
    }
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        match self.form {
            Form::Floor => "setns, fork, exec, wait".to_owned(),
            Form::Sync | Form::Command => {
                self.up().and_then(|(session, _)| session.version()).unwrap_or_else(|_| "unknown".to_owned())
            }
        }
    }

    fn prepare(&mut self) -> Result<()> {
        let root = self.bundle.scratch(&format!("state-{}", contenders::key(self.name)))?.join("daemon");
        let daemon = self.daemon.insert(Daemon::start(&self.program, root)?);
        let session = self.session.insert(Session::connect(&daemon.socket())?);
        let create = session::to_run(ID.to_owned(), self.bundle.idle_path());
        session.run(session::start(session.client(), &create))?;
        self.launch_once().map(drop)
    }

    fn launch_once(&mut self) -> Result<Duration> {
        let (session, daemon) = self.up()?;
        match self.form {
            Form::Floor => {
                let dir = StateRoot::open(daemon.root())?.find(ID)?;
                by_hand(dir.process(INIT).read_pid()?)
            }
            Form::Sync => session.run(session::exec(session.client(), ID, PROGRAM)),
            Form::Command => {
                let mut command = daemon::command(&self.program);
                command.arg("--host").arg(format!("unix://{}", daemon.socket().display()));
                command.args(["exec", ID, PROGRAM]);
                successful(quiet(command), time_to_exit)
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.session = None;
        match &mut self.daemon {
            Some(daemon) => daemon.stop(),
            None => Ok(()),
        }
    }
}

/// The least that the kernel can be asked for.
fn by_hand(init: PidRecord) -> Result<Duration> {
    let started = Instant::now();
    let init = open_process(init).context("the container has stopped")?;
    let own = OwnedFd::from(File::open("/proc/self/ns/pid")?);
    setns(&init, CloneFlags::CLONE_NEWPID).context("setns")?;
    let mut command = quiet(Command::new(PROGRAM));
    let container = init.try_clone()?;
    // SAFETY: the closure makes one system call and touches no memory of ours.
    unsafe {
        command.pre_exec(move || {
            let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
            setns(&container, flags).map_err(std::io::Error::from)
        });
    }
    let spawned = command.spawn();
    setns(&own, CloneFlags::CLONE_NEWPID).context("setns back")?;
    let status = spawned.context("exec")?.wait().context("wait")?;
    ensure!(status.success(), "{status}");
    Ok(started.elapsed())
}

/// An OCI runtime as a command.
struct Runtime {
    name: &'static str,
    program: PathBuf,
    bundle: Rc<Bundle>,
    state: PathBuf,
    /// Present when the runtime refused the machine's cgroup layout.
    legacy_view: Option<LegacyView>,
}

impl Runtime {
    fn new(name: &'static str, program: PathBuf, bundle: Rc<Bundle>) -> Runtime {
        Runtime { name, program, bundle, state: PathBuf::new(), legacy_view: None }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).args(args);
        quiet(command)
    }

    fn run(&self, command: Command) -> Result<Duration> {
        successful(command, |command| match &self.legacy_view {
            Some(view) => view.run(command),
            None => time_to_exit(command),
        })
    }

    /// Starts the container that sleeps; says what the runtime says when it refuses.
    fn start(&self) -> Result<()> {
        let log = self.state.join("stderr");
        let mut command = self.command(&["run", "--detach", "--bundle"]);
        command.arg(self.bundle.idle_path()).arg(ID).stderr(File::create(&log)?);
        self.run(command).map(drop).with_context(|| std::fs::read_to_string(&log).unwrap_or_default().trim().to_owned())
    }
}

impl Contender for Runtime {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        contenders::command::version(&self.program)
    }

    fn notes(&self) -> Vec<String> {
        self.legacy_view.iter().map(|view| format!("{}: {}", self.name, view.note())).collect()
    }

    fn prepare(&mut self) -> Result<()> {
        self.state = self.bundle.scratch(&format!("state-{}", self.name))?;
        match self.start() {
            Err(error) if format!("{error:#}").contains(REFUSES_HYBRID) => {
                self.legacy_view = Some(LegacyView::create(&self.bundle)?);
                self.start()
            }
            other => other,
        }
    }

    fn launch_once(&mut self) -> Result<Duration> {
        self.run(self.command(&["exec", ID, PROGRAM]))
    }

    fn finish(&mut self) -> Result<()> {
        let deleted = self.run(self.command(&["delete", "--force", ID]));
        self.legacy_view = None;
        deleted.map(drop).context("delete")
    }
}

/// The command without input and output, and out of reach of ctrl-C.
fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command
}

fn successful(
    command: Command,
    run: impl FnOnce(Command) -> Result<(std::process::ExitStatus, Duration)>,
) -> Result<Duration> {
    let (status, time) = run(command)?;
    ensure!(status.success(), "{status}");
    Ok(time)
}
