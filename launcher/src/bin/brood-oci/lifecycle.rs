//! `start`, `pause`, `resume`, `kill` and `delete`.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use brood_launcher::cgroup::Cgroups;
use brood_launcher::hooks::{self, Point};
use brood_launcher::remove;
use brood_launcher::report::{Outcome, ReportReader};
use brood_launcher::signal;
use brood_launcher::state::{ContainerDir, INIT, Manager, StateError, Status, is_namespace_init, open_process};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::launch::NotStarted;
use crate::runtime::{FindError, Runtime};

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
    /// CONTAINER-ID is a regular expression: every container whose ID it matches
    #[arg(short, long)]
    regex: bool,
}

#[derive(Args)]
pub struct DeleteArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Kill the container first if it runs
    #[arg(short, long)]
    force: bool,
    /// CONTAINER-ID is a regular expression: every container whose ID it matches
    #[arg(short, long)]
    regex: bool,
}

pub fn start(runtime: &Runtime, id: &str) -> anyhow::Result<ExitCode> {
    let dir = runtime.find(id)?;
    match dir.status() {
        Status::Created => {}
        Status::Running => bail!("cannot start an already running container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
        status => bail!("cannot start a container in the {status} state"),
    }
    let connection = match dir.start_socket().connect() {
        Ok(connection) => connection,
        Err(Errno::NOENT) => bail!("cannot start an already running container"),
        Err(Errno::CONNREFUSED) => bail!("cannot start a container that has stopped"),
        Err(errno) => return Err(errno).context("connect to start.sock"),
    };
    // Once connected it is started, whatever becomes of us.
    dir.start_socket().remove();
    let mut reader = ReportReader::default();
    reader.read_to_end(&connection).context("read from start.sock")?;
    match reader.finish_start() {
        Outcome::Running => poststart(&dir).map(|()| ExitCode::SUCCESS),
        Outcome::Failed(error) => Err(NotStarted::from(error).into()),
        Outcome::Parked | Outcome::Vanished => Err(NotStarted::Vanished.into()),
    }
}

pub fn pause(runtime: &Runtime, id: &str) -> anyhow::Result<ExitCode> {
    let dir = runtime.find(id)?;
    match dir.status() {
        Status::Running | Status::Created => {}
        Status::Paused => bail!("container not running: container is paused"),
        status => bail!("container not running: it is {status}"),
    }
    own_cgroups(&dir, id, "pause")?.freeze(PATIENCE)?;
    Ok(ExitCode::SUCCESS)
}

pub fn resume(runtime: &Runtime, id: &str) -> anyhow::Result<ExitCode> {
    let dir = runtime.find(id)?;
    let cgroups = own_cgroups(&dir, id, "resume")?;
    if dir.status() != Status::Paused {
        bail!("container not paused");
    }
    cgroups.thaw(PATIENCE)?;
    Ok(ExitCode::SUCCESS)
}

/// The cgroups that an operation cannot do without.
pub fn own_cgroups(dir: &ContainerDir, id: &str, operation: &str) -> anyhow::Result<Cgroups> {
    let cgroups = dir.read_state()?.cgroups;
    ensure!(!cgroups.is_empty(), "container {id} has no cgroup of its own: cannot {operation}");
    Ok(cgroups)
}

pub fn kill(runtime: &Runtime, args: &KillArgs) -> anyhow::Result<ExitCode> {
    if args.signal == "0" {
        // As kill(2): nothing is sent, only asked whether it could be.
        let init = runtime.find(&args.id)?.process(INIT).read_pid().ok().and_then(open_process);
        ensure!(init.is_some() || args.all, "container not running");
        return Ok(ExitCode::SUCCESS);
    }
    let signal = signal::parse(&args.signal)?;
    let kill = |id: &str| match args.all {
        true => kill_all(runtime, id, signal),
        false => kill_init(&runtime.find(id)?, signal),
    };
    if args.regex {
        runtime.for_each_match(&args.id, kill)?
    } else {
        kill(&args.id)?
    }
    Ok(ExitCode::SUCCESS)
}

/// A container without a pid namespace of its own loses all its processes by SIGKILL, as with runc: nobody else would
/// end them.
fn kill_init(dir: &ContainerDir, signal: Signal) -> anyhow::Result<()> {
    let record = dir.process(INIT).read_pid().ok();
    let init = record.and_then(|record| Some((record.pid, open_process(record)?)));
    let cgroups = dir.read_state().map(|state| state.cgroups).unwrap_or_default();
    if signal == Signal::KILL {
        let alone = init.as_ref().is_some_and(|(pid, _)| is_namespace_init(*pid));
        if !alone && cgroups.processes().is_ok_and(|pids| !pids.is_empty()) {
            return Ok(cgroups.kill()?);
        }
    }
    let (_, init) = init.context("container not running")?;
    match rustix::process::pidfd_send_signal(&init, signal) {
        Err(Errno::SRCH) => bail!("container not running"),
        result => result.context("pidfd_send_signal")?,
    }
    if signal == Signal::KILL {
        cgroups.thaw_killed();
    }
    Ok(())
}

/// To every process of the container's cgroup. None being left is no error, as with runc.
fn kill_all(runtime: &Runtime, id: &str, signal: Signal) -> anyhow::Result<()> {
    let dir = runtime.find(id)?;
    let cgroups = dir.read_state()?.cgroups;
    if cgroups.is_empty() {
        runtime.messages.warning(&format!("container {id} has no cgroup of its own: --all reaches its init only"));
        return kill_init(&dir, signal);
    }
    cgroups.signal(signal)?;
    Ok(())
}

pub fn delete(runtime: &Runtime, args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let delete = |id: &str| delete_one(runtime, id, args.force);
    if args.regex {
        runtime.for_each_match(&args.id, delete)?
    } else {
        delete(&args.id)?
    }
    Ok(ExitCode::SUCCESS)
}

fn delete_one(runtime: &Runtime, id: &str, force: bool) -> anyhow::Result<()> {
    let dir = match runtime.find(id) {
        Err(FindError::State(StateError::NotFound(_))) if force => return Ok(()),
        found => found?,
    };
    if dir.read_state().is_ok_and(|state| state.manager == Manager::Daemon) && runtime.root.has_daemon() {
        bail!("container {id} belongs to the daemon that runs here: use `brood rm`");
    }
    match dir.status() {
        Status::Stopped => {}
        // Nothing of the user's runs yet.
        Status::Created => end(&dir, id)?,
        _ if force => end(&dir, id)?,
        status => bail!("cannot delete container {id} that is not stopped: {status}"),
    }
    remove(runtime, &dir)
}

/// Ends the init process, a frozen one too: the kernel lets SIGKILL through (cgroup-v2.rst, "cgroup.freeze").
fn end(dir: &ContainerDir, id: &str) -> anyhow::Result<()> {
    let Some(init) = dir.process(INIT).read_pid().ok().and_then(open_process) else { return Ok(()) };
    let _ = rustix::process::pidfd_send_signal(&init, Signal::KILL);
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut poll = [PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&timeout)));
    let ended = ended.context("wait for the container")?;
    ensure!(ended > 0, "container {id} did not end within {} s of SIGKILL", PATIENCE.as_secs());
    Ok(())
}

/// Runs the `poststart` hooks of a container whose program runs; when one fails, the container is killed.
pub fn poststart(dir: &ContainerDir) -> anyhow::Result<()> {
    let record = dir.process(INIT).read_pid()?;
    hooks::run(&dir.read_kept()?, Point::Poststart, &dir.read_state()?, record.pid).map_err(|error| {
        if let Some(init) = open_process(record) {
            let _ = rustix::process::pidfd_send_signal(&init, Signal::KILL);
        }
        error.into()
    })
}

/// Removes what a stopped container holds. Of several who do so at a time one does it all, hooks included, and the others
/// wait for that.
pub fn remove(runtime: &Runtime, dir: &ContainerDir) -> anyhow::Result<()> {
    let Some(_turn) = dir.claim_in_turn() else { return Ok(()) };
    // A folder without a readable state file was reserved and never launched: there is only the folder.
    let state = dir.read_state().unwrap_or_default();
    for problem in remove::remove(dir, &state, PATIENCE)? {
        runtime.messages.warning(&problem);
    }
    Ok(())
}
