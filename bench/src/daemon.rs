//! A `brood daemon` of our own: started in a directory of its own, and gone with this value, containers and all.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::contenders::wait_for_exit;
use crate::{interrupt, processes};

/// A daemon that takes longer to listen will not.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const START_CHECK: Duration = Duration::from_millis(2);

/// The daemon.
pub struct Daemon {
    /// The keeper: what was `brood daemon` has become it.
    keeper: Option<Child>,
    root: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon; `root` must not exist. Returns when clients can connect.
    pub fn start(program: &Path, root: PathBuf) -> Result<Self> {
        let log = root.with_extension("log");
        let stderr = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = command(program);
        // Whatever goes wrong with the run, no container outlives its daemon.
        command.arg("--root").arg(&root).args(["daemon", "--kill-on-exit"]);
        // A process group of its own: ctrl-C at the terminal is for us, who then end the daemon in good order.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).process_group(0);
        let keeper = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut daemon = Self { keeper: Some(keeper), root, log };
        daemon.wait_for_socket()?;
        Ok(daemon)
    }

    /// Its RPC socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("brood.sock")
    }

    /// Where it keeps the state of its containers, a directory each.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The process at the root of all that belongs to it.
    pub fn keeper(&self) -> Result<Pid> {
        let keeper = self.keeper.as_ref().context("the daemon was stopped")?;
        i32::try_from(keeper.id()).ok().and_then(Pid::from_raw).context("a child has a positive pid")
    }

    /// Ends it as a service manager would, and says what it complained about.
    pub fn stop(&mut self) -> Result<()> {
        let Ok(pid) = self.keeper() else { return Ok(()) };
        let ended = kill_process(pid, Signal::TERM).context("SIGTERM").and_then(|()| {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
            wait_for_exit(pidfd.as_fd(), Instant::now())
        });
        if ended.is_err() {
            // Not in good order, then. Children last: the keeper must not start another supervisor.
            for process in processes::tree(pid)? {
                let _ = kill_process(process, Signal::KILL);
            }
        }
        let mut keeper = self.keeper.take().context("the daemon was stopped")?;
        let status = keeper.wait().context("cannot wait for the daemon")?;
        let complaints = self.complaints();
        if let Some(first) = complaints.first() {
            eprintln!("brood-bench: the daemon logged {} warnings or errors, the first: {first}", complaints.len());
        }
        ended.context("the daemon did not stop")?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }

    fn complaints(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let grave = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ") || line.starts_with("brood:");
        log.lines().filter(grave).map(str::to_owned).collect()
    }

    fn wait_for_socket(&mut self) -> Result<()> {
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let ended = self.keeper.as_mut().and_then(|keeper| keeper.try_wait().transpose()).transpose()?;
            if let Some(status) = ended {
                self.keeper = None;
                bail!("the daemon ended with {status}: {}", self.complaints().join("; "));
            }
            ensure!(started.elapsed() < START_LIMIT, "the daemon does not listen at {}", self.socket().display());
            ensure!(!interrupt::requested(), "interrupted");
            std::thread::sleep(START_CHECK);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("brood-bench: {error:#}");
        }
    }
}

/// A brood command that no setting of the user's environment sends elsewhere.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("BROOD_HOST").env_remove("BROOD_ROOT");
    command
}
