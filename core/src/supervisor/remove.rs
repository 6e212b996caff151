//! The end of a container or exec, and of what dead commands have left.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use brood_launcher::remove::{self, Pending, RemoveError};
use brood_launcher::state::{ContainerDir, ContainerState, Manager, StateRoot, open_process};

use super::act::internal;
use super::{ContainerFiles, Supervisor};
use crate::fault;
use crate::registry::{Event, Failure, Instance};

/// How long processes that were killed may take to leave a cgroup.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(10);

/// How long until it is tried again to clear something away; twice as long each time, up to the second value.
const CLEAR_PAUSE_MIN: Duration = Duration::from_secs(1);
const CLEAR_PAUSE_MAX: Duration = Duration::from_secs(60);

impl Supervisor {
    pub(super) fn remove(self: &Rc<Self>, instance: Instance) {
        let what = self.records.borrow().get(&instance).map(|record| match &record.files.container {
            Some(container) => Ok(container.clone()),
            None => Err(record.files.dir.clone()),
        });
        self.oom.leave(instance);
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            let result = match what {
                // Never got as far as a folder.
                None => Ok(()),
                Some(Ok(ContainerFiles { dir, state })) => supervisor.remove_container(dir, state).await,
                Some(Err(dir)) => {
                    let remove = move || fault::around("remove folder", || dir.remove());
                    let remove = move || remove().map_err(|error| internal(&error.to_string()));
                    supervisor.blocking(remove).await.flatten()
                }
            };
            supervisor.event(instance, Event::Removed(result));
        });
    }

    /// Removes what a container without an init process holds; execs that live on end here at the latest. The folder goes
    /// after the hooks: a supervisor that dies under them leaves them to the next one. What is wrong with hooks stops
    /// nothing (runtime-spec, runtime, "Lifecycle", 13).
    pub(super) async fn remove_container(&self, dir: ContainerDir, state: Arc<ContainerState>) -> Result<(), Failure> {
        let folder = dir.clone();
        let failed = |error: RemoveError| internal(&error.to_string());
        let (id, begin) = (state.id.clone(), move || {
            fault::around("empty cgroup", || remove::begin(&folder, &state, REMOVAL_PATIENCE))
        });
        let Pending { hooks, problem } = self.blocking(begin).await?.map_err(failed)?;
        if let Some(problem) = problem {
            tracing::warn!(container = id, "{problem}");
        }
        if let Err(failure) = self.run_hooks(hooks, None).await {
            tracing::warn!(container = id, "{failure}");
        }
        let remove = move || fault::around("remove folder", || dir.remove());
        self.blocking(remove).await?.map_err(|error| failed(error.into()))
    }

    /// Removes in the background what nobody has in a registry, and so nobody can remove: it is tried until it succeeds.
    pub(super) fn clear_away(self: &Rc<Self>, dir: ContainerDir, state: Arc<ContainerState>, why: &'static str) {
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            let mut pause = CLEAR_PAUSE_MIN;
            while !supervisor.removed(dir.clone(), state.clone(), why).await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(CLEAR_PAUSE_MAX);
            }
        });
    }

    /// Whether it could be.
    async fn removed(&self, dir: ContainerDir, state: Arc<ContainerState>, why: &'static str) -> bool {
        let id = state.id.clone();
        match self.remove_container(dir, state).await {
            Ok(()) => tracing::warn!(container = id, "{why}: removed"),
            Err(failure) => {
                tracing::warn!(container = id, %failure, "{why}");
                return false;
            }
        }
        true
    }

    /// Removes, in the background, what embedded supervisors left that were killed, and reservations that were never
    /// completed. Whoever is about to end should wait for it, but not for ever: it runs hooks.
    pub fn sweep(self: &Rc<Self>) -> tokio::task::JoinHandle<()> {
        let (supervisor, root) = (self.clone(), self.settings.root.clone());
        tokio::task::spawn_local(async move {
            let left = supervisor.blocking(move || left_behind(&root)).await.unwrap_or_default();
            let removals = left.into_iter().map(|Left { claim, dir, state }| {
                let supervisor = &supervisor;
                async move {
                    supervisor.removed(dir, state, "left by a command that was killed").await;
                    drop(claim);
                }
            });
            futures::future::join_all(removals).await;
        })
    }
}

/// Removes what a container holds that never had a process, and so has no hooks to run.
pub(super) fn remove_unborn(dir: &ContainerDir, state: &ContainerState) -> Result<(), Failure> {
    remove::remove(dir, state, REMOVAL_PATIENCE).map(drop).map_err(|error| internal(&error.to_string()))
}

/// A container of an embedded supervisor that is dead.
struct Left {
    /// Held until it is removed: of several who sweep, one does.
    claim: OwnedFd,
    dir: ContainerDir,
    state: Arc<ContainerState>,
}

fn left_behind(root: &StateRoot) -> Vec<Left> {
    root.sweep();
    let left = root.list().unwrap_or_default().into_iter().filter_map(|id| {
        let dir = root.find(&id).ok()?;
        let state = dir.read_state().ok()?;
        // Its processes died with the supervisor; the cgroup says when they are gone.
        let dead = state.manager == Manager::Embedded && state.embedded_in.and_then(open_process).is_none();
        let claim = if dead { dir.claim()? } else { return None };
        Some(Left { claim, dir, state: state.into() })
    });
    left.collect()
}
