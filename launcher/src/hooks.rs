//! Hooks that the runtime itself runs: `prestart`, `createRuntime`, `poststart`, `poststop` (runtime-spec, config,
//! "POSIX-platform Hooks"). Those of the container's namespaces are steps of the child ([`crate::plan::Step::Hook`]).
//!
//! [`run`] waits for each of them. Whoever has better to do takes the [`List`] apart and waits for the handle of what
//! [`Due::start`] gives.

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::plan::StateText;
use crate::report::errno_text;
use crate::state::{ContainerState, Kept, Status, io_text};

/// Most of a hook's output that a message shows.
pub const OUTPUT_BYTES_MAX: usize = 4096;

/// A hook that could not be run, or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error running {kind} hook #{index}: {path}: {problem}")]
pub struct HookError {
    /// Which list of config.json.
    pub kind: &'static str,
    /// Position in it.
    pub index: usize,
    /// The program.
    pub path: String,
    /// What became of it, with what it wrote to standard error.
    pub problem: String,
}

/// The four points in a container's life at which the runtime's own hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// `prestart`, then `createRuntime`: the namespaces are there, the root is not entered.
    CreateRuntime,
    /// The program runs.
    Poststart,
    /// The container is deleted.
    Poststop,
}

/// The hooks of one point, in their order: to the first failure, except after the end, where each gets its turn.
#[derive(Debug)]
pub struct List {
    point: Point,
    due: std::vec::IntoIter<Due>,
    first_failure: Option<HookError>,
}

impl List {
    /// The hooks of a container at this point; the pid is for the state that they read.
    #[must_use]
    pub fn of(kept: &Kept, point: Point, container: &ContainerState, pid: i32) -> List {
        let (hooks, status) = match point {
            Point::CreateRuntime => (&kept.create_runtime, Status::Creating),
            Point::Poststart => (&kept.poststart, Status::Running),
            Point::Poststop => (&kept.poststop, Status::Stopped),
        };
        if hooks.is_empty() {
            return List { point, due: Vec::new().into_iter(), first_failure: None };
        }
        let state: Arc<[u8]> = StateText::of(container, status).with_pid(pid).into();
        let due = |(position, hook): (usize, &Hook)| {
            let (kind, index) = match point {
                Point::CreateRuntime if position < kept.prestart => ("prestart", position),
                Point::CreateRuntime => ("createRuntime", position - kept.prestart),
                Point::Poststart => ("poststart", position),
                Point::Poststop => ("poststop", position),
            };
            Due { kind, index, hook: hook.clone(), state: state.clone(), directory: container.bundle.clone() }
        };
        let due: Vec<Due> = hooks.iter().enumerate().map(due).collect();
        List { point, due: due.into_iter(), first_failure: None }
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.as_slice().is_empty()
    }

    /// The next one to run; `None` when the list is through, or a failure has ended it.
    pub fn next_due(&mut self) -> Option<Due> {
        let over = self.first_failure.is_some() && self.point != Point::Poststop;
        if over { None } else { self.due.next() }
    }

    /// Takes down how one of them went.
    pub fn note(&mut self, result: Result<(), HookError>) {
        self.first_failure = self.first_failure.take().or(result.err());
    }

    /// Runs them, and waits for each.
    ///
    /// # Errors
    /// The first failure.
    pub fn run(mut self) -> Result<(), HookError> {
        while let Some(due) = self.next_due() {
            self.note(due.start().and_then(Running::wait));
        }
        self.outcome()
    }

    /// How it went with all of them.
    ///
    /// # Errors
    /// The first failure.
    pub fn outcome(self) -> Result<(), HookError> {
        self.first_failure.map_or(Ok(()), Err)
    }
}

/// Runs the hooks of one point and waits for them.
///
/// # Errors
/// A hook failed.
pub fn run(kept: &Kept, point: Point, container: &ContainerState, pid: i32) -> Result<(), HookError> {
    List::of(kept, point, container, pid).run()
}

/// A hook that is to be run.
#[derive(Debug)]
pub struct Due {
    kind: &'static str,
    index: usize,
    hook: Hook,
    state: Arc<[u8]>,
    /// The bundle, if there is one.
    directory: PathBuf,
}

impl Due {
    /// Starts it. Standard input is a file in memory: nobody waits for anybody, however large the state is and whether or
    /// not it is read.
    ///
    /// # Errors
    /// The program cannot be run, or no descriptor is left; there is no process then.
    pub fn start(self) -> Result<Running, HookError> {
        match self.begin() {
            Ok((process, pidfd, output)) => Ok(Running { process, pidfd, output, due: self }),
            Err(problem) => Err(self.failed(problem)),
        }
    }

    fn begin(&self) -> Result<(Process, OwnedFd, std::fs::File), String> {
        let errno = |errno: Errno| errno_text(errno);
        let error = |error: std::io::Error| io_text(&error);
        let memory = |name| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map(std::fs::File::from).map_err(errno);
        let (mut input, output) = (memory(c"brood-state")?, memory(c"brood-hook-stderr")?);
        input.write_all(&self.state).and_then(|()| input.rewind()).map_err(error)?;
        let mut command = self.command();
        command.stdin(input).stdout(Stdio::null()).stderr(output.try_clone().map_err(error)?);
        let process = Process(command.spawn().map_err(error)?);
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&process.0), PidfdFlags::empty()).map_err(errno)?;
        Ok((process, pidfd, output))
    }

    fn command(&self) -> Command {
        let hook = &self.hook;
        let mut command = Command::new(hook.path());
        let mut args = hook.args().iter().flatten();
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        if hook.env().is_some() {
            command.env_clear();
        }
        // Without an environment of its own it has ours, as with runc: its program may look for others along PATH.
        command.args(args);
        for entry in hook.env().iter().flatten() {
            if let Some((key, value)) = entry.split_once('=') {
                command.env(key, value);
            }
        }
        // As runc; but the bundle may be gone before the last hooks run.
        command.current_dir(if self.directory.is_dir() { &self.directory } else { Path::new("/") });
        crate::sys::only_standard_fds(&mut command);
        command
    }

    fn failed(&self, problem: String) -> HookError {
        HookError { kind: self.kind, index: self.index, path: self.hook.path().display().to_string(), problem }
    }
}

