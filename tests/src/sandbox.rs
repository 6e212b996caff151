//! The place of one test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process, set_child_subreaper};
use serde_json::Value;
use tempfile::TempDir;

use crate::binaries;
use crate::command::Cmd;
use crate::waiting;
use crate::world::{self, World};

/// The environment variable by which processes of a test are recognised.
const TOKEN_VARIABLE: &str = "BROOD_TEST_TOKEN";

/// How long what is on its way out may take after the test's last command: zygotes at the end of their socket, an
/// init that was killed.
const GRACE: Duration = Duration::from_secs(5);

/// A directory, a state root and a token that no other test has.
///
/// When a sandbox is dropped it takes away whatever of its test is still on the machine, and fails the test if there
/// was anything: every test checks for leaks.
#[derive(Debug)]
pub struct Sandbox {
    token: String,
    directory: TempDir,
}

impl Sandbox {
    /// A fresh place. The calling process becomes a subreaper: what its children leave behind comes to it.
    ///
    /// # Panics
    /// When the machine does not let us.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let token = format!("bt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        set_child_subreaper(Pid::from_raw(1)).expect("PR_SET_CHILD_SUBREAPER");
        // Traversable by everybody: what a container with mapped ids has as its rootfs lies below.
        let directory = tempfile::Builder::new()
            .prefix(&format!("brood-{token}."))
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a directory");
        Self { token, directory }
    }

    /// What names this test: part of every path, container name and environment of it.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A container name that is unique on the machine.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.token)
    }

    /// A path in the test's directory.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The state root (`--root`), not made yet.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The containers that the state root knows.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        world::containers(&self.root())
    }

    /// A record in a container's folder, e.g. `state.json` or `init/pid`.
    ///
    /// # Panics
    /// When it is missing or no JSON.
    #[must_use]
    #[track_caller]
    pub fn record(&self, id: &str, name: &str) -> Value {
        let path = self.root().join(id).join(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `brood --root ROOT`
    #[must_use]
    pub fn brood(&self) -> Cmd {
        self.command(binaries::brood()).arg("--root").arg(self.root())
    }

    /// `brood-oci --root ROOT`, or the same of the runtime that is tested in its place.
    #[must_use]
    pub fn oci(&self) -> Cmd {
        self.command(binaries::oci()).arg("--root").arg(self.root())
    }

    /// Any other program, marked as part of this test.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new(program).env(TOKEN_VARIABLE, &self.token)
    }

    /// Marks the command of a program that is not run to its end, as part of this test.
    pub fn mark<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env(TOKEN_VARIABLE, &self.token)
    }

    /// Checks that the test has left no mount, cgroup or process, once what is on its way out has gone.
    ///
    /// # Panics
    /// When something is left.
    pub fn assert_clean(&self) {
        let left = self.left_over();
        assert!(left.is_empty(), "left behind:\n{left}");
    }

    fn left_over(&self) -> World {
        let mut left = World::default();
        waiting::holds_within(GRACE, || {
            left = World::of(&self.token);
            left.is_empty()
        });
        left
    }

    fn remove(&self, left: &World) {
        for process in &left.processes {
            if let Some(pid) = Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for process in &left.processes {
            let _ = waiting::gone_within(process.pid, GRACE);
        }
        for mount in left.mounts.iter().rev() {
            let _ = unmount(mount.as_str(), UnmountFlags::DETACH);
        }
        for cgroup in left.cgroups.iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A failed test gets no grace: it has said what is wrong already.
        let left = if std::thread::panicking() { World::of(&self.token) } else { self.left_over() };
        self.remove(&left);
        assert!(left.is_empty() || std::thread::panicking(), "the test left behind:\n{left}");
    }
}
