//! One more process in a running container: one round trip to a zygote, and no process of ours.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use brood_launcher::exec::{self, ExecError, Prepared};
use brood_launcher::plan::Plan;

use super::act::internal;
use super::launch::{launch_failure, open_stdio};
use super::{Files, StdioOrder, Supervisor};
use crate::registry::{Failure, FailureKind, Instance};
use crate::zygotes::{LaunchError, end_child};

/// An exec to be made.
#[derive(Debug)]
pub struct ExecOrder {
    /// In which container.
    pub container: Instance,
    /// What.
    pub exec: exec::Order,
    /// Its standard descriptors.
    pub stdio: StdioOrder,
    /// Remove it when it ends.
    pub auto_remove: bool,
}

impl Supervisor {
    /// Prepares on a thread that may block, has a zygote clone, and writes down and watches the child.
    pub(super) async fn clone_exec(
        self: &Rc<Self>,
        instance: Instance,
        order: ExecOrder,
    ) -> Result<(Plan, OwnedFd), Failure> {
        let container = self.records.borrow().get(&order.container).and_then(|record| record.files.container.clone());
        let container = container.ok_or_else(|| internal("the container is not written down"))?;
        let (id, name) = (container.state.id.clone(), order.exec.id.clone());
        let prepare = move || {
            exec::prepare(&container.dir, &container.state.cgroup, &order.exec, |dir| open_stdio(order.stdio, dir))
        };
        let prepared = self.blocking(prepare).await?.map_err(|error| failure(&error))?;
        let Prepared { launch, status, notes, reserved } = prepared;
        for note in &notes {
            tracing::warn!(container = id, process = name, "{note}");
        }
        let (plan, fds) = (launch.plan, launch.fds);
        let spawned = match self.zygotes.launch(&plan, fds).await {
            Ok(spawned) => spawned,
            Err(error) => return Err(self.undo_exec(error, reserved).await),
        };
        let dir = reserved.dir().clone();
        self.write_down(instance, spawned, &dir, false, || Files::of_exec(&id, &name, reserved.keep()))?;
        Ok((plan, status))
    }

    /// Removes what is left of a launch that brought no child. A child that a dying zygote may have left ends by itself,
    /// at its first report: nobody reads the status pipe any more.
    async fn undo_exec(&self, error: LaunchError, reserved: exec::Reserved) -> Failure {
        let failure = launch_failure(&error);
        let undone = self.blocking(move || {
            if let LaunchError::Spawn(error) = error
                && let Some(killed) = error.killed
            {
                end_child(&killed);
            }
            drop(reserved);
        });
        if let Err(failure) = undone.await {
            tracing::warn!(%failure, "undo an exec");
        }
        failure
    }
}

fn failure(error: &ExecError) -> Failure {
    let kind = match error {
        ExecError::Id(_) | ExecError::Reserved(_) | ExecError::User(_) | ExecError::Process(_) => {
            FailureKind::InvalidRequest
        }
        ExecError::InUse(_) => FailureKind::AlreadyExists,
        ExecError::Stopped => FailureKind::WrongState,
        ExecError::Plan(_) => FailureKind::LaunchFailed,
        ExecError::State(_) | ExecError::Descriptor { .. } => FailureKind::Internal,
    };
    Failure::new(kind, error.to_string())
}
