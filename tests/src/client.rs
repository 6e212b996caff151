//! What the foreign clients of an OCI runtime have in common.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::binaries;
use crate::bundle::Bundle;
use crate::sandbox::Sandbox;
use crate::waiting::{self, PATIENCE};

/// The runtime under test as a client is to call it: a script that writes down how it was called.
#[derive(Debug)]
pub struct Runtime {
    script: PathBuf,
    calls: PathBuf,
}

impl Runtime {
    /// Writes the script. With `root` the runtime keeps its state there; some clients name a place of their own.
    ///
    /// # Panics
    /// When the sandbox has one already.
    #[must_use]
    pub fn new(sandbox: &Sandbox, root: Option<&Path>) -> Self {
        let (script, calls) = (sandbox.path("runtime"), sandbox.path("calls"));
        let root = root.map_or_else(String::new, |root| format!("--root '{}'", root.display()));
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$*\" >> '{}'\nexec '{}' {root} \"$@\"\n",
            calls.display(),
            on_path(&binaries::oci()).display()
        );
        assert!(!script.exists(), "one client for one sandbox");
        fs::write(&script, text).expect("our directory");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our file");
        Self { script, calls }
    }

    /// The script.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.script
    }

    /// How the client called it so far, one line a call.
    #[must_use]
    pub fn calls(&self) -> String {
        fs::read_to_string(&self.calls).unwrap_or_default()
    }

    /// For a test that failed.
    pub fn print_calls(&self) {
        eprintln!("--- calls of the runtime\n{}---", self.calls());
    }
}

/// Insists on a program.
///
/// # Panics
/// When it is not installed.
pub fn insist(program: &str, package: &str) {
    assert!(find(Path::new(program)).is_some(), "{program} is missing: apt-get install {package}");
}

/// A busybox root file system at `sandbox/name/rootfs`, as clients take one: empty mount points, an `nobody` besides
/// root.
///
/// # Panics
/// When there is one already.
#[must_use]
pub fn rootfs(sandbox: &Sandbox, name: &str) -> PathBuf {
    let rootfs = Bundle::busybox(sandbox, name).rootfs();
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    fs::write(rootfs.join("etc/passwd"), passwd).expect("our directory");
    fs::write(rootfs.join("etc/group"), "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n").expect("our directory");
    fs::create_dir(rootfs.join("run")).expect("our directory");
    rootfs
}

/// Removes the cgroups that clients make above those of containers and leave for ever: `TOKEN` in every hierarchy, and
/// what they keep their own processes in. A container's cgroup in there stays for the leak check to find.
pub fn remove_parent_cgroups(token: &str) {
    let parents: Vec<PathBuf> = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .filter_map(|hierarchy| Some(hierarchy.ok()?.path().join(token)))
        .chain([Path::new("/sys/fs/cgroup").join(token)])
        .filter(|parent| parent.is_dir())
        .collect();
    // A monitor may be on its way out; until then its cgroup is busy.
    waiting::holds_within(PATIENCE, || parents.iter().map(|parent| monitor_has_left(parent)).fold(true, |a, b| a & b));
    for parent in parents {
        let _ = fs::remove_dir(parent);
    }
}

/// Removes podman's cgroup for its monitors; false while one is in there.
fn monitor_has_left(parent: &Path) -> bool {
    let monitors = parent.join("conmon");
    // Where a directory stands in for a hierarchy that is not mounted, podman has written a plain file.
    let _ = fs::remove_file(monitors.join("tasks"));
    fs::remove_dir(&monitors).is_ok() || !monitors.exists()
}

fn on_path(program: &Path) -> PathBuf {
    find(program).unwrap_or_else(|| panic!("{} is missing", program.display()))
}

fn find(program: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Joining an absolute path gives that path.
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
