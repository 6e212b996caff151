//! `brood daemon`: becomes the keeper, or, when the keeper calls, the supervisor.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context;
use brood_launcher::cgroup;
use brood_launcher::prepare::CgroupManager;
use brood_launcher::seal::SealedExe;
use brood_launcher::state::ProcStat;
use clap::{Args, ValueEnum};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Place, print};
use crate::client::Client;
use crate::daemon::{self, DaemonSettings};
use crate::exe::Role;
use crate::keeper::{self, BINARY_VARIABLE};
use crate::limits::{RETAIN_COUNT_DEFAULT, ZYGOTES_MAX};
use crate::line::Trouble;
use crate::reactor::Choice;

/// How long an upgrade may take: longer than the keeper lets it.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(75);
/// Pause before it is asked again who is there.
const UPGRADE_PAUSE: Duration = Duration::from_millis(50);
const NOT_UPGRADED: &str = "the old supervisor is still there; the daemon's log says why";

#[derive(Args)]
pub(super) struct DaemonArgs {
    /// Number of processes that clone containers [default: one per processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=ZYGOTES_MAX as i64))]
    zygotes: Option<u16>,
    /// Kill a container that is not set up after this time (15s, 500ms, 1m)
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    start_timeout: Duration,
    /// Events that are kept for replay
    #[arg(long, value_name = "N", default_value_t = RETAIN_COUNT_DEFAULT)]
    retain_count: usize,
    /// How exits are noticed
    #[arg(long, value_enum, default_value = "auto")]
    reactor: Choice,
    /// Who makes the containers' cgroups: we do, as directories, or systemd, as scopes (linux.cgroupsPath is slice:prefix:name)
    #[arg(long, value_enum, value_name = "MANAGER", default_value = "cgroupfs")]
    cgroup_manager: ManagerName,
    /// Kill and remove all containers when the daemon is stopped; otherwise they are left alone
    #[arg(long)]
    kill_on_exit: bool,
    /// Instead of starting a daemon, replace the one that runs by the binary at the path that it was started from;
    /// containers and waiting clients go on
    #[arg(long, exclusive = true)]
    upgrade: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ManagerName {
    Cgroupfs,
    Systemd,
}

impl From<ManagerName> for CgroupManager {
    fn from(name: ManagerName) -> CgroupManager {
        match name {
            ManagerName::Cgroupfs => CgroupManager::Ourselves,
            ManagerName::Systemd => CgroupManager::Systemd,
        }
    }
}

pub(super) fn daemon(place: &Place, args: &DaemonArgs, role: Option<Role>) -> anyhow::Result<ExitCode> {
    if args.upgrade {
        return upgrade(place);
    }
    anyhow::ensure!(place.host.is_none(), "--host is for clients: a daemon listens at brood.sock in --root");
    anyhow::ensure!(rustix::process::geteuid().is_root(), "only root can run the daemon in this version");
    args.reactor.resolve().map_err(|error| anyhow::anyhow!("--reactor io_uring: this kernel refuses: {error}"))?;
    let root = place.state_root()?;
    let arguments = std::env::args_os().skip(1);
    match role {
        None => {
            // Later it may be away for a while, and come back: that is told to whoever creates a container.
            if args.cgroup_manager == ManagerName::Systemd {
                cgroup::reach_systemd().context("--cgroup-manager systemd")?;
            }
            // From here on everything runs from a sealed copy, under a name that `ps` shows.
            let exe = SealedExe::lasting().context("copy the binary into memory")?;
            let binary = std::env::current_exe().context("the path of this binary")?;
            let mut command = Command::new(exe.path());
            let error = command.arg0(Role::Keeper.argv0()).args(arguments).env(BINARY_VARIABLE, binary).exec();
            Err(error).context("start the keeper")
        }
        Some(Role::Keeper) => keeper::run(&root, arguments.collect()),
        Some(Role::Supervisor | Role::Zygote) => {
            let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
            daemon::supervise(DaemonSettings {
                root,
                zygotes: args.zygotes.map_or(processors, usize::from),
                start_timeout: args.start_timeout,
                retain: args.retain_count,
                reactor: args.reactor,
                cgroups: args.cgroup_manager.into(),
                kill_on_exit: args.kill_on_exit,
            })
        }
    }
}

/// SIGHUP to the keeper, and wait for another supervisor.
fn upgrade(place: &Place) -> anyhow::Result<ExitCode> {
    let upgraded = place.try_with_line(async |line| {
        let ask = async |client: Client| client.version().await;
        let old = line.call(ask, Trouble::of).await?;
        let supervisor =
            ProcStat::read(old.pid).context("the daemon is not of this machine, or of another pid namespace")?;
        let keeper = Pid::from_raw(supervisor.parent).context("the daemon has no keeper")?;
        let pidfd = rustix::process::pidfd_open(keeper, PidfdFlags::empty()).context("the keeper")?;
        let name = std::fs::read(format!("/proc/{}/cmdline", keeper.as_raw_nonzero()))?;
        anyhow::ensure!(
            name.starts_with(Role::Keeper.argv0().as_bytes()),
            "process {keeper:?} is no keeper of a daemon"
        );
        // It looks for itself as well; here there is somebody to be told.
        let environment = std::fs::read(format!("/proc/{}/environ", keeper.as_raw_nonzero()))?;
        keeper::check_binary(&keeper::binary_in(&environment).context("the daemon does not know its binary's path")?)?;
        rustix::process::pidfd_send_signal(&pidfd, Signal::HUP).context("signal the keeper")?;
        let deadline = tokio::time::Instant::now() + UPGRADE_PATIENCE;
        loop {
            // The old one closes the connection when it ends.
            let new = tokio::time::timeout_at(deadline, line.call(ask, Trouble::of)).await.context(NOT_UPGRADED)??;
            if new.pid != old.pid {
                let told = format!("{} (pid {}) -> {} (pid {})\n", old.version, old.pid, new.version, new.pid);
                return print(&told);
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, NOT_UPGRADED);
            tokio::time::sleep(UPGRADE_PAUSE).await;
        }
    })?;
    upgraded.unwrap_or_else(|error| Err(error.into()))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "expected a number and ms, s or m".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("unknown unit {unit:?}: expected ms, s or m")),
    }
}
