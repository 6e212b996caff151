//! A private instance of buildah on the runtime under test.

use std::fs;
use std::path::PathBuf;

use crate::client::{self, Runtime};
use crate::command::{Cmd, Output};
use crate::sandbox::Sandbox;

/// Buildah with its own storage and configuration, and one working container made from a busybox root file system.
///
/// When it is dropped it removes the working container.
#[derive(Debug)]
pub struct Buildah<'a> {
    sandbox: &'a Sandbox,
    runtime: Runtime,
    container: String,
}

impl<'a> Buildah<'a> {
    /// Makes the working container.
    ///
    /// # Panics
    /// When buildah is not installed or fails.
    #[must_use]
    pub fn new(sandbox: &'a Sandbox) -> Self {
        client::insist("buildah", "buildah");
        fs::create_dir_all(home(sandbox)).expect("a fresh directory");
        let place = home(sandbox).display().to_string();
        let storage =
            format!("[storage]\ndriver = \"vfs\"\nrunroot = \"{place}/runroot\"\ngraphroot = \"{place}/graph\"\n");
        fs::write(home(sandbox).join("storage.conf"), storage).expect("our directory");
        fs::write(home(sandbox).join("registries.conf"), "").expect("our directory");
        let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=30000:30000\"]\n";
        fs::write(home(sandbox).join("containers.conf"), limits).expect("our directory");
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(home(sandbox).join("policy.json"), policy).expect("our directory");
        let container = bare(sandbox).args(["from", "scratch"]).run().ok().trim_end().to_owned();
        let buildah = Self { sandbox, runtime: Runtime::new(sandbox, Some(&sandbox.root())), container };
        let rootfs = client::rootfs(sandbox, "nest");
        buildah.command("add").args(["--quiet", &buildah.container]).arg(rootfs).arg("/").run().ok();
        buildah
    }

    /// `buildah COMMAND`
    #[must_use]
    pub fn command(&self, command: &str) -> Cmd {
        bare(self.sandbox).arg(command)
    }

    /// `buildah run` with `options`, of a shell script in the working container.
    #[must_use]
    pub fn script(&self, options: &[&str], script: &str) -> Cmd {
        self.command("run")
            .args(["--isolation=oci", "--network=none", "--runtime"])
            .arg(self.runtime.path())
            .args(options)
            .args(["--", &self.container, "sh", "-c", script])
    }

    /// Runs a shell script in the working container.
    ///
    /// # Panics
    /// When buildah does not end in time.
    pub fn run(&self, options: &[&str], script: &str) -> Output {
        self.script(options, script).run()
    }

    /// The working container's name.
    #[must_use]
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The runtime as buildah calls it.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The policy that `--signature-policy` takes: everything is welcome.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        home(self.sandbox).join("policy.json")
    }
}

impl Drop for Buildah<'_> {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.runtime.print_calls();
        }
        let removed = self.command("rm").arg("--all").run();
        assert!(removed.code() == 0 || failed, "{removed}");
    }
}

fn home(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("buildah")
}

fn bare(sandbox: &Sandbox) -> Cmd {
    let file = |name: &str| home(sandbox).join(name);
    sandbox
        .command("buildah")
        .env("CONTAINERS_CONF", file("containers.conf"))
        .env("CONTAINERS_STORAGE_CONF", file("storage.conf"))
        .env("CONTAINERS_REGISTRIES_CONF", file("registries.conf"))
        .env("TMPDIR", sandbox.path(""))
}
