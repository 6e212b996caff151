//! The two ways in which a bundle is run to its end in the foreground: what holds for one must hold for the other.

use crate::binaries;
use crate::bundle::Bundle;
use crate::command::{Cmd, Output};
use crate::container::Container;
use crate::daemon::Daemon;
use crate::sandbox::Sandbox;

/// A command that runs bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// `brood run`, without a daemon.
    Brood,
    /// `brood-oci run`, or the runtime that is tested in its place.
    Oci,
}

impl Face {
    /// Those to be tested: both, or the one that `BROOD_FACE` names (`brood`, `oci`), or only the foreign runtime
    /// when there is one.
    ///
    /// # Panics
    /// When `BROOD_FACE` names neither.
    #[must_use]
    pub fn all() -> &'static [Self] {
        match std::env::var("BROOD_FACE").as_deref() {
            _ if binaries::oracle() => &[Self::Oci],
            Err(_) => &[Self::Brood, Self::Oci],
            Ok("brood") => &[Self::Brood],
            Ok("oci") => &[Self::Oci],
            Ok(other) => panic!("BROOD_FACE is `{other}`, neither `brood` nor `oci`"),
        }
    }

    /// The command that runs whatever lies in `bundle`'s directory.
    #[must_use]
    pub fn command(self, sandbox: &Sandbox, bundle: &Bundle, id: &str) -> Cmd {
        match self {
            Self::Brood => sandbox.brood().args(["run", "--rm", "--name", id, "--bundle"]).arg(bundle.path()),
            Self::Oci => sandbox.oci().args(["run", "--bundle"]).arg(bundle.path()).arg(id),
        }
    }

    /// Writes config.json and runs the bundle.
    #[must_use]
    pub fn run(self, sandbox: &Sandbox, bundle: &Bundle) -> Output {
        bundle.write();
        self.command(sandbox, bundle, &sandbox.id("box")).run()
    }
}

/// Runs a script in a fresh busybox bundle through every face, and lets `check` look at what it printed.
///
/// # Panics
/// When a run fails, says anything on standard error, or leaves something behind.
#[track_caller]
pub fn in_bundle(edit: impl Fn(&mut Bundle), script: &str, check: impl Fn(&str)) {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh(script);
        edit(&mut bundle);
        let output = face.run(&sandbox, &bundle).expect(0);
        assert!(output.stderr.is_empty(), "{face:?}: expected no word on stderr of {output}");
        eprintln!("{face:?}: {output}");
        check(&output.stdout);
        assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?} left state behind");
    }
}

/// `exec` of one face, on a container that runs: options, then the command.
pub type Exec<'a> = &'a dyn Fn(&[&str], &[&str]) -> Cmd;

/// Starts a container that lives on, through `brood-oci` and through a daemon, and lets `check` run execs in it.
///
/// # Panics
/// When it cannot be started or removed.
#[track_caller]
pub fn in_running(edit: impl Fn(&mut Bundle), check: impl Fn(Face, &Bundle, Exec<'_>)) {
    let lively = |bundle: &mut Bundle| {
        bundle.live_until_term(0);
        edit(bundle);
    };
    for &face in Face::all() {
        match face {
            Face::Oci => {
                let container = Container::new(lively).up();
                let exec = |options: &[&str], command: &[&str]| {
                    container.oci(&["exec"]).args(options).arg(&container.id).args(command)
                };
                check(face, &container.bundle, &exec);
                container.call(&["delete", "--force"]).ok();
            }
            Face::Brood => {
                let sandbox = Sandbox::new();
                let daemon = Daemon::start(&sandbox, &[]);
                let mut bundle = Bundle::busybox(&sandbox, "bundle");
                lively(&mut bundle);
                bundle.write();
                let id = sandbox.id("box");
                daemon.brood().args(["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
                bundle.await_up();
                let exec = |options: &[&str], command: &[&str]| {
                    daemon.brood().arg("exec").args(options).arg(&id).args(command)
                };
                check(face, &bundle, &exec);
                daemon.brood().args(["rm", "--force", &id]).run().ok();
            }
        }
    }
}
