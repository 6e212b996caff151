//! Brood as a program uses it: a running daemon and one RPC connection that stays open.

use std::fs::{self, File};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Contender;
use crate::bundle::{Bundle, PROBE_OUTPUT};
use crate::daemon::Daemon;
use crate::session::{self, Session};

/// As in the table.
pub const NAME: &str = "brood (RPC)";

/// A daemon and the connection to it.
pub struct RpcContender {
    program: PathBuf,
    bundle: Rc<Bundle>,
    // The connection goes before the daemon.
    session: Option<Session>,
    daemon: Option<Daemon>,
    launches: u64,
}

impl RpcContender {
    /// Not yet prepared.
    pub fn new(program: PathBuf, bundle: Rc<Bundle>) -> Self {
        Self { program, bundle, session: None, daemon: None, launches: 0 }
    }

    fn session(&self) -> Result<&Session> {
        self.session.as_ref().context("the contender is not prepared")
    }

    /// A real container says who it is.
    fn probe(&self) -> Result<()> {
        let path = self.bundle.scratch("output-brood-rpc")?.join("stdout");
        let output = File::options().append(true).create(true).open(&path)?;
        self.session()?.run_with_output("brood-bench-probe".to_owned(), self.bundle.probe_path(), &output)?;
        let said = fs::read_to_string(&path)?;
        ensure!(said.trim() == PROBE_OUTPUT, "the probe printed {said:?} instead of {PROBE_OUTPUT:?}");
        Ok(())
    }
}

impl Contender for RpcContender {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        self.session().and_then(Session::version).unwrap_or_else(|_| "unknown".to_owned())
    }

    fn notes(&self) -> Vec<String> {
        vec![format!(
            "{NAME}: timed from sending create (start, wait in the same round trip) to the answer to delete; the daemon \
             and one connection are there before"
        )]
    }

    fn prepare(&mut self) -> Result<()> {
        let root = self.bundle.scratch("state-brood-rpc")?.join("daemon");
        let daemon = self.daemon.insert(Daemon::start(&self.program, root)?);
        self.session = Some(Session::connect(&daemon.socket())?);
        self.probe()
    }

    fn launch_once(&mut self) -> Result<Duration> {
        self.launches += 1;
        let create = session::to_run(format!("brood-bench-{}", self.launches), self.bundle.path());
        let session = self.session()?;
        session.run(session::launch(session.client(), &create))
    }

    fn finish(&mut self) -> Result<()> {
        self.session = None;
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        daemon.stop()?;
        let left = fs::read_dir(daemon.root()).context("the daemon's root")?.flatten().map(|entry| entry.file_name());
        let left: Vec<String> = left.map(|name| name.to_string_lossy().into_owned()).collect();
        ensure!(left.iter().all(|name| !name.starts_with("brood-bench-")), "state left behind: {}", left.join(", "));
        Ok(())
    }
}
