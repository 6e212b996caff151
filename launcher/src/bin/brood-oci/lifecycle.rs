//! `start`, `kill` and `delete`.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use brood_launcher::cgroup;
use brood_launcher::hooks::{self, Point};
use brood_launcher::remove;
use brood_launcher::report::{Outcome, ReportReader};
use brood_launcher::signal;
use brood_launcher::state::{ContainerDir, INIT, Manager, StateError, Status, open_process};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::Runtime;
use crate::launch::NotStarted;

/// How long a killed container may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct KillArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Name, `SIG` name or number
    #[arg(default_value = "SIGTERM", value_name = "SIGNAL")]
    signal: String,
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
}

#[derive(Args)]
pub struct DeleteArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Kill the container first if it runs
    #[arg(short, long)]
    force: bool,
}

pub fn start(runtime: &Runtime, id: &str) -> anyhow::Result<ExitCode> {
    let dir = runtime.root.find(id)?;
    match dir.status() {
        Status::Created => {}
        Status::Running => bail!("cannot start an already running container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Creating => bail!("cannot start a container in the creating state"),
    }
    let connection = match dir.connect_for_start() {
        Ok(connection) => connection,
        Err(Errno::NOENT) => bail!("cannot start an already running container"),
        Err(Errno::CONNREFUSED) => bail!("cannot start a container that has stopped"),
        Err(errno) => return Err(errno).context("connect to start.sock"),
    };
    let mut reader = ReportReader::default();
    reader.read_to_end(&connection).context("read from start.sock")?;
    dir.forget_start();
    match reader.finish_start() {
        Outcome::Running => poststart(&dir).map(|()| ExitCode::SUCCESS),
        Outcome::Failed(error) => Err(NotStarted::from(error).into()),
        Outcome::Parked | Outcome::Vanished => Err(NotStarted::Vanished.into()),
    }
}

pub fn kill(runtime: &Runtime, args: &KillArgs) -> anyhow::Result<ExitCode> {
    let signal = signal::parse(&args.signal)?;
    let dir = runtime.root.find(&args.id)?;
    let init = dir.process(INIT).read_pid().ok().and_then(open_process);
    let state = dir.read_state().unwrap_or_default();
    if args.all && !state.cgroup.as_os_str().is_empty() {
        let pids = cgroup::processes(&state.cgroup).unwrap_or_default();
        if pids.is_empty() {
            bail!("container not running");
        }
        for pid in pids {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // Processes come and go while we send.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let init = init.context("container not running")?;
    match rustix::process::pidfd_send_signal(&init, signal) {
        Err(Errno::SRCH) => bail!("container not running"),
        result => result.context("pidfd_send_signal")?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn delete(runtime: &Runtime, args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let dir = match runtime.root.find(&args.id) {
        Err(StateError::NotFound(_)) if args.force => return Ok(ExitCode::SUCCESS),
        found => found?,
    };
    if dir.read_state().is_ok_and(|state| state.manager == Manager::Daemon) && runtime.root.has_daemon() {
        bail!("container {} belongs to the daemon that runs here: use `brood rm`", args.id);
    }
    let status = dir.status();
    if status != Status::Stopped {
        if !args.force {
            bail!("cannot delete container {} that is not stopped: {status}", args.id);
        }
        if let Some(init) = dir.process(INIT).read_pid().ok().and_then(open_process) {
            let _ = rustix::process::pidfd_send_signal(&init, rustix::process::Signal::KILL);
            let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let mut poll = [PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
            if rustix::event::poll(&mut poll, Some(&timeout)).context("wait for the container")? == 0 {
                bail!("container {} did not end within {} s of SIGKILL", args.id, PATIENCE.as_secs());
            }
        }
    }
    remove(runtime, &dir)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the `poststart` hooks of a container whose program runs; when one fails, the container is killed.
pub fn poststart(dir: &ContainerDir) -> anyhow::Result<()> {
    let record = dir.process(INIT).read_pid()?;
    hooks::run(&dir.read_kept()?, Point::Poststart, &dir.read_state()?, record.pid).map_err(|error| {
        if let Some(init) = open_process(record) {
            let _ = rustix::process::pidfd_send_signal(&init, rustix::process::Signal::KILL);
        }
        error.into()
    })
}

/// Removes what a stopped container holds.
pub fn remove(runtime: &Runtime, dir: &ContainerDir) -> anyhow::Result<()> {
    // A folder without a readable state file was reserved and never launched: there is only the folder.
    let state = dir.read_state().unwrap_or_default();
    for problem in remove::remove(dir, &state, PATIENCE)? {
        runtime.messages.warning(&problem);
    }
    Ok(())
}
