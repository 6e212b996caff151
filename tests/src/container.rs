//! One container of the OCI runtime under test.

use serde_json::Value;

use crate::bundle::Bundle;
use crate::command::{Cmd, Output};
use crate::sandbox::Sandbox;
use crate::waiting;

/// One container and where it lives.
#[derive(Debug)]
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Its bundle.
    pub bundle: Bundle,
    /// The place of the test. Before it goes, the container must have been deleted.
    pub sandbox: Sandbox,
}

impl Container {
    /// A bundle on busybox, not created yet.
    #[must_use]
    pub fn new(edit: impl Fn(&mut Bundle)) -> Self {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        edit(&mut bundle);
        bundle.write();
        Self { id: sandbox.id("box"), bundle, sandbox }
    }

    /// One that lives until it gets SIGTERM.
    #[must_use]
    pub fn long_lived() -> Self {
        Self::new(|bundle| bundle.live_until_term(7))
    }

    /// `brood-oci --root ROOT ARGS...`
    #[must_use]
    pub fn oci(&self, args: &[&str]) -> Cmd {
        self.sandbox.oci().args(args)
    }

    /// `COMMAND ARGS... ID`, run to its end.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        self.oci(args).arg(&self.id).run()
    }

    /// `create`
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn create(&self) {
        self.oci(&["create", "--bundle"]).arg(self.bundle.path()).arg(&self.id).run().ok();
    }

    /// Creates and starts it and waits until its program runs ([`Bundle::live_until_term`]).
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    #[track_caller]
    pub fn up(self) -> Self {
        self.create();
        self.call(&["start"]).ok();
        self.bundle.await_up();
        self
    }

    /// What `state` prints.
    ///
    /// # Panics
    /// When it is no JSON.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state"]).ok()).expect("`state` prints JSON")
    }

    /// The status in it.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    /// The pid of the init process in it, 0 when that is gone.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().expect("a pid")).expect("a pid is small")
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn end(&self) {
        let pid = self.pid();
        self.oci(&["kill", &self.id, "KILL"]).run().ok();
        waiting::gone(pid);
    }
}