/// The process of a hook: killed and reaped, whatever happens to us.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It is ours, and if it is not reaped yet, the pid is its own; otherwise neither call does anything.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hook that runs. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Running {
    process: Process,
    pidfd: OwnedFd,
    /// What it writes to standard error.
    output: std::fs::File,
    due: Due,
}

impl AsFd for Running {
    /// Its pidfd: readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Running {
    /// How long it may take, if config.json says so.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        let seconds = self.due.hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
        seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// Takes down how it ended. One that has not ended has used up its time, and is killed.
    ///
    /// # Errors
    /// It failed, or was killed.
    pub fn finish(mut self) -> Result<(), HookError> {
        let ended = self.process.0.try_wait().map_err(|error| self.due.failed(io_text(&error)))?;
        match ended {
            None => {
                let limit = self.limit().unwrap_or_default();
                Err(self.due.failed(format!("killed after its timeout of {} s", limit.as_secs())))
            }
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.due.failed(describe(status, &mut self.output))),
        }
    }

    fn wait(self) -> Result<(), HookError> {
        let limit = self.limit().and_then(|limit| Timespec::try_from(limit).ok());
        loop {
            match rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], limit.as_ref()) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.due.failed(errno_text(errno))),
                Ok(_) => return self.finish(),
            }
        }
    }
}

fn describe(status: ExitStatus, output: &mut std::fs::File) -> String {
    let what = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    };
    let mut text = vec![0; OUTPUT_BYTES_MAX];
    let length = output.seek(SeekFrom::Start(0)).and_then(|_| std::io::Read::read(output, &mut text));
    text.truncate(length.unwrap_or_default());
    format!("{what}, stderr: {}", String::from_utf8_lossy(&text).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let mut hook = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"]});
        if let Some(timeout) = timeout {
            hook["timeout"] = timeout.into();
        }
        serde_json::from_value(hook).unwrap()
    }

    fn due(hook: Hook, state: &[u8]) -> Due {
        Due { kind: "poststart", index: 0, hook, state: state.into(), directory: PathBuf::new() }
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment_only() {
        let script = r#"test "$(cat)" = '{"x":1}' && test "$(env | grep -v '^_=\|^PWD=\|^SHLVL=')" = A=b"#;
        due(hook(script, None), br#"{"x":1}"#).start().and_then(Running::wait).unwrap();
        // It is not read at all, and larger than any pipe.
        due(hook("true", None), &vec![b' '; 1 << 20]).start().and_then(Running::wait).unwrap();
    }

    #[test]
    fn failures_say_what_happened() {
        let failure =
            |script, timeout| due(hook(script, timeout), b"{}").start().and_then(Running::wait).unwrap_err().problem;
        assert_eq!(failure("echo no >&2; exit 3", None), "exit status 3, stderr: no");
        assert_eq!(failure("kill -9 $$", None), "signal 9, stderr: ");
        assert_eq!(failure("read x < /proc/self/fd/0; exec sleep 1000", Some(1)), "killed after its timeout of 1 s");
        let missing: Hook = serde_json::from_value(serde_json::json!({"path": "/no/such/hook"})).unwrap();
        assert_eq!(due(missing, b"{}").start().unwrap_err().problem, "no such file or directory");
    }

    #[test]
    fn the_first_failure_ends_the_list_but_not_after_the_end() {
        let temp = tempfile::tempdir().unwrap();
        let touched = temp.path().join("touched");
        let list = vec![hook("exit 1", None), hook(&format!("touch {}", touched.display()), None)];
        let kept = Kept { create_runtime: list.clone(), prestart: 1, poststop: list, ..Kept::default() };
        let error = run(&kept, Point::CreateRuntime, &ContainerState::default(), 1).unwrap_err();
        assert_eq!(error.to_string(), "error running prestart hook #0: /bin/sh: exit status 1, stderr: ");
        assert!(!touched.exists());
        assert_eq!(run(&kept, Point::Poststop, &ContainerState::default(), 1).unwrap_err().kind, "poststop");
        assert!(touched.exists());
    }

    #[test]
    fn a_hook_that_is_given_up_is_killed_and_reaped() {
        let running = due(hook("exec sleep 1000", None), b"{}").start().unwrap();
        let pid = Pid::from_child(&running.process.0);
        drop(running);
        let children = rustix::process::waitid(
            rustix::process::WaitId::Pid(pid),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG,
        );
        assert_eq!(children.unwrap_err(), Errno::CHILD, "neither running nor a zombie");
    }

    #[test]
    fn a_hook_starts_in_the_bundle_or_at_the_root_when_that_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let run = |expected: &Path| {
            let script = format!("test \"$(pwd -P)\" = {}", expected.display());
            let due = Due { directory: temp.path().into(), ..due(hook(&script, None), b"{}") };
            due.start().and_then(Running::wait).unwrap();
        };
        run(&temp.path().canonicalize().unwrap());
        std::fs::remove_dir(temp.path()).unwrap();
        run(Path::new("/"));
    }
}
