//! `create` and `run`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use brood_launcher::plan::{Launch, Stdio};
use brood_launcher::prepare::{self, Order, PrepareError, Prepared, Source};
use brood_launcher::report::{Outcome, ReportReader, StepError};
use brood_launcher::spawn::{Host, Spawned};
use brood_launcher::state::{ContainerDir, ExitRecord, INIT, Manager, now_ns};
use brood_launcher::sys;
use clap::Args;
use rustix::process::{WaitId, WaitIdOptions};

use crate::Runtime;
use crate::lifecycle;
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
    /// Unix socket that receives the terminal (not supported yet)
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives the init process's pidfd (not supported yet)
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Do not pivot_root (not supported)
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring; this is what happens anyway
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass this many descriptors after 2 (only 0 is supported yet)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Go on without what this version does not support, with a warning
    #[arg(long)]
    ignore_unsupported: bool,
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    create: CreateArgs,
    /// Return when the program runs, and leave the container alone
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container when it ends
    #[arg(long)]
    keep: bool,
    /// Leave orphans of the container to the host's init
    #[arg(long)]
    no_subreaper: bool,
}

/// The program of a container did not come to run.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The child was killed on its way.
    #[error("the container's process was killed while it was being set up")]
    Vanished,
}

impl NotStarted {
    pub fn exit_status(&self) -> u8 {
        match self {
            NotStarted::Step(error) => error.exit_status(),
            NotStarted::Vanished => 125,
        }
    }
}

pub fn create(runtime: &Runtime, args: CreateArgs) -> anyhow::Result<ExitCode> {
    launch(runtime, args, true)?;
    Ok(ExitCode::SUCCESS)
}

pub fn run(runtime: &Runtime, args: RunArgs) -> anyhow::Result<ExitCode> {
    if !args.no_subreaper && !args.detach {
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("PR_SET_CHILD_SUBREAPER")?;
    }
    // Before the launch, so that no signal is missed between the two.
    let forwarder = if args.detach { None } else { Some(Forwarder::new()?) };
    let (dir, spawned) = launch(runtime, args.create, false)?;
    let Some(forwarder) = forwarder else { return Ok(ExitCode::SUCCESS) };
    let record = wait(&forwarder, &spawned)?;
    dir.process(INIT).write_exit(&record)?;
    if !args.keep {
        lifecycle::remove(&dir)?;
    }
    Ok(ExitCode::from(record.status))
}

/// Prepares, clones, and waits until the child runs or is parked.
fn launch(runtime: &Runtime, args: CreateArgs, park: bool) -> anyhow::Result<(ContainerDir, Spawned)> {
    refuse_unsupported(&args)?;
    let order = Order {
        id: args.id,
        source: Source::Bundle { path: args.bundle, config: args.config },
        labels: Default::default(),
        park,
        manager: Manager::Caller,
        die_with_parent: None,
        ignore_unsupported: args.ignore_unsupported,
        auto_remove: false,
        cgroup: runtime.cgroups,
    };
    let prepared = prepare::prepare(&runtime.root, order, |_| inherit().map_err(PrepareError::Pipe))?;
    for note in &prepared.notes {
        runtime.messages.warning(note);
    }
    let Prepared { launch, status, reserved, .. } = prepared;
    for detail in &launch.details {
        runtime.messages.debug(detail);
    }
    let spawned = Launching { launch, status }
        .run_with(args.pid_file.as_deref(), |pid| reserved.record_pid(pid).map(drop).map_err(anyhow::Error::from))?;
    Ok((reserved.keep(), spawned))
}

/// A launch on its way, of a container or of an exec.
pub struct Launching {
    pub launch: Launch,
    /// Read end of the status pipe.
    pub status: OwnedFd,
}

impl Launching {
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
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).context("PR_SET_DUMPABLE")?;
        let Launch { plan, fds, .. } = self.launch;
        let spawned = Host::open(false)?.spawn(&plan, &fds)?;
        // Our copies of the child's descriptors; the status pipe would never end with its write end held here.
        drop(fds);
        let started = record(spawned.pid).and_then(|()| {
            let mut reader = ReportReader::default();
            reader.read_to_end(&self.status).context("status pipe")?;
            match reader.finish(&plan) {
                Outcome::Running | Outcome::Parked => {}
                Outcome::Failed(error) => return Err(NotStarted::from(error).into()),
                Outcome::Vanished => return Err(NotStarted::Vanished.into()),
            }
            pid_file.map_or(Ok(()), |path| write_pid_file(path, spawned.pid))
        });
        if let Err(error) = started {
            // Whatever the child was doing, it must be gone before its cgroup can go.
            let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL);
            reap(spawned.pidfd.as_fd())?;
            return Err(error);
        }
        Ok(spawned)
    }
}

/// Waits for the exit, passing signals on, and reaps.
pub fn wait(forwarder: &Forwarder, spawned: &Spawned) -> anyhow::Result<ExitRecord> {
    forwarder.until_exit(spawned.pidfd.as_fd()).context("wait for the process")?;
    reap(spawned.pidfd.as_fd())
}

fn refuse_unsupported(args: &CreateArgs) -> anyhow::Result<()> {
    if args.console_socket.is_some() {
        bail!("--console-socket: terminals are not supported yet");
    }
    if args.pidfd_socket.is_some() {
        bail!("--pidfd-socket is not supported yet");
    }
    if args.no_pivot {
        bail!("--no-pivot is not supported: the container's root is always made by pivot_root");
    }
    if args.preserve_fds > 0 {
        bail!("--preserve-fds is not supported yet");
    }
    Ok(())
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

fn write_pid_file(path: &Path, pid: i32) -> anyhow::Result<()> {
    brood_launcher::state::replace_file(path, pid.to_string().as_bytes(), 0o644).context("--pid-file")
}

fn reap(pidfd: BorrowedFd<'_>) -> anyhow::Result<ExitRecord> {
    let status = rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).context("reap")?;
    Ok(match status {
        Some(status) => ExitRecord::of(&status, now_ns()),
        None => ExitRecord::unknown("waitid reported nothing", now_ns()),
    })
}
