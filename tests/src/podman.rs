//! A private instance of podman on the runtime under test.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::client::{self, Runtime};
use crate::command::{Cmd, Output};
use crate::sandbox::Sandbox;
use crate::world::World;

/// Podman with its own storage, state, locks and configuration, without network, events journal or systemd.
///
/// When it is dropped it removes all containers, and what podman itself leaves for ever.
#[derive(Debug)]
pub struct Podman<'a> {
    sandbox: &'a Sandbox,
    runtime: Runtime,
    rootfs: PathBuf,
}

impl<'a> Podman<'a> {
    /// On plain directories for storage, with a busybox root file system to run.
    ///
    /// # Panics
    /// When podman is not installed.
    #[must_use]
    pub fn new(sandbox: &'a Sandbox) -> Self {
        Self::with_storage(sandbox, "vfs")
    }

    /// On the storage driver `driver`, e.g. `overlay`.
    ///
    /// # Panics
    /// When podman is not installed.
    #[must_use]
    pub fn with_storage(sandbox: &'a Sandbox, driver: &str) -> Self {
        client::insist("podman", "podman");
        client::insist("conmon", "conmon");
        let home = sandbox.path("podman");
        fs::create_dir(&home).expect("a fresh directory");
        fs::write(home.join("containers.conf"), containers_conf(&home)).expect("our directory");
        fs::write(home.join("storage.conf"), storage_conf(&home, driver)).expect("our directory");
        fs::write(home.join("registries.conf"), "").expect("our directory");
        fs::write(home.join("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)
            .expect("our directory");
        let rootfs = client::rootfs(sandbox, "nest");
        Self { sandbox, runtime: Runtime::new(sandbox, Some(&sandbox.root())), rootfs }
    }

    /// `podman --runtime RUNTIME COMMAND`
    #[must_use]
    pub fn command(&self, command: &str) -> Cmd {
        self.verb(self.bare(), command)
    }

    /// Runs a command with its arguments.
    ///
    /// # Panics
    /// When podman does not end in time.
    pub fn run(&self, command: &str, arguments: &[&str]) -> Output {
        self.command(command).args(arguments).run()
    }

    /// Runs a command that reads `input`, and gives what it prints.
    ///
    /// # Panics
    /// When podman fails.
    #[must_use]
    #[track_caller]
    pub fn run_with_input(&self, command: &str, arguments: &[&str], input: &str) -> String {
        self.command(command).args(arguments).stdin(input).run().ok()
    }

    /// As [`Podman::container`] of `podman run`, with a directory of hooks.
    #[must_use]
    pub fn with_hooks(&self, hooks: &Path, options: &[&str], program: &[&str]) -> Cmd {
        let hooks = format!("--hooks-dir={}", hooks.display());
        self.launch(self.bare().arg(hooks), "run", options).arg("--rootfs").arg(&self.rootfs).args(program)
    }

    /// `podman run` or `podman create` with `options` on the busybox root file system, where `program` runs.
    #[must_use]
    pub fn container(&self, verb: &str, options: &[&str], program: &[&str]) -> Cmd {
        self.launch(self.bare(), verb, options).arg("--rootfs").arg(&self.rootfs).args(program)
    }

    /// As [`Podman::container`], on an image.
    #[must_use]
    pub fn container_of(&self, image: &str, options: &[&str], program: &[&str]) -> Cmd {
        self.launch(self.bare(), "run", options).arg(image).args(program)
    }

    /// Starts a container in the background; it is there when this returns.
    ///
    /// # Panics
    /// When podman fails.
    #[track_caller]
    pub fn up(&self, name: &str, options: &[&str], program: &[&str]) {
        self.container("run", &[&["--detach", "--name", name], options].concat(), program).run().ok();
    }

    /// Runs a shell script in a running container.
    ///
    /// # Panics
    /// When podman does not end in time.
    pub fn exec(&self, name: &str, script: &str) -> Output {
        self.run("exec", &[name, "sh", "-c", script])
    }

    /// What `podman inspect` says of a container in the words of a Go template, e.g. `{{.State.Status}}`.
    ///
    /// # Panics
    /// When podman fails.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.run("container", &["inspect", "--format", template, name]).ok().trim_end().to_owned()
    }

    /// The root file system that containers run on.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// How podman called the runtime.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A file of this instance's configuration.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.sandbox.path("podman").join(name)
    }

    fn launch(&self, podman: Cmd, verb: &str, options: &[&str]) -> Cmd {
        let parent = format!("--cgroup-parent=/{}", self.sandbox.token());
        let network =
            if options.iter().any(|option| option.starts_with("--network")) { None } else { Some("--network=none") };
        self.verb(podman, verb).args(network).arg(parent).args(options)
    }

    fn verb(&self, podman: Cmd, verb: &str) -> Cmd {
        podman.arg("--runtime").arg(self.runtime.path()).arg(verb)
    }

    fn bare(&self) -> Cmd {
        self.sandbox
            .command("podman")
            .env("CONTAINERS_CONF", self.file("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.file("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.file("registries.conf"))
            // Health checks are run by hand instead of by timers.
            .env("DISABLE_HC_SYSTEMD", "true")
            .env("TMPDIR", self.sandbox.path(""))
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.runtime.print_calls();
        }
        // A container that was killed may need a second word: the first one finds its clean-up under way.
        let removed = self.run("rm", &["--all", "--force", "--time=0"]);
        // The overlay driver mounts its own directory onto itself.
        for mount in World::of(self.sandbox.token()).mounts.iter().filter(|mount| mount.ends_with("/graph/overlay")) {
            let _ = unmount(mount.as_str(), UnmountFlags::DETACH);
        }
        client::remove_parent_cgroups(self.sandbox.token());
        assert!(removed.code() == 0 || failed, "{removed}");
    }
}

/// Everything in a directory of ours; what is below `graphroot` by default must stay there, because podman's own
/// clean-up process does not ask this file where it is. Without the limits on descriptors and processes podman would raise them, which
/// a container is not always allowed to.
fn containers_conf(home: &Path) -> String {
    let home = home.display();
    format!(
        r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=30000:30000"]
init_path = "/usr/bin/catatonit"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{home}/tmp"
volume_path = "{home}/volumes"

[network]
network_config_dir = "{home}/networks"
"#
    )
}

fn storage_conf(home: &Path, driver: &str) -> String {
    let home = home.display();
    format!("[storage]\ndriver = \"{driver}\"\nrunroot = \"{home}/runroot\"\ngraphroot = \"{home}/graph\"\n")
}
