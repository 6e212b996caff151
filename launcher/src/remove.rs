//! The end of a container: what its launch made goes, and the `poststop` hooks run.

use std::time::Duration;

use crate::cgroup::CgroupError;
use crate::hooks::{self, Point};
use crate::state::{ContainerDir, ContainerState, INIT, StateError};

/// Why a container could not be removed; what is left is found by the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
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
    let was_cloned = dir.process(INIT).was_cloned();
    let kept = dir.read_kept();
    state.cgroups.kill_and_remove(patience)?;
    dir.remove()?;
    Ok(match kept {
        Ok(kept) if was_cloned => {
            hooks::run(&kept, Point::Poststop, state, 0).err().iter().map(ToString::to_string).collect()
        }
        Ok(_) => Vec::new(),
        Err(error) => vec![format!("poststop hooks: {error}")],
    })
}
