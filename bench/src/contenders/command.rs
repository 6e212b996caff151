//! A runtime as its callers use it: the whole command that runs a container, from spawn to reap.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::hybrid::LegacyView;
use super::{Contender, LAUNCH_LIMIT, wait_for_exit};
use crate::bundle::{Bundle, PROBE_OUTPUT};
use crate::daemon::{self, Daemon};

/// What crun before 1.9 says in front of a cgroup layout that has controllers on both sides.
pub const REFUSES_HYBRID: &str = "hybrid mode not supported";

/// How often a removal that the daemon does on its own is looked for.
const SETTLE_CHECK: Duration = Duration::from_micros(200);

/// How the command line goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `RUNTIME --root DIR run --bundle DIR ID`
    Oci,
    /// `brood --host unix://SOCKET run --rm --name ID --bundle DIR`, with a daemon of its own for all launches.
    Client,
    /// `brood --root DIR run --name ID --bundle DIR`, without a daemon.
    Embedded,
}

/// A runtime's executable and where its launches happen.
pub struct CommandContender {
    name: &'static str,
    form: Form,
    program: PathBuf,
    bundle: Rc<Bundle>,
    /// `--root`: the runtime's state, apart from that of containers which are none of our business.
    state: PathBuf,
    /// Where the command's stdout and stderr go: files, because a pipe would have to be drained.
    output: Option<(File, File)>,
    /// Present when the runtime refused the machine's cgroup layout.
    legacy_view: Option<LegacyView>,
    /// Present when the form needs one.
    daemon: Option<Daemon>,
    launches: u64,
}

impl CommandContender {
    /// Not yet prepared.
    pub fn new(name: &'static str, form: Form, program: PathBuf, bundle: Rc<Bundle>) -> Self {
        let state = PathBuf::new();
        Self { name, form, program, bundle, state, output: None, legacy_view: None, daemon: None, launches: 0 }
    }

    /// The command with the options that say where state is.
    fn command(&self) -> Command {
        let mut command = daemon::command(&self.program);
        match &self.daemon {
            Some(daemon) => command.arg("--host").arg(format!("unix://{}", daemon.socket().display())),
            None => command.arg("--root").arg(&self.state),
        };
        command
    }

    fn run_command(&self, bundle: PathBuf, id: &str) -> Command {
        let mut command = self.command();
        command.args(["run", "--bundle"]).arg(bundle);
        match self.form {
            Form::Oci => command.arg(id),
            Form::Client => command.args(["--rm", "--name", id]),
            Form::Embedded => command.args(["--name", id]),
        };
        command
    }

    /// One container from `bundle`, timed.
    fn run(&mut self, bundle: PathBuf) -> Result<Duration> {
        self.launches += 1;
        let id = format!("brood-bench-{}-{}", std::process::id(), self.launches);
        let mut command = self.run_command(bundle, &id);
        let (stdout, stderr) = self.output.as_mut().context("the contender is not prepared")?;
        // A process group of its own: ctrl-C at the terminal ends this program in good order, not the runtime.
        command.stdin(Stdio::null()).stdout(rewound(stdout)?).stderr(rewound(stderr)?).process_group(0);
        let outcome = match &self.legacy_view {
            Some(view) => view.run(command),
            None => time_to_exit(command),
        };
        match outcome {
            // What it says on stderr along the way is no failure: warnings are common and the same each time.
            Ok((status, time)) if status.success() => self.settle(&id).map(|()| time),
            Ok((status, _)) => {
                let said = contents(stderr)?;
                self.delete(&id);
                bail!("{status}, stderr: {}", if said.is_empty() { "(empty)" } else { &said })
            }
            Err(error) => {
                self.delete(&id);
                Err(error)
            }
        }
    }

    /// The daemon removes the container when the command has its answer already. Outside the measured time, but before
    /// the next contender's turn: it must not pay for it.
    fn settle(&self, id: &str) -> Result<()> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let (directory, started) = (daemon.root().join(id), Instant::now());
        while directory.exists() {
            ensure!(started.elapsed() < LAUNCH_LIMIT, "{} is not removed", directory.display());
            std::thread::sleep(SETTLE_CHECK);
        }
        Ok(())
    }

    /// Best effort after a failure: most often there is nothing to delete, which the runtime calls an error.
    fn delete(&self, id: &str) {
        if self.form == Form::Embedded {
            return; // There is nobody to ask, and the container died with the command.
        }
        let mut command = self.command();
        command.args(["delete", "--force", id]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let _ = match &self.legacy_view {
            Some(view) => view.run(command),
            None => time_to_exit(command),
        };
    }

    /// A real container says who it is; a program that merely succeeds does not get into the table.
    fn probe(&mut self) -> Result<()> {
        self.run(self.bundle.probe_path())?;
        let (stdout, _) = self.output.as_mut().context("the contender is not prepared")?;
        let said = contents(stdout)?;
        ensure!(said == PROBE_OUTPUT, "the probe printed {said:?} instead of {PROBE_OUTPUT:?}");
        Ok(())
    }
}

impl Contender for CommandContender {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        version(&self.program)
    }

    fn notes(&self) -> Vec<String> {
        let said = match self.form {
            Form::Oci => self.legacy_view.as_ref().map(LegacyView::note),
            Form::Client => Some("--rm: the removal by the daemon, after the exit, is not in the time".to_owned()),
            Form::Embedded => None,
        };
        said.iter().map(|note| format!("{}: {note}", self.name)).collect()
    }

    fn prepare(&mut self) -> Result<()> {
        let key = super::key(self.name);
        self.state = self.bundle.scratch(&format!("state-{key}"))?;
        let logs = self.bundle.scratch(&format!("output-{key}"))?;
        if self.form == Form::Client {
            self.daemon = Some(Daemon::start(&self.program, self.state.join("daemon"))?);
        }
        let create = |name: &str| File::options().read(true).append(true).create(true).open(logs.join(name));
        self.output = Some((create("stdout")?, create("stderr")?));
        match self.probe() {
            Err(error) if format!("{error:#}").contains(REFUSES_HYBRID) => {
                self.legacy_view = Some(LegacyView::create(&self.bundle)?);
                self.probe()
            }
            other => other,
        }
    }

    fn launch_once(&mut self) -> Result<Duration> {
        self.run(self.bundle.path())
    }

    fn finish(&mut self) -> Result<()> {
        self.legacy_view = None;
        if let Some(daemon) = &mut self.daemon {
            daemon.stop()?;
            self.state = daemon.root().to_path_buf();
        }
        if let Ok(left) = fs::read_dir(&self.state) {
            let names: Vec<String> = left.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            ensure!(names.iter().all(|n| !n.starts_with("brood-bench-")), "state left behind: {}", names.join(", "));
        }
        Ok(())
    }
}

/// What a program says that it is.
pub fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// Spawns the command and waits for its end.
pub fn time_to_exit(mut command: Command) -> Result<(ExitStatus, Duration)> {
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let waited = wait_for_child(&child, started);
    if waited.is_err() {
        // Not yet reaped, so the pid is still this child's. An error means that it ended by itself just now.
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait for the command")?;
    let time = started.elapsed();
    waited.map(|()| (status, time))
}

fn wait_for_child(child: &Child, started: Instant) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child has a positive pid")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot open a pidfd")?;
    wait_for_exit(std::os::fd::AsFd::as_fd(&pidfd), started)
}

/// The file, emptied, once more. It was opened for appending, so that the next writer starts at its beginning.
fn rewound(file: &File) -> Result<File> {
    file.set_len(0)?;
    Ok(file.try_clone()?)
}

fn contents(file: &mut File) -> Result<String> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}
