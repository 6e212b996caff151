//! The supervisor as a process of a daemon: start-up, accepting, stopping.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use brood_launcher::state::{Manager, StateRoot};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use crate::keeper::{Inherited, KeeperLink};
use crate::reactor::{self, Choice};
use crate::rpc;
use crate::supervisor::{Settings, Supervisor};

/// What `brood daemon` was told.
#[derive(Clone, Debug)]
pub struct DaemonSettings {
    /// State directory.
    pub root: StateRoot,
    /// Number of zygotes.
    pub zygotes: usize,
    /// A container that is not set up after this time is killed.
    pub start_timeout: Duration,
    /// Events kept.
    pub retain: usize,
    /// Source of exits.
    pub reactor: Choice,
    /// Kill and remove all containers when stopped.
    pub kill_on_exit: bool,
}

/// Runs a supervisor that was started by a keeper, until SIGTERM.
///
/// # Errors
/// Start-up failed; the message says at what.
pub fn supervise(settings: DaemonSettings) -> anyhow::Result<ExitCode> {
    let inherited = Inherited::take()?;
    brood_launcher::sys::set_comm(c"brood:supervise");
    // The keeper takes its signals from a descriptor and has them blocked, which execve(2) keeps.
    nix::sys::signal::SigSet::all().thread_unblock().context("unblock signals")?;
    let kind = settings.reactor.resolve().context("--reactor io_uring: this kernel refuses")?;
    tracing::info!(reactor = kind.name(), root = %settings.root.path().display(), "starting");
    let result = reactor::block_on(kind, async move {
        let (keeper, kept) = KeeperLink::open(inherited.keeper)?;
        let keeper_socket = keeper.waitable()?;
        let supervisor = Supervisor::start(
            Settings {
                root: settings.root,
                reactor: kind,
                zygotes: settings.zygotes,
                start_timeout: settings.start_timeout,
                retain: settings.retain,
                manager: Manager::Daemon,
            },
            Some(keeper),
        )
        .context("start")?;
        let adopted = supervisor.recover(&kept).context("recover")?;
        tokio::task::spawn_local(hear_keeper(supervisor.clone(), keeper_socket));
        let mut stop = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        rpc::listen(&supervisor, inherited.rpc, inherited.stdio).context("listen")?;
        supervisor.ready();
        tracing::info!(adopted, "ready");
        tokio::select! {
            _ = stop.0.recv() => {}
            _ = stop.1.recv() => {}
        }
        if settings.kill_on_exit {
            supervisor.kill_all().await;
        }
        supervisor.stop();
        Ok::<_, anyhow::Error>(())
    });
    result.context("runtime")??;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Takes exits of inherited processes from the keeper.
async fn hear_keeper(supervisor: Rc<Supervisor>, socket: OwnedFd) {
    // A duplicate is owned by the AsyncFd itself, so it lives exactly as long.
    let Ok(socket) = watch(socket) else { return };
    while let Ok(mut guard) = socket.readable().await {
        guard.clear_ready();
        if !supervisor.hear_keeper() {
            tracing::error!("the keeper died: containers go on, but a death of this supervisor would lose statuses");
            return;
        }
    }
}

#[expect(unsafe_code, reason = "AsyncFd::register asks that the descriptor outlives it")]
fn watch(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd that the AsyncFd owns stays open until it is dropped.
    unsafe { AsyncFd::register_with_interest(socket, tokio::io::Interest::READABLE) }.map_err(std::io::Error::from)
}
