//! The end of a container: what its launch made goes, and the `poststop` hooks run.

use std::time::Duration;

use crate::cgroup::CgroupError;
use crate::hooks::{List, Point};
use crate::host_root::HostRoot;
use crate::resctrl::{Group, ResctrlError};
use crate::state::{ContainerDir, ContainerState, INIT, StateError};

/// Why a container could not be removed; what is left is found by the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its root in the host's mount namespace.
    #[error("unmount its root: {}", crate::report::errno_text(*.0))]
    Root(rustix::io::Errno),
    /// Its group of resctrl.
    #[error(transparent)]
    Resctrl(#[from] ResctrlError),
    /// Its folder.
    #[error("remove state: {0}")]
    State(#[from] StateError),
}

/// Removes what a container without a running init process holds: the processes it left in its cgroup, which get
/// `patience` to end, the cgroup, the folder. Hooks run last. What went wrong with them is returned, one line each, and
/// stops nothing (runtime-spec, runtime, "Lifecycle", 13).
///
/// # Errors
/// The cgroup or the folder cannot be removed.
pub fn remove(dir: &ContainerDir, state: &ContainerState, patience: Duration) -> Result<Vec<String>, RemoveError> {
    let Pending { hooks, problem } = Pending::of(dir, state);
    let_go(state, patience)?;
    dir.remove()?;
    let failed = hooks.run().err().map(|error| error.to_string());
    Ok(problem.into_iter().chain(failed).collect())
}

/// The first half of [`remove`], for whoever runs the hooks in a way of its own and removes the folder after them. The
/// folder says from here on that the removal has begun ([`ContainerDir::removal_has_begun`]), if there are hooks:
/// whoever finds it has to go on with it, so that none of them is lost.
///
/// # Errors
/// The cgroup cannot be removed, or the folder not written to.
pub fn begin(dir: &ContainerDir, state: &ContainerState, patience: Duration) -> Result<Pending, RemoveError> {
    let pending = Pending::of(dir, state);
    if !pending.hooks.is_empty() {
        dir.note_removal()?;
    }
    let_go(state, patience)?;
    Ok(pending)
}

/// Ends what is left, and takes away what is not in its folder. Its processes first: what they leave is then empty.
fn let_go(state: &ContainerState, patience: Duration) -> Result<(), RemoveError> {
    state.cgroups.kill_and_remove(patience)?;
    state.resctrl.as_ref().map_or(Ok(()), Group::remove)?;
    state.host_root.as_ref().map_or(Ok(()), HostRoot::detach).map_err(RemoveError::Root)
}

/// What is to be done before the folder of a container may go.
#[derive(Debug)]
pub struct Pending {
    /// Its `poststop` hooks.
    pub hooks: List,
    /// Why these are not all.
    pub problem: Option<String>,
}

impl Pending {
    /// Hooks are due after a launch that got as far as a process.
    fn of(dir: &ContainerDir, state: &ContainerState) -> Pending {
        let was_cloned = dir.process(INIT).was_cloned();
        let kept = dir.read_kept();
        let problem = kept.as_ref().err().map(|error| format!("poststop hooks: {error}"));
        let kept = kept.ok().filter(|_| was_cloned).unwrap_or_default();
        Pending { hooks: List::of(&kept, Point::Poststop, state, 0), problem }
    }
}
