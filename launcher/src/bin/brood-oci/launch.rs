//! `create` and `run`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use brood_launcher::hooks::{self, Point};
use brood_launcher::plan::{Io, Launch, Stdio, Step};
use brood_launcher::prepare::{self, Order, PrepareError, Prepared, Source};
use brood_launcher::report::{self, Op, Outcome, Question, ReportReader, StepError, errno_text};
use brood_launcher::rootless;
use brood_launcher::spawn::{Host, Spawned};
use brood_launcher::state::{ContainerDir, ContainerState, ExitRecord, INIT, Kept, Manager, now_ns};
use brood_launcher::sys;
use clap::Args;
use rustix::process::{WaitId, WaitIdOptions};

use crate::console::{self, Console};
use crate::inherited::Inherited;
use crate::lifecycle;
use crate::messages::Messages;
use crate::name;
use crate::runtime::Runtime;
use crate::signals::Forwarder;

#[derive(Args)]
pub struct CreateArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Directory with config.json
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Another configuration file than the bundle's
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the init process's pid to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives the init process's pidfd
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Do not pivot_root, for a host whose root is the initramfs; less isolation
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass this many descriptors after 2 (and after those of socket activation)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Leave orphans of the container to the host's init
    #[arg(long)]
    no_subreaper: bool,
    /// Go on without what this version does not support, with a warning
    #[arg(long)]
    ignore_unsupported: bool,
}

impl CreateArgs {
    /// Where the configuration is.
    pub fn config_file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.bundle.join("config.json"))
    }
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Return when the program runs, and leave the container alone
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container when it ends
    #[arg(long)]
    keep: bool,
}

/// The program of a container did not come to run.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// A step failed.
    #[error("unable to start container process: {}{}", during(.0), .0)]
    Step(#[from] StepError),
    /// The child was killed on its way.
    #[error("unable to start container process: it was killed while it was being set up")]
    Vanished,
}

impl NotStarted {
    /// Of a container whose program could not be executed, what runc's own process in the container says of that.
    pub fn of_execve(&self) -> Option<String> {
        let NotStarted::Step(error) = self else { return None };
        let (_, program) = error.object.split_once(' ').filter(|_| error.op == Op::Execve)?;
        Some(format!("exec {program}: {}", errno_text(error.errno)))
    }
}

/// What runc says when a container's set-up is over.
const COMPLETED: &str = "init: closing the pipe to signal completion";

/// What is found out about mounts before there is a process, runc finds out in it.
fn in_runcs_words(error: PrepareError) -> anyhow::Error {
    match &error {
        PrepareError::Plan(refused) if refused.field.starts_with("mounts[") => {
            anyhow::anyhow!("unable to start container process: error during container init: error mounting: {error}")
        }
        _ => error.into(),
    }
}

/// In which part of the way a step is: runc's words, by which callers tell failures apart.
fn during(error: &StepError) -> &'static str {
    match error.step.as_str() {
        "mount file system" | "bind mount" | "remount" => "error during container init: error mounting: ",
        "find executable" | "exec" => "",
        _ => "error during container init: ",
    }
}

pub fn create(runtime: &Runtime, args: CreateArgs) -> anyhow::Result<ExitCode> {
    launch(runtime, args, Mode::Create).with_context(|| format!("{} create failed", name::own()))?;
    Ok(ExitCode::SUCCESS)
}

pub fn run(runtime: &Runtime, args: RunArgs) -> anyhow::Result<ExitCode> {
    if !args.create.no_subreaper && !args.detach {
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("PR_SET_CHILD_SUBREAPER")?;
    }
    // Before the launch, so that no signal is missed between the two.
    let forwarder = if args.detach { None } else { Some(Forwarder::new()?) };
    let mode = if args.detach { Mode::Detach } else { Mode::Foreground };
    let launched = launch(runtime, args.create, mode).with_context(|| format!("{} run failed", name::own()))?;
    let Launched { dir, spawned, console } = launched;
    let Some(forwarder) = forwarder else { return Ok(ExitCode::SUCCESS) };
    let record = wait(&forwarder, &spawned, console)?;
    runtime.messages.debug(&format!("process {}: ended with status {}", spawned.pid, record.status));
    record_end(&dir, &record)?;
    if !args.keep {
        lifecycle::remove(runtime, &dir)?;
    }
    Ok(ExitCode::from(record.status))
}

