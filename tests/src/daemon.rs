//! A `brood daemon` that lives as long as its guard.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::binaries;
use crate::command::Cmd;
use crate::procfs::{self, Process};
use crate::sandbox::Sandbox;
use crate::waiting;

/// How long the daemon may take to go after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(10);

/// Both reactors; tests that depend on the loop run on each.
pub const REACTORS: [&str; 2] = ["io_uring", "epoll"];

/// A running daemon. Dropping it sends SIGTERM, then kills whatever of its family, containers included, is left.
#[derive(Debug)]
pub struct Daemon<'a> {
    sandbox: &'a Sandbox,
    child: Child,
    log: PathBuf,
}

impl<'a> Daemon<'a> {
    /// Starts `brood --root ROOT daemon ARGS...` and waits until it answers.
    ///
    /// # Panics
    /// When it ends or does not answer in time; its log is shown.
    #[must_use]
    pub fn start(sandbox: &'a Sandbox, args: &[&str]) -> Self {
        Self::start_through(sandbox, &[], args)
    }

    /// The same with `reactor` as its event loop.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    #[must_use]
    pub fn with_reactor(sandbox: &'a Sandbox, reactor: &str) -> Self {
        Self::start(sandbox, &["--reactor", reactor])
    }

    /// The same by way of another program that ends in exec, e.g. `unshare -m`.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    #[must_use]
    pub fn start_through(sandbox: &'a Sandbox, wrapper: &[&str], args: &[&str]) -> Self {
        let log = sandbox.path("daemon.log");
        let output = File::create(&log).expect("our directory");
        let brood = binaries::brood();
        let mut words = wrapper.iter().map(AsRef::as_ref).chain([brood.as_os_str()]);
        let child = Command::new(words.next().expect("at least brood"))
            .args(words)
            .arg("--root")
            .arg(sandbox.root())
            .arg("daemon")
            .args(args)
            .env_remove("BROOD_HOST")
            .env_remove("BROOD_ROOT")
            .env("BROOD_TEST_TOKEN", sandbox.token())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("an open file"))
            .stderr(output)
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Self { sandbox, child, log };
        daemon.await_answer();
        daemon
    }

    /// `brood --host unix://SOCKET --root ROOT`: unlike a plain `brood`, it fails when the daemon is gone instead of
    /// doing the work itself.
    #[must_use]
    pub fn brood(&self) -> Cmd {
        let host = format!("unix://{}", self.socket().display());
        self.sandbox.brood().arg("--host").arg(host)
    }

    /// The RPC socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.sandbox.root().join("brood.sock")
    }

    /// The process that was started.
    #[must_use]
    pub fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_nonzero().get()
    }

    /// The daemon and all that descend from it.
    #[must_use]
    pub fn family(&self) -> Vec<Process> {
        procfs::family(self.pid())
    }

    /// Those of the family whose command line starts with `brood: NAME`.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Process> {
        let title = format!("brood: {name}");
        self.family().into_iter().filter(|process| process.cmdline.starts_with(&title)).collect()
    }

    /// The one supervisor.
    ///
    /// # Panics
    /// When there is none, or more than one, for long.
    #[must_use]
    pub fn supervisor(&self) -> Process {
        waiting::until("one supervisor", || match self.named("supervisor").as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        })
    }

    /// What the daemon logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM, and wait for the end. Containers stay until the guard is dropped.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        let ended = waiting::holds_within(FAREWELL, || !matches!(self.child.try_wait(), Ok(None)));
        assert!(ended || std::thread::panicking(), "the daemon ignores SIGTERM:\n{}", self.log());
    }

    fn await_answer(&mut self) {
        let socket = self.socket();
        waiting::until("the daemon's socket", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the daemon ended ({status}):\n{}", self.log());
            }
            UnixStream::connect(&socket).ok()
        });
        let version = self.brood().arg("version").run();
        assert_eq!(version.code(), 0, "{version}\nthe daemon's log:\n{}", self.log());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Seen before it goes: afterwards nothing tells that its containers were its.
        let family = self.family();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
        // What a test leaves in the daemon is the guard's to remove: a stopped container still has a cgroup.
        if let (Ok(None), true) = (self.child.try_wait(), self.socket().exists()) {
            let ids = self.brood().args(["list", "--quiet"]).run().stdout;
            if !ids.trim().is_empty() {
                let removed = self.brood().args(["rm", "--force"]).args(ids.split_whitespace()).run();
                assert!(removed.code() == 0 || std::thread::panicking(), "{removed}");
            }
        }
        self.stop();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in family {
            // A number may have been given to somebody else meanwhile; a family member keeps its command line.
            let same = procfs::process(process.pid).is_some_and(|now| now.cmdline == process.cmdline);
            if let (true, Some(pid)) = (same, Pid::from_raw(process.pid)) {
                let _ = kill_process(pid, Signal::KILL);
                let _ = waiting::gone_within(process.pid, FAREWELL);
            }
        }
    }
}
