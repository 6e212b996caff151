//! One more process in a running container: one round trip to a zygote, and no process of ours.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use brood_launcher::cgroup::Cgroups;
use brood_launcher::exec::{self, ExecError, Prepared};
use brood_launcher::plan::AskedMaps;
use brood_launcher::state::{Ordered, ProcStat, ProcessDir};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::act::internal;
use super::launch::{Cloned, launch_failure, open_stdio};
use super::{Files, StdioOrder, Supervisor};
use crate::fault;
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
    pub(super) async fn clone_exec(self: &Rc<Self>, instance: Instance, order: ExecOrder) -> Result<Cloned, Failure> {
        let container = self.records.borrow().get(&order.container).and_then(|record| record.files.container.clone());
        let container = container.ok_or_else(|| internal("the container is not written down"))?;
        let (id, name) = (container.state.id.clone(), order.exec.id.clone());
        let cgroups = container.state.cgroups.clone();
        let ordered = Ordered { auto_remove: order.auto_remove, at_once: !order.exec.park };
        let prepare = move || {
            let io = |dir: &ProcessDir| open_stdio(order.stdio, dir);
            let prepare = || exec::prepare(&container.dir, &container.state.cgroups, &order.exec, io);
            fault::around("prepare", prepare)
        };
        let prepared = self.blocking(prepare).await?.map_err(|error| failure(&error))?;
        let Prepared { launch, status, notes, reserved } = prepared;
        for note in &notes {
            tracing::warn!(container = id, process = name, "{note}");
        }
        let (plan, fds) = (launch.plan, launch.fds);
        let launching = self.launching_execs.read().await;
        let spawned = match fault::around_async("clone", self.zygotes.launch(&plan, fds)).await {
            Ok(spawned) => spawned,
            Err(error) => {
                drop(launching);
                return Err(self.undo_exec(error, reserved, cgroups).await);
            }
        };
        let dir = reserved.dir().clone();
        let record = |pid, pidfd: BorrowedFd<'_>| dir.record_pid(pid, Some(pidfd), ordered);
        self.write_down(instance, spawned, record, false, || Files::of_exec(&id, &name, reserved.keep()))?;
        Ok(Cloned { plan, asked_maps: AskedMaps::default(), status, hooked: None })
    }

    /// Removes what is left of a launch that brought no child, however long its caller waits for that.
    async fn undo_exec(self: &Rc<Self>, error: LaunchError, reserved: exec::Reserved, cgroups: Cgroups) -> Failure {
        let failure = launch_failure(&error);
        let undone = tokio::task::spawn_local(self.clone().end_unborn(error, reserved, cgroups));
        let _ = undone.await;
        failure
    }

    async fn end_unborn(self: Rc<Self>, error: LaunchError, reserved: exec::Reserved, cgroups: Cgroups) {
        // With nobody on the way, a child of ours in there that is not written down is one that the dead zygote has left.
        let all_known = self.launching_execs.write().await;
        let known: HashSet<i32> = self.records.borrow().values().map(|record| record.pid).collect();
        let undone = self.blocking(move || {
            match error {
                LaunchError::Spawn(error) => error.killed.iter().for_each(end_child),
                LaunchError::ZygoteDied => end_strays(&cgroups, &known),
                LaunchError::Send(_) => {}
            }
            drop(reserved);
        });
        if let Err(failure) = undone.await {
            tracing::warn!(%failure, "undo an exec");
        }
        drop(all_known);
    }
}

/// Kills and reaps the children of ours in a container's cgroup that nobody knows. Those that have ended already, at
/// their report to a status pipe that nobody reads any more, are not in `cgroup.procs`; unreaped they would keep the pid
/// namespace from ending (pid_namespaces(7)).
fn end_strays(cgroups: &Cgroups, known: &HashSet<i32>) {
    strays(cgroups, rustix::process::getpid(), known).iter().for_each(|(_, pidfd)| end_child(pidfd));
}

/// A parent's children in a container's cgroup that nobody knows, zombies included: their pids and handles.
pub(super) fn strays(cgroups: &Cgroups, parent: Pid, known: &HashSet<i32>) -> Vec<(i32, OwnedFd)> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let strays = pids.filter(|pid| !known.contains(pid)).filter_map(|pid| {
        let is_child = ProcStat::read(pid).is_some_and(|stat| stat.parent == parent.as_raw_nonzero().get());
        let child = Pid::from_raw(pid).filter(|_| is_child && cgroups.has_member(pid));
        Some((pid, child.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())?))
    });
    strays.collect()
}

fn failure(error: &ExecError) -> Failure {
    let kind = match error {
        ExecError::Id(_) | ExecError::Reserved(_) | ExecError::Number(_) | ExecError::Process(_) => {
            FailureKind::InvalidRequest
        }
        ExecError::InUse(_) => FailureKind::AlreadyExists,
        ExecError::Stopped => FailureKind::WrongState,
        ExecError::Plan(_) => FailureKind::LaunchFailed,
        ExecError::State(_) | ExecError::Cgroup(_) | ExecError::Resctrl(_) | ExecError::Descriptor { .. } => {
            FailureKind::Internal
        }
    };
    Failure::new(kind, error.to_string())
}
