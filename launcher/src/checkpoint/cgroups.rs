//! What CRIU is told of a container's cgroups.

use std::path::PathBuf;

use super::rpc::CgroupRoot;
use super::{CheckpointError, Result};
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
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

/// `ID:CONTROLLERS:PATH` (cgroups(7)).
fn parse(line: &str) -> Option<CgroupRoot> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    Some(CgroupRoot { controller: Some(controllers.to_owned()), path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_has_its_root() {
        let root = |controller: &str, path: &str| CgroupRoot {
            controller: Some(controller.to_owned()),
            path: path.to_owned(),
        };
        assert_eq!(parse("0::/a:b/c"), Some(root("", "/a:b/c")));
        assert_eq!(parse("4:cpu,cpuacct:/x"), Some(root("cpu,cpuacct", "/x")));
        assert_eq!(parse("nonsense"), None);
    }
}
