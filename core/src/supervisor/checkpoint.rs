//! Checkpoints, and containers that go on from one.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;

use brood_launcher::checkpoint::named::{self, Checkpoint};
use brood_launcher::checkpoint::{self, CheckpointError};
use brood_launcher::prepare::{self, PrepareError, Reservation};
use brood_launcher::spawn::Spawned;
use brood_launcher::state::{INIT, Ordered, Status};

use tokio::sync::oneshot;

use super::launch::{open_stdio, prepare_failure};
use super::{ContainerFiles, Files, Order, StdioOrder, Supervisor, going_down};
use crate::registry::{Event, Failure, FailureKind, Instance};

/// A checkpoint to go on from.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    /// The directory of checkpoints; empty for that of the bundle.
    pub directory: PathBuf,
    /// Its name.
    pub name: String,
}

fn failure(error: &CheckpointError) -> Failure {
    let kind = match error {
        CheckpointError::Path { .. } => FailureKind::InvalidRequest,
        CheckpointError::Config { .. } | CheckpointError::Plan(_) => FailureKind::InvalidConfig,
        _ => FailureKind::LaunchFailed,
    };
    Failure::new(kind, error.to_string())
}

impl Supervisor {
    /// Makes a checkpoint of a running container. With `exit` its exit comes as any other.
    ///
    /// # Errors
    /// It does not run, or CRIU refuses; it goes on.
    pub async fn checkpoint(
        self: &Rc<Self>,
        container: Instance,
        directory: PathBuf,
        checkpoint: Checkpoint,
    ) -> Result<(), Failure> {
        self.insist_on_staying()?;
        let ContainerFiles { dir, state } = self.container_files(container)?;
        let status = self.process_snapshot(container).map(|snapshot| snapshot.status);
        if let Some(status) = status.filter(|status| *status != Status::Running) {
            let message = format!("cannot checkpoint container {}: it is {status}", state.id);
            return Err(Failure::new(FailureKind::WrongState, message));
        }
        let checkpoint = Checkpoint { created: jiff::Timestamp::now().to_string(), ..checkpoint };
        let (written, heard) = oneshot::channel();
        let (told, go_on) = mpsc::channel::<()>();
        let create = move || {
            let folder = named::folder(&state.bundle, &directory)?;
            named::create(&folder, &checkpoint, &dir, &state, || {
                // The event comes before the exit: CRIU lets nobody go, or end, before this returns.
                if written.send(()).is_ok() {
                    let _ = go_on.recv();
                }
            })
        };
        let _turn = self.criu.acquire().await.ok();
        // A task of its own: the caller may go away meanwhile.
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            if heard.await.is_ok() {
                supervisor.event(container, Event::Checkpointed);
            }
            drop(told);
        });
        let supervisor = self.clone();
        // It goes on to its end in any case, and an upgrade waits for that.
        let done = tokio::task::spawn_local(async move {
            let _guard = supervisor.capturing();
            supervisor.blocking(create).await
        });
        done.await.map_err(going_down)??.map_err(|error| failure(&error))
    }

    /// The checkpoints of a container's bundle, or of another directory.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn checkpoints(&self, container: Instance, directory: PathBuf) -> Result<Vec<Checkpoint>, Failure> {
        let ContainerFiles { state, .. } = self.container_files(container)?;
        let list = move || named::folder(&state.bundle, &directory).map(|folder| named::list(&folder));
        self.blocking(list).await?.map_err(|error| failure(&error))
    }

    /// Removes one of them.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn delete_checkpoint(
        &self,
        container: Instance,
        directory: PathBuf,
        name: String,
    ) -> Result<(), Failure> {
        let ContainerFiles { state, .. } = self.container_files(container)?;
        let delete = move || named::delete(&named::folder(&state.bundle, &directory)?, &name);
        self.blocking(delete).await?.map_err(|error| failure(&error))
    }

    fn container_files(&self, container: Instance) -> Result<ContainerFiles, Failure> {
        let records = self.records.borrow();
        let files = records.get(&container).and_then(|record| record.files.container.clone());
        files.ok_or_else(|| Failure::new(FailureKind::NotFound, "container does not exist".to_owned()))
    }

    /// A launch whose process comes from a checkpoint. There is no deadline: memory takes the time that it takes.
    pub(super) async fn restore(self: Rc<Self>, instance: Instance, order: Order, from: CheckpointFolder) {
        let event = match self.restored(instance, order, from).await {
            Ok(()) => Event::Restored,
            Err(failure) => Event::NotCloned(failure),
        };
        self.event(instance, event);
    }

    async fn restored(
        self: &Rc<Self>,
        instance: Instance,
        order: Order,
        from: CheckpointFolder,
    ) -> Result<(), Failure> {
        if !order.start {
            let message = "checkpoint: a restored container runs at once".to_owned();
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        }
        let settings = self.settings.clone();
        let restore = move || -> Result<(Reservation, checkpoint::Restored), Failure> {
            let (order, stdio): (prepare::Order, StdioOrder) = order.for_launcher(&settings);
            let reservation = prepare::reserve(&settings.root, order).map_err(prepare_failure)?;
            let io = open_stdio(stdio, &reservation.reserved.dir().process(INIT));
            let io = io.map_err(|errno| prepare_failure(PrepareError::Pipe(errno)))?;
            let folder = named::folder(&reservation.state.bundle, &from.directory);
            let options = folder.and_then(|folder| named::restore_options(&folder, &from.name));
            let restored = options.and_then(|options| checkpoint::restore(&reservation, &io, &options));
            restored.map(|restored| (reservation, restored)).map_err(|error| failure(&error))
        };
        let _turn = self.criu.acquire().await.ok();
        let (reservation, restored) = self.blocking(restore).await??;
        for note in &reservation.notes {
            tracing::warn!(container = reservation.state.id, "{note}");
        }
        let owns_pid_namespace = reservation.owns_pid_namespace();
        let Reservation { state, mut reserved, .. } = reservation;
        self.let_go(reserved.take_anchor());
        let init = reserved.dir().process(INIT);
        let spawned = Spawned { pid: restored.pid, pidfd: restored.pidfd, helper: None };
        let files = || Files::of_init(reserved.keep(), state.into());
        self.write_down(
            instance,
            spawned,
            |pid, pidfd| init.record_pid(pid, Some(pidfd), Ordered::default()),
            owns_pid_namespace,
            files,
        )
    }
}
