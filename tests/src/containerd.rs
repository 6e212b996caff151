//! A private containerd on the runtime under test.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{self, Runtime};
use crate::command::{Cmd, Output};
use crate::sandbox::Sandbox;
use crate::{waiting, world};

/// A containerd with its own state, storage and sockets; the sandbox's token is its namespace.
///
/// When it is dropped it removes tasks and containers and ends containerd.
#[derive(Debug)]
pub struct Containerd<'a> {
    sandbox: &'a Sandbox,
    runtime: Runtime,
    rootfs: PathBuf,
    child: Child,
}

impl<'a> Containerd<'a> {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When containerd is not installed or does not answer.
    #[must_use]
    pub fn start(sandbox: &'a Sandbox) -> Self {
        client::insist("containerd", "containerd");
        let home = sandbox.path("containerd");
        fs::create_dir(&home).expect("a fresh directory");
        fs::write(home.join("config.toml"), config(&home)).expect("our directory");
        let log = fs::File::create(home.join("log")).expect("our directory");
        let child = sandbox
            .mark(&mut Command::new("containerd"))
            .arg("--config")
            .arg(home.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("containerd: {error}"));
        let rootfs = client::rootfs(sandbox, "nest");
        let mut containerd = Self { sandbox, runtime: Runtime::new(sandbox, None), rootfs, child };
        containerd.await_answer();
        containerd
    }

    /// `ctr COMMAND ...` of this instance.
    #[must_use]
    pub fn ctr(&self, command: &[&str]) -> Cmd {
        self.sandbox
            .command("ctr")
            .arg("--address")
            .arg(self.file("socket"))
            .args(["--namespace", self.sandbox.token()])
            .args(command)
    }

    /// Runs a `ctr` command.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn run(&self, command: &[&str]) -> Output {
        self.ctr(command).run()
    }

    /// `ctr run` with `options` of the busybox root file system, as container `id`, where `program` runs.
    #[must_use]
    pub fn container(&self, id: &str, options: &[&str], program: &[&str]) -> Cmd {
        self.launch(options).arg("--rootfs").arg(&self.rootfs).arg(id).args(program)
    }

    /// As [`Containerd::container`], on an image.
    #[must_use]
    pub fn container_of(&self, image: &str, id: &str, options: &[&str], program: &[&str]) -> Cmd {
        self.launch(options).arg(image).arg(id).args(program)
    }

    /// `ctr task exec` with `options` in a container: the process is called `exec`.
    #[must_use]
    pub fn exec(&self, id: &str, exec: &str, options: &[&str], program: &[&str]) -> Cmd {
        let place = self.file("fifo");
        let command = self.ctr(&["task", "exec", "--exec-id", exec, "--fifo-dir"]).arg(place);
        command.args(options).arg(id).args(program)
    }

    /// Starts a container in the background; it runs when this returns.
    ///
    /// # Panics
    /// When `ctr` fails.
    #[track_caller]
    pub fn up(&self, id: &str, program: &[&str]) {
        self.container(id, &["--detach"], program).run().ok();
    }

    /// The state of a task as `ctr task list` tells it (`RUNNING`, `PAUSED`, `STOPPED`); `None` without a task.
    ///
    /// # Panics
    /// When `ctr` fails.
    #[must_use]
    #[track_caller]
    pub fn state(&self, id: &str) -> Option<String> {
        let list = self.run(&["task", "list"]).ok();
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }

    /// The containers that the runtime knows of.
    #[must_use]
    pub fn known_to_runtime(&self) -> Vec<String> {
        // The shim asks for a state root per namespace.
        world::containers(&self.sandbox.root().join(self.sandbox.token()))
    }

    /// The root file system that containers run on.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    fn launch(&self, options: &[&str]) -> Cmd {
        self.ctr(&["run", "--runc-binary"])
            .arg(self.runtime.path())
            .arg("--runc-root")
            .arg(self.sandbox.root())
            .arg("--fifo-dir")
            .arg(self.file("fifo"))
            .args(options)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.sandbox.path("containerd").join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn await_answer(&mut self) {
        let socket = self.file("socket");
        waiting::until("containerd's socket", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("containerd ended ({status}):\n{}", self.log());
            }
            UnixStream::connect(&socket).ok()
        });
        self.run(&["version"]).ok();
    }

    fn remove_all(&self) {
        for id in self.run(&["task", "list", "--quiet"]).stdout.split_whitespace() {
            self.run(&["task", "delete", "--force", id]);
        }
        for id in self.run(&["container", "list", "--quiet"]).stdout.split_whitespace() {
            self.run(&["container", "delete", id]);
        }
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- containerd's log\n{}---", self.log());
            self.runtime.print_calls();
        }
        if let Ok(None) = self.child.try_wait() {
            self.remove_all();
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            waiting::holds_within(waiting::PATIENCE, || !matches!(self.child.try_wait(), Ok(None)));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        client::remove_parent_cgroups(self.sandbox.token());
    }
}

fn config(home: &Path) -> String {
    let home = home.display();
    format!(
        r#"version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
    "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{home}/socket"

[ttrpc]
address = "{home}/ttrpc"
"#
    )
}
