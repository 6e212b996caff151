//! The supervisor as a process of a daemon: start-up, accepting, stopping.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use brood_launcher::prepare::CgroupManager;
use brood_launcher::state::{Manager, StateRoot};
use rustix::process::{Resource, Rlimit};
use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

use crate::keeper::{Inherited, KeeperLink, Spare};
use crate::reactor::{self, Choice};
use crate::rpc;
use crate::supervisor::{Settings, Supervisor, Told};
use crate::watch::watch;

/// How long answers may take to leave before an upgrade.
const ANSWERS_LEAVE: Duration = Duration::from_millis(50);
/// Pause before another keeper is started when that has failed.
const KEEPER_PAUSE: Duration = Duration::from_secs(1);

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
    /// Who makes cgroups.
    pub cgroups: CgroupManager,
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
    die_of_panics();
    let nofile = raise_nofile();
    let kind = settings.reactor.resolve().context("--reactor io_uring: this kernel refuses")?;
    tracing::info!(reactor = kind.name(), root = %settings.root.path().display(), "starting");
    let result = reactor::block_on(kind, async move {
        // Its lock is held as long as we live: a keeper's death must not let a second daemon in.
        let spare = Spare::of(&inherited)?;
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
                cgroups: settings.cgroups,
                container_nofile: nofile,
            },
            Some(keeper),
        )
        .context("start")?;
        let adopted = supervisor.recover(&kept).context("recover")?;
        tokio::task::spawn_local(hear_keeper(supervisor.clone(), keeper_socket, spare));
        let mut stop = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hang_up = signal(SignalKind::hangup())?;
        rpc::listen(&supervisor, inherited.rpc, inherited.stdio).context("listen")?;
        supervisor.ready();
        tracing::info!(adopted, "ready");
        tokio::select! {
            _ = stop.0.recv() => {}
            _ = stop.1.recv() => {}
            _ = hang_up.recv() => hand_on(&supervisor, settings.start_timeout).await,
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

/// Ends for an upgrade, once what is under way has come to its end. Never returns: whatever goes down in good order would
/// take containers along whose callers wait.
async fn hand_on(supervisor: &Supervisor, patience: Duration) {
    let began = Instant::now();
    if !supervisor.drain(patience).await {
        tracing::warn!("not all that was under way came to its end in {} s", patience.as_secs_f32());
    }
    // Answers on their way to clients.
    tokio::time::sleep(ANSWERS_LEAVE).await;
    supervisor.stop();
    tracing::info!(took = ?began.elapsed(), "handing on to the next supervisor");
    std::process::exit(0)
}

/// A panic in a task of the loop would leave a supervisor that is alive and deaf. A dead one is replaced by the keeper.
fn die_of_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Raises the soft limit of descriptors to the hard one: an idle container costs one. Returns what containers are to
/// have, which is what we were given.
fn raise_nofile() -> Option<Rlimit> {
    let given = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: given.maximum, maximum: given.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => Some(given),
        Err(errno) => {
            tracing::warn!(%errno, "cannot raise RLIMIT_NOFILE");
            None
        }
    }
}

/// Hears a keeper for as long as it lives, and then starts another one.
async fn hear_keeper(supervisor: Rc<Supervisor>, mut socket: OwnedFd, spare: Spare) {
    loop {
        until_it_dies(&supervisor, socket).await;
        tracing::error!("the keeper died: containers go on; starting another");
        socket = loop {
            let started = spare.start_keeper().and_then(|ours| Ok((ours.try_clone()?, ours)));
            match started {
                Ok((copy, ours)) => {
                    supervisor.replace_keeper(ours);
                    break copy;
                }
                Err(error) => tracing::error!("{error:#}; trying again"),
            }
            tokio::time::sleep(KEEPER_PAUSE).await;
        };
    }
}

/// Takes exits of inherited processes from the keeper, and sends what could not be sent at once.
async fn until_it_dies(supervisor: &Rc<Supervisor>, socket: OwnedFd) {
    let Ok(socket) = watch(socket, Interest::READABLE | Interest::WRITABLE) else { return };
    loop {
        let interest =
            if supervisor.owes_keeper() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = tokio::select! {
            ready = socket.ready(interest) => ready,
            () = supervisor.owing() => continue,
        };
        let Ok(mut guard) = ready else { return };
        guard.clear_ready();
        loop {
            match supervisor.hear_keeper() {
                Told::Some => tokio::task::yield_now().await,
                Told::All => break,
                Told::ByNobody => return,
            }
        }
    }
}