/// Writes the exit down, unless somebody else (`delete`, a checkpoint) has removed the container meanwhile.
pub fn record_end(dir: &ContainerDir, record: &ExitRecord) -> anyhow::Result<()> {
    match dir.process(INIT).write_exit(record) {
        Err(_) if !dir.path().exists() => Ok(()),
        written => Ok(written?),
    }
}

/// What becomes of a launch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It waits for `start`.
    Create,
    /// It runs, and we leave.
    Detach,
    /// It runs, and we stay.
    Foreground,
}

/// A container that runs or is parked.
struct Launched {
    dir: ContainerDir,
    spawned: Spawned,
    console: Console,
}

/// Prepares, clones, and waits until the child runs or is parked.
fn launch(runtime: &Runtime, args: CreateArgs, mode: Mode) -> anyhow::Result<Launched> {
    let inherited = Inherited::take(args.preserve_fds)?;
    // What else our caller left open is nobody's business, not even a hook's.
    sys::close_range_cloexec(3).context("close_range")?;
    let pidfd_socket = args.pidfd_socket.as_deref().map(|path| console::connect("--pidfd-socket", path)).transpose()?;
    let order = Order {
        id: args.id,
        source: Source::Bundle { path: args.bundle, config: args.config },
        labels: Default::default(),
        park: mode == Mode::Create,
        manager: Manager::Caller,
        die_with_parent: None,
        ignore_unsupported: args.ignore_unsupported,
        auto_remove: false,
        cgroup: runtime.cgroups,
        no_pivot: args.no_pivot,
        new_keyring: !args.no_new_keyring,
        preserve: inherited.fds,
        env: inherited.env,
    };
    let mut console = Console::None;
    let prepared = prepare::prepare(&runtime.root, order, |_, terminal| {
        let opened = Console::open(terminal, mode != Mode::Foreground, args.console_socket.as_deref());
        let (ours, childs) = opened.map_err(|error| PrepareError::Io(brood_launcher::usage::chain(&error)))?;
        console = ours;
        match childs {
            Some(socket) => Ok(Io::Terminal(socket)),
            None => inherit().map(Io::Descriptors).map_err(PrepareError::Pipe),
        }
    });
    let prepared = prepared.map_err(in_runcs_words)?;
    for note in &prepared.notes {
        runtime.messages.warning(note);
    }
    let Prepared { mut launch, status, mut reserved, kept, state, .. } = prepared;
    console.fit(&mut launch.plan);
    let launching = Launching { launch, status, pidfd_socket, hooks: Some((kept, state)), messages: &runtime.messages };
    let started = launching.run_with(args.pid_file.as_deref(), |pid| {
        drop(reserved.take_anchor());
        Ok(reserved.record_pid(pid).map(drop)?)
    });
    let spawned = match started {
        Ok(spawned) => spawned,
        Err(error) => {
            // No process is left. Hooks may have run, and so those after the end have their turn.
            lifecycle::remove(runtime, &reserved.keep())?;
            return Err(error);
        }
    };
    let launched = Launched { dir: reserved.keep(), spawned, console };
    let completed = match mode {
        Mode::Create => launched.dir.start_socket().announce().map_err(anyhow::Error::from),
        // A container whose poststart hook fails must not go on (runtime-spec 1.3, "Lifecycle", 9).
        Mode::Detach | Mode::Foreground => lifecycle::poststart(&launched.dir),
    };
    if let Err(error) = completed {
        end(&launched.spawned)?;
        lifecycle::remove(runtime, &launched.dir)?;
        return Err(error);
    }
    Ok(launched)
}

/// A launch on its way, of a container or of an exec.
pub struct Launching<'a> {
    pub launch: Launch,
    /// Our end of the status pipe or socket.
    pub status: OwnedFd,
    /// Gets the child's pidfd.
    pub pidfd_socket: Option<OwnedFd>,
    /// Hooks to run while the child waits, and what they get to read.
    pub hooks: Option<(Kept, ContainerState)>,
    /// Get the details.
    pub messages: &'a Messages,
}

