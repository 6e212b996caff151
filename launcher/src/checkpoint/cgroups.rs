//! What CRIU is told of a container's cgroups.

use std::path::PathBuf;

use super::rpc::CgroupRoot;
use super::{CheckpointError, Result};
use crate::cgroup::membership::{self, Membership};
use crate::state::{ContainerState, io_text};

/// The cgroup that CRIU freezes, to look at processes that stand still.
pub(super) fn freezer(state: &ContainerState) -> Option<PathBuf> {
    let directory = state.cgroups.unified().or_else(|| state.cgroups.with("freezer"));
    directory.map(|directory| directory.path.to_path_buf())
}

/// Moves the process into the container's cgroups, so that CRIU finds it there and its children are born there.
pub(super) fn enter(state: &ContainerState, pid: i32) -> Result<()> {
    for directory in state.cgroups.directories() {
        let file = directory.path.join("cgroup.procs");
        let written = std::fs::write(&file, pid.to_string());
        written.map_err(|error| CheckpointError::path("cgroup", &file, io_text(&error)))?;
    }
    Ok(())
}

/// The cgroups of a process by hierarchy, in the place of those that the images name.
pub(super) fn roots(pid: i32) -> Vec<CgroupRoot> {
    let root = |Membership { controllers, path }: Membership<'_>| CgroupRoot {
        controller: Some(controllers.to_owned()),
        path: path.to_owned(),
    };
    membership::memberships(&membership::of(pid)).map(root).collect()
}
