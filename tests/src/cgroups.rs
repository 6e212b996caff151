//! The cgroups of a container, as the kernel tells of them.

use std::fs;
use std::path::PathBuf;

use crate::command::Cmd;
use crate::sandbox::Sandbox;
use crate::{binaries, guest};

/// How the host's cgroup hierarchies are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One of cgroup v1 for each controller.
    V1,
    /// The same, and one of cgroup v2 without controllers.
    Hybrid,
    /// One of cgroup v2.
    V2,
}

impl Layout {
    /// `brood-oci --root ROOT`, on a host of this layout: where it is not the machine's own, in a mount namespace.
    ///
    /// # Panics
    /// When the machine has not what the layout takes.
    #[must_use]
    #[track_caller]
    pub fn oci(self, sandbox: &Sandbox) -> Cmd {
        match self {
            Layout::Hybrid => sandbox.oci(),
            Layout::V2 => {
                guest::insist();
                sandbox.oci()
            }
            Layout::V1 => {
                let script = "umount /sys/fs/cgroup/unified && exec \"$@\"";
                let wrapper = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"];
                let unshare = sandbox.command("unshare").args(wrapper).arg(binaries::oci());
                unshare.arg("--root").arg(sandbox.root())
            }
        }
    }

    /// Whether limits are cgroup v2's.
    #[must_use]
    pub fn is_v2(self) -> bool {
        self == Layout::V2
    }
}

/// Whether the machine has cgroup v2 and nothing else.
#[must_use]
pub fn is_v2_only() -> bool {
    PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where the machine's hierarchies of cgroup v1 are mounted, and what they have: controllers, or a name.
#[must_use]
pub fn v1_hierarchies() -> Vec<(PathBuf, String)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let all = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let options = after.strip_prefix("cgroup ")?.split(' ').nth(1)?;
        let general = |option: &&str| !["rw", "ro", "xattr", "seclabel"].contains(option);
        let mut options: Vec<&str> = options.split(',').filter(general).collect();
        if options.first().is_some_and(|option| option.starts_with("name=")) {
            options.insert(0, "none");
        }
        Some((PathBuf::from(before.split(' ').nth(4)?), options.join(",")))
    });
    all.collect()
}

/// The directory of a process in the hierarchy of a controller (`memory`); on cgroup v2 alone, and for `unified`, in that.
///
/// # Panics
/// When the process is gone.
#[must_use]
#[track_caller]
pub fn directory(pid: i32, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process is there");
    let v1 = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|known| known == controller).then_some(path)
    });
    let unified = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let base = PathBuf::from("/sys/fs/cgroup");
    let (mount, path) = match v1 {
        Some(path) => (base.join(controller), path),
        None if is_v2_only() => (base, unified),
        None => (base.join("unified"), unified),
    };
    mount.join(path.trim_start_matches('/'))
}

/// A file of that directory, without its last line end.
///
/// # Panics
/// When there is none.
#[must_use]
#[track_caller]
pub fn value(pid: i32, controller: &str, file: &str) -> String {
    let path = directory(pid, controller).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim_end().to_owned()
}
