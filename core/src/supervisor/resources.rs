//! A container's resources: limits changed, figures read, standing still, and what an exit tells of them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use brood_launcher::cgroup::{Cgroups, ChangeError, Stats};
use brood_launcher::config::check_resources;
use brood_launcher::state::{ExitRecord, Status, now_ns};
use serde_json::Value;

use super::act::internal;
use super::{ContainerFiles, Supervisor};
use crate::registry::{Event, Failure, FailureKind, Instance};

/// How long freezing and thawing may take.
const PACE_PATIENCE: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Changes limits of a container; one update at a time.
    ///
    /// # Errors
    /// The first limit that is refused; then all are as they were.
    pub async fn update(self: &Rc<Self>, instance: Instance, resources: Value) -> Result<(), Failure> {
        let invalid = |error: &dyn std::fmt::Display| Failure::new(FailureKind::InvalidRequest, error.to_string());
        let resources = check_resources(resources, "update").map_err(|error| invalid(&error))?;
        let _turn = self.updating.lock().await;
        let ContainerFiles { dir, state } = self.live_container(instance, "limit")?;
        let change = move || {
            let mut state = Arc::unwrap_or_clone(state);
            let grown = state.cgroups.change(&resources).map_err(|error| match error {
                ChangeError::Limit(error) => invalid(&error),
                ChangeError::Cgroup(error) => internal(&error.to_string()),
                ChangeError::Scope(error) => internal(&error.to_string()),
            })?;
            if grown {
                dir.write_state(&state).map_err(|error| internal(&error.to_string()))?;
            }
            Ok(state.cgroups)
        };
        let cgroups = self.blocking(change).await.flatten()?;
        self.watch_memory_anew(instance, &cgroups);
        if let Some(record) = self.records.borrow_mut().get_mut(&instance)
            && let Some(container) = &mut record.files.container
        {
            Arc::make_mut(&mut container.state).cgroups = cgroups;
        }
        Ok(())
    }

    /// What a container uses.
    ///
    /// # Errors
    /// It has stopped, or has no cgroup.
    pub async fn stats(self: &Rc<Self>, instance: Instance) -> Result<Stats, Failure> {
        let cgroups = self.live_container(instance, "count what it uses in")?.state.cgroups.clone();
        self.blocking(move || cgroups.stats()).await
    }

    /// A container that is set up and has not stopped, with cgroups.
    fn live_container(&self, instance: Instance, verb: &str) -> Result<ContainerFiles, Failure> {
        let gone = || Failure::new(FailureKind::NotFound, "container does not exist".to_owned());
        let status = self.core.borrow().look(instance).map(|(status, ..)| status).ok_or_else(gone)?;
        let records = self.records.borrow();
        let container = records.get(&instance).and_then(|record| record.files.container.clone()).ok_or_else(gone)?;
        let wrong = |what: &str| {
            let message = format!("cannot {verb} container {}: it {what}", container.state.id);
            Failure::new(FailureKind::WrongState, message)
        };
        match status {
            Status::Creating => Err(wrong("is being created")),
            Status::Stopped => Err(wrong("is stopped")),
            Status::Created | Status::Running | Status::Paused if container.state.cgroups.is_empty() => {
                Err(wrong("has no cgroup of its own"))
            }
            Status::Created | Status::Running | Status::Paused => Ok(container),
        }
    }

    /// Freezing waits for every process of the container to come to rest, on a thread that may.
    pub(super) fn change_pace(self: &Rc<Self>, instance: Instance, freeze: bool) {
        let cgroups = self.cgroups_of(instance).unwrap_or_default();
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            let change = move || {
                let change = if freeze { Cgroups::freeze } else { Cgroups::thaw };
                change(&cgroups, PACE_PATIENCE).map_err(|error| internal(&error.to_string()))
            };
            let result = supervisor.blocking(change).await.flatten();
            supervisor.event(instance, Event::PaceChanged(result));
        });
    }

    /// A process has ended: what it took is added to its exit, and a lack of memory is told before.
    pub(super) fn exited(self: &Rc<Self>, instance: Instance, mut exit: ExitRecord) {
        let Some((container, is_init)) = self.container_of(instance) else {
            return self.event(instance, Event::Exited(exit));
        };
        let cgroups = self.cgroups_of(container).unwrap_or_default();
        let memory = if is_init {
            let totals = cgroups.totals();
            (exit.memory_peak, exit.cpu_total_ns, exit.pressure) = (totals.memory_peak, totals.cpu_ns, totals.pressure);
            totals.out_of_memory
        } else {
            cgroups.out_of_memory()
        };
        if self.tell_oom(container, memory) {
            // Told first, and so with the earlier time.
            exit.time_ns = exit.time_ns.max(now_ns());
        }
        if is_init || exit.signal == Some(libc::SIGKILL as u8) {
            exit.oom_killed = memory.is_some_and(|memory| memory.kills > 0);
        }
        self.event(instance, Event::Exited(exit));
    }

    /// The container of a process, and whether this is its init process.
    fn container_of(&self, instance: Instance) -> Option<(Instance, bool)> {
        let records = self.records.borrow();
        let files = &records.get(&instance)?.files;
        match files.container {
            Some(_) => Some((instance, true)),
            None => Some((self.core.borrow().find(&files.id)?, false)),
        }
    }

    fn cgroups_of(&self, container: Instance) -> Option<Cgroups> {
        let records = self.records.borrow();
        Some(records.get(&container)?.files.container.as_ref()?.state.cgroups.clone())
    }
}