impl Launching<'_> {
    /// Clones, and waits until the child runs or is parked. On failure no child is left.
    pub fn run(self, pid_file: Option<&Path>) -> anyhow::Result<Spawned> {
        self.run_with(pid_file, |_| Ok(()))
    }

    fn run_with(
        self,
        pid_file: Option<&Path>,
        record: impl FnOnce(i32) -> anyhow::Result<()>,
    ) -> anyhow::Result<Spawned> {
        // From here until its execve the child is a copy of us: nobody in the container may look at it (CVE-2016-9962).
        rootless::hide_from_containers(self.launch.plan.id_maps.is_some()).context("PR_SET_DUMPABLE")?;
        let Launching { launch: Launch { plan, fds, details, asked_maps, .. }, status, pidfd_socket, hooks, messages } =
            self;
        for detail in &details {
            messages.debug(detail);
        }
        // Some words are runc's at the same points of the way: scripts look for them.
        let steps = || plan.steps.iter().map(Step::name).collect::<Vec<_>>().join(", ");
        messages.debug(&format!("nsexec container setup: steps: {}", steps()));
        let spawned = Host::open(false)?.spawn(&plan, &fds)?;
        // Our copies of the child's descriptors; the status pipe would never end with its write end held here.
        drop(fds);
        messages.debug(&format!("child process in init(): cloned as process {}", spawned.pid));
        let started = record(spawned.pid).and_then(|()| {
            let mut reader = ReportReader::default();
            loop {
                reader.read_to_end(&status).context("status pipe")?;
                let Some(question) = reader.take_question() else { break };
                let done = match (question, &hooks) {
                    (Question::RuntimeHooks, None) => Ok(()),
                    (Question::RuntimeHooks, Some((kept, state))) => {
                        hooks::run(kept, Point::CreateRuntime, state, spawned.pid)?;
                        Ok(())
                    }
                    (Question::MapIds { number, tree }, _) => asked_maps.set(number, spawned.pidfd.as_fd(), tree),
                };
                report::answer(&status, done);
            }
            let is_init = !plan.steps.iter().any(|step| matches!(step, Step::JoinContainer { .. }));
            match reader.finish(&plan) {
                Outcome::Running if is_init => messages.debug(&format!("{COMPLETED}: runs its program")),
                Outcome::Running => messages.debug("setns_init: about to exec: runs its program"),
                Outcome::Parked => messages.debug(&format!("{COMPLETED}: waits for its start")),
                Outcome::Failed(error) => return Err(NotStarted::from(error).into()),
                Outcome::Vanished => return Err(NotStarted::Vanished.into()),
            }
            if let Some(socket) = pidfd_socket {
                console::send(socket.as_fd(), "pidfd", spawned.pidfd.as_fd()).context("--pidfd-socket")?;
            }
            pid_file.map_or(Ok(()), |path| write_pid_file(path, spawned.pid))
        });
        if let Err(error) = started {
            // Whatever the child was doing, it must be gone before its cgroup can go.
            end(&spawned)?;
            return Err(error);
        }
        Ok(spawned)
    }
}

/// Kills and reaps.
pub fn end(spawned: &Spawned) -> anyhow::Result<()> {
    let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL);
    reap(spawned.pidfd.as_fd()).map(drop)
}

/// Waits for the exit, passing signals and a terminal's bytes on, and reaps.
pub fn wait(forwarder: &Forwarder, spawned: &Spawned, console: Console) -> anyhow::Result<ExitRecord> {
    let relay = console.relay()?;
    forwarder.until_exit(spawned, relay).context("wait for the process")?;
    reap(spawned.pidfd.as_fd())
}

/// Copies of our own standard descriptors, out of the way of the numbers 0 to 2.
pub fn inherit() -> Result<Stdio, rustix::io::Errno> {
    let copy = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    Ok(Stdio {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
    })
}

pub fn write_pid_file(path: &Path, pid: i32) -> anyhow::Result<()> {
    brood_launcher::state::replace_file(path, pid.to_string().as_bytes(), 0o644).context("--pid-file")
}

fn reap(pidfd: BorrowedFd<'_>) -> anyhow::Result<ExitRecord> {
    let status = rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).context("reap")?;
    Ok(match status {
        Some(status) => {
            let (code, signal) = (status.exit_status(), status.terminating_signal());
            ExitRecord::new(code.map(|code| code as u8), signal.map(|signal| signal as u8), now_ns())
        }
        None => ExitRecord::unknown("waitid reported nothing", now_ns()),
    })
}
