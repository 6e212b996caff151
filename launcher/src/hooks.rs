//! Hooks that the runtime itself runs: `prestart`, `createRuntime`, `poststart`, `poststop` (runtime-spec, config,
//! "POSIX-platform Hooks"). Those of the container's namespaces are steps of the child ([`crate::plan::Step::Hook`]).

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags};

use crate::plan::StateText;
use crate::state::{ContainerState, Kept, Status};

/// Most of a hook's output that a message shows.
const OUTPUT_BYTES_MAX: usize = 4096;

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

/// Runs the hooks of one point: to the first failure, except after the end, where each gets its turn and the first
/// failure is returned.
///
/// # Errors
/// A hook failed.
pub fn run(kept: &Kept, point: Point, container: &ContainerState, pid: i32) -> Result<(), HookError> {
    let (hooks, status) = match point {
        Point::CreateRuntime => (&kept.create_runtime, Status::Creating),
        Point::Poststart => (&kept.poststart, Status::Running),
        Point::Poststop => (&kept.poststop, Status::Stopped),
    };
    if hooks.is_empty() {
        return Ok(());
    }
    let state = StateText::of(container, status).with_pid(pid);
    let mut first = Ok(());
    for (position, hook) in hooks.iter().enumerate() {
        let (kind, index) = match point {
            Point::CreateRuntime if position < kept.prestart => ("prestart", position),
            Point::CreateRuntime => ("createRuntime", position - kept.prestart),
            Point::Poststart => ("poststart", position),
            Point::Poststop => ("poststop", position),
        };
        let path = hook.path().display().to_string();
        let failed = run_one(hook, &state).map_err(|problem| HookError { kind, index, path, problem });
        match failed {
            Err(error) if point != Point::Poststop => return Err(error),
            failed => first = first.and(failed),
        }
    }
    first
}

/// Standard input is a file in memory: nobody waits for anybody, however large the state is and whether or not it is read.
fn run_one(hook: &Hook, state: &[u8]) -> Result<(), String> {
    let errno = |errno: rustix::io::Errno| crate::report::errno_text(errno);
    let error = |error: std::io::Error| crate::state::io_text(&error);
    let memory = |name| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map(std::fs::File::from).map_err(errno);
    let (mut input, output) = (memory(c"brood-state")?, memory(c"brood-hook-stderr")?);
    input.write_all(state).and_then(|()| input.rewind()).map_err(error)?;
    let mut command = Command::new(hook.path());
    let mut args = hook.args().iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    if hook.env().is_some() {
        command.env_clear();
    }
    // Without an environment of its own it has ours, as with runc: its program may look for others along PATH.
    command.args(args).stdin(input).stdout(Stdio::null()).stderr(output.try_clone().map_err(error)?);
    for entry in hook.env().iter().flatten() {
        if let Some((key, value)) = entry.split_once('=') {
            command.env(key, value);
        }
    }
    crate::sys::only_standard_fds(&mut command);
    let mut child = command.spawn().map_err(error)?;
    let late = !ended_within(child.id(), hook.timeout()).map_err(errno)?;
    if late {
        // It is ours and not reaped yet, so the pid is its own.
        let _ = child.kill();
    }
    match child.wait().map_err(error)? {
        _ if late => Err(format!("killed after its timeout of {} s", hook.timeout().unwrap_or_default())),
        status if status.success() => Ok(()),
        status => Err(describe(status, output)),
    }
}

fn ended_within(pid: u32, seconds: Option<i64>) -> Result<bool, rustix::io::Errno> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(true) };
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let limit = seconds.filter(|seconds| *seconds > 0).map(|tv_sec| Timespec { tv_sec, tv_nsec: 0 });
    loop {
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|ready| ready > 0),
        }
    }
}

fn describe(status: ExitStatus, mut output: std::fs::File) -> String {
    let what = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    };
    let mut text = vec![0; OUTPUT_BYTES_MAX];
    let length = output.seek(SeekFrom::Start(0)).and_then(|_| std::io::Read::read(&mut output, &mut text));
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

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment_only() {
        let script = r#"test "$(cat)" = '{"x":1}' && test "$(env | grep -v '^_=\|^PWD=\|^SHLVL=')" = A=b"#;
        run_one(&hook(script, None), br#"{"x":1}"#).unwrap();
        // It is not read at all, and larger than any pipe.
        run_one(&hook("true", None), &vec![b' '; 1 << 20]).unwrap();
    }

    #[test]
    fn failures_say_what_happened() {
        let failure = |script, timeout| run_one(&hook(script, timeout), b"{}").unwrap_err();
        assert_eq!(failure("echo no >&2; exit 3", None), "exit status 3, stderr: no");
        assert_eq!(failure("kill -9 $$", None), "signal 9, stderr: ");
        assert_eq!(failure("read x < /proc/self/fd/0; exec sleep 1000", Some(1)), "killed after its timeout of 1 s");
        let missing: Hook = serde_json::from_value(serde_json::json!({"path": "/no/such/hook"})).unwrap();
        assert_eq!(run_one(&missing, b"{}").unwrap_err(), "no such file or directory");
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
}
