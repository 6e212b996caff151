//! Running programs: with a deadline, with both outputs apart, to the end or step by step.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use crate::terminal::Terminal;
use crate::waiting::{PATIENCE, timespec};

/// A command to be run.
#[derive(Debug)]
pub struct Cmd {
    command: Command,
    stdin: Option<Vec<u8>>,
    patience: Duration,
}

impl Cmd {
    /// A program without arguments. It does not inherit what could lead it to a foreign daemon.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env_remove("BROOD_HOST").env_remove("BROOD_ROOT").process_group(0);
        Self { command, stdin: None, patience: PATIENCE }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What the program reads; without it, standard input is /dev/null.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long the program may take instead of [`PATIENCE`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When the program cannot be started or does not end in time.
    pub fn run(self) -> Output {
        self.start().finish()
    }

    /// Starts it; the caller follows.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start(mut self) -> Running {
        let input = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn();
        let stdout = Pipe::new(child.stdout.take().expect("piped").into());
        let stderr = Pipe::new(child.stderr.take().expect("piped").into());
        self.follow(child, stdout, stderr)
    }

    /// Starts it as the leader of a session on a terminal of its own, 24 rows by 80 columns: what it prints, on either
    /// output, comes as standard output, and the caller types on the [`Terminal`].
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn start_on_terminal(self) -> (Running, Terminal) {
        let (terminal, device) = Terminal::open();
        let what = describe(&self.command);
        // setsid(1) makes the terminal the controlling one, stays the parent and passes the exit status on.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.process_group(0).stdin(device.stdio()).stdout(device.stdio()).stderr(device.stdio());
        let mut on_terminal = Self { command, ..self };
        let child = on_terminal.spawn();
        let output = Pipe::new(terminal.reader());
        let mut running = on_terminal.follow(child, output, Pipe::closed());
        running.what = what;
        (running, terminal)
    }

    fn spawn(&mut self) -> Child {
        self.command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", describe(&self.command)))
    }

    fn follow(self, mut child: Child, stdout: Pipe, stderr: Pipe) -> Running {
        let what = describe(&self.command);
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child that nobody has reaped");
        let stdin = child.stdin.take().inspect(|pipe| nonblocking(pipe.as_fd()));
        let deadline = Instant::now() + self.patience;
        let pending = self.stdin.unwrap_or_default();
        Running { what, child, pidfd, stdin, pending, written: 0, stdout, stderr, deadline, ended: false }
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Output {
    what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// The exit status as a shell gives it: 128+N after death by signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|n| 128 + n)).unwrap_or(-1)
    }

    /// Insists on an exit status.
    ///
    /// # Panics
    /// When it is another, with all that the program said.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "exit status of {self}");
        self
    }

    /// Insists on success and gives standard output.
    ///
    /// # Panics
    /// When the program failed.
    #[track_caller]
    pub fn ok(self) -> String {
        self.expect(0).stdout
    }

    /// Insists on failure with one line on standard error, and gives that line.
    ///
    /// # Panics
    /// When it succeeded, or said nothing or more.
    #[track_caller]
    pub fn one_line_error(&self) -> &str {
        assert_ne!(self.code(), 0, "expected a failure of {self}");
        let line = self.stderr.trim_end_matches('\n');
        assert!(!line.is_empty() && !line.contains('\n'), "expected one line on stderr of {self}");
        line
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, status, stdout, stderr } = self;
        write!(f, "`{what}` ({status})\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

/// A program that runs. Dropped before its end, it and its process group are killed.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    pidfd: OwnedFd,
    stdin: Option<ChildStdin>,
    pending: Vec<u8>,
    written: usize,
    stdout: Pipe,
    stderr: Pipe,
    deadline: Instant,
    ended: bool,
}

impl Running {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_nonzero().get()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is no more.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the program runs");
    }

    /// Waits until standard output satisfies the test, and gives all of it so far.
    ///
    /// # Panics
    /// When the program ends or the deadline passes before that.
    #[track_caller]
    pub fn output_until(&mut self, mut enough: impl FnMut(&str) -> bool) -> String {
        loop {
            let so_far = self.stdout.text();
            if enough(&so_far) {
                return so_far;
            }
            assert!(!self.ended, "ended too early: `{}`\n{so_far}\n{}", self.what, self.stderr.text());
            self.pump();
        }
    }

    /// Waits for the end. Output that the program wrote itself is complete; what others hold its pipes for is not
    /// waited for.
    ///
    /// # Panics
    /// When the deadline passes before that.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        while !self.ended {
            self.pump();
        }
        let status = self.child.wait().expect("nobody else reaps it");
        Output { what: std::mem::take(&mut self.what), status, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    /// Moves bytes until something has happened. After the end of the process the pipes are drained.
    #[track_caller]
    fn pump(&mut self) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            panic!("no end in time: `{}`\n{}\n{}", self.what, self.stdout.text(), self.stderr.text());
        }
        let exited = {
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            fds.extend(self.stdout.poll_fd());
            fds.extend(self.stderr.poll_fd());
            fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
            let _ = poll(&mut fds, Some(&timespec(left)));
            !fds[0].revents().is_empty()
        };
        self.feed();
        self.stdout.drain();
        self.stderr.drain();
        self.ended = exited;
    }

    fn feed(&mut self) {
        let Some(pipe) = &mut self.stdin else { return };
        match pipe.write(&self.pending[self.written..]) {
            Ok(count) => self.written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // The reader has gone: no reason to fail, its exit status will tell.
            Err(_) => self.written = self.pending.len(),
        }
        if self.written == self.pending.len() {
            self.stdin = None;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The read end of one output, and what came so far.
#[derive(Debug)]
struct Pipe {
    file: Option<std::fs::File>,
    bytes: Vec<u8>,
}

impl Pipe {
    fn new(fd: OwnedFd) -> Self {
        nonblocking(fd.as_fd());
        Self { file: Some(fd.into()), bytes: Vec::new() }
    }

    fn closed() -> Self {
        Self { file: None, bytes: Vec::new() }
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        self.file.as_ref().map(|file| PollFd::new(file, PollFlags::IN))
    }

    fn drain(&mut self) {
        let Some(file) = &mut self.file else { return };
        match file.read_to_end(&mut self.bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => self.file = None,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn nonblocking(fd: BorrowedFd<'_>) {
    let flags = fcntl_getfl(fd).expect("an open descriptor");
    fcntl_setfl(fd, flags | OFlags::NONBLOCK).expect("a pipe");
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args().map(OsStr::to_os_string).map(OsString::into_string) {
        let _ = write!(text, " {}", argument.unwrap_or_else(|raw| raw.to_string_lossy().into_owned()));
    }
    text
}
