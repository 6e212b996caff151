//! An OCI bundle in a test's directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::Cmd;
use crate::config;
use crate::sandbox::Sandbox;
use crate::waiting;

const BUSYBOX: &str = "/bin/busybox";

/// A directory with a rootfs and a config.json.
#[derive(Debug)]
pub struct Bundle {
    directory: PathBuf,
    /// What [`Bundle::write`] puts into config.json.
    pub config: Value,
}

impl Bundle {
    /// A bundle whose rootfs is busybox with all its applets, and whose config is [`config::plain`].
    ///
    /// # Panics
    /// When `/bin/busybox` is missing (Debian: busybox-static) or the directory exists.
    #[must_use]
    pub fn busybox(sandbox: &Sandbox, name: &str) -> Self {
        let bundle = Self::empty(sandbox, name);
        let bin = bundle.rootfs().join("bin");
        let busybox = bin.join("busybox");
        // A copy of our own: what a container does to it must not reach the host's.
        fs::copy(BUSYBOX, &busybox).unwrap_or_else(|e| panic!("{BUSYBOX}: {e}; install busybox-static"));
        for applet in Cmd::new(BUSYBOX).arg("--list").run().ok().lines().filter(|name| *name != "busybox") {
            fs::hard_link(&busybox, bin.join(applet)).expect("a fresh directory");
        }
        bundle
    }

    /// A bundle whose rootfs holds the usual empty directories and an `/etc/passwd`, nothing to run.
    ///
    /// # Panics
    /// When the directory exists.
    #[must_use]
    pub fn empty(sandbox: &Sandbox, name: &str) -> Self {
        let directory = sandbox.path(name);
        let rootfs = directory.join("rootfs");
        for part in ["bin", "dev", "etc", "proc", "sys", "tmp", "var", "root"] {
            fs::create_dir_all(rootfs.join(part)).expect("a fresh directory");
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("our directory");
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("a fresh directory");
        fs::write(rootfs.join("etc/group"), "root:x:0:\n").expect("a fresh directory");
        Self { directory, config: config::plain() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Its root file system.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// Its config.json.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("config.json")
    }

    /// Sets the program and its arguments.
    pub fn args(&mut self, args: &[&str]) {
        self.config["process"]["args"] = json!(args);
    }

    /// Lets a shell run the script.
    pub fn sh(&mut self, script: &str) {
        self.args(&["sh", "-c", script]);
    }

    /// Lets the program live until SIGTERM, to which it answers with the exit status `code`.
    pub fn live_until_term(&mut self, code: i32) {
        self.sh(&format!("trap 'exit {code}' TERM; touch /tmp/up; sleep 1000 & wait"));
    }

    /// Waits until the program of [`Bundle::live_until_term`] is ready for the signal.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn await_up(&self) {
        let mark = self.rootfs().join("tmp/up");
        waiting::until("the program in the container", || mark.exists().then_some(()));
    }

    /// Writes config.json.
    ///
    /// # Panics
    /// When the bundle has been taken away.
    pub fn write(&self) {
        let text = serde_json::to_string_pretty(&self.config).expect("a value is always JSON");
        self.write_raw(text.as_bytes());
    }

    /// Writes anything in the place of config.json.
    ///
    /// # Panics
    /// When the bundle has been taken away.
    pub fn write_raw(&self, bytes: &[u8]) {
        fs::write(self.config_path(), bytes).expect("a bundle that is there");
    }
}
