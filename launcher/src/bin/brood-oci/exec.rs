//! `exec`: one more process in a running container.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use brood_launcher::exec::{self, Changes, Program};
use brood_launcher::plan::{ExecOptions, Io, build_exec};
use brood_launcher::state::{INIT, Status};
use clap::Args;
use rustix::pipe::PipeFlags;

use crate::console::{self, Console};
use crate::inherited::Inherited;
use crate::launch::{self, Launching};
use crate::runtime::Runtime;
use crate::signals::Forwarder;

/// Exit status when the process did not come to run, as with runc.
pub const EXEC_FAILED: u8 = 255;

#[derive(Args)]
pub struct ExecArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Read the process from this file (an OCI process object)
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    /// UID or UID:GID
    #[arg(short, long, value_name = "UID[:GID]", value_parser = exec::parse_user, allow_negative_numbers = true)]
    user: Option<(u32, Option<u32>)>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID", value_parser = exec::parse_id, allow_negative_numbers = true)]
    additional_gids: Vec<u32>,
    /// Return when the process runs
    #[arg(short, long)]
    detach: bool,
    /// Write the pid to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Set no_new_privs
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Pass this many descriptors after 2
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Run in this cgroup below the container's; CONTROLLER[,CONTROLLER]:PATH for some of cgroup v1 (repeatable)
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Run in a paused container too
    #[arg(long)]
    ignore_paused: bool,
    /// Unix socket that receives the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives the pidfd
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Every failure but the process's own is one of the command: status [`EXEC_FAILED`].
pub fn exec(runtime: &Runtime, args: ExecArgs) -> anyhow::Result<ExitCode> {
    launch(runtime, args).context("exec failed")
}

fn launch(runtime: &Runtime, args: ExecArgs) -> anyhow::Result<ExitCode> {
    refuse_unsupported(&args)?;
    let inherited = Inherited::take(args.preserve_fds)?;
    let pidfd_socket = args.pidfd_socket.as_deref().map(|path| console::connect("--pidfd-socket", path)).transpose()?;
    let dir = runtime.find(&args.id)?;
    let state = dir.read_state()?;
    match dir.status() {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            bail!("cannot exec in a paused container: container is paused (use --ignore-paused to override)")
        }
        status => bail!("cannot exec in a {status} container"),
    }
    let checked = program(&args)?.process(&dir, false);
    let (process, notes) = match &args.process {
        Some(file) => checked.with_context(|| file.display().to_string())?,
        None => checked?,
    };
    for note in &notes {
        runtime.messages.warning(note);
    }
    let record = dir.process(INIT).read_pid()?;
    let init = exec::open_init(record)?;
    let cgroups = state.cgroups.below(&args.cgroup).map_err(anyhow::Error::msg)?;
    let cgroups = exec::entrance(&cgroups, &state)?;
    let (status, status_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("status pipe")?;
    let terminal = process.terminal().unwrap_or(false);
    let (console, childs) = Console::open(terminal, args.detach, args.console_socket.as_deref())?;
    let io = match childs {
        Some(socket) => Io::Terminal(socket),
        None => Io::Descriptors(launch::inherit().context("standard descriptors")?),
    };
    let options = ExecOptions {
        kept: dir.read_kept()?,
        from_zygote: false,
        container: state,
        init,
        init_pid: record.pid,
        io,
        preserve: inherited.fds,
        status: status_write,
        cgroups,
        park: None,
    };
    let forwarder = if args.detach { None } else { Some(Forwarder::new()?) };
    let mut launch = build_exec(&process, options)?;
    console.fit(&mut launch.plan);
    let messages = &runtime.messages;
    let launching = Launching { launch, status, pidfd_socket, hooks: None, messages };
    let spawned = launching.run(args.pid_file.as_deref())?;
    match forwarder {
        None => Ok(ExitCode::SUCCESS),
        Some(forwarder) => Ok(ExitCode::from(launch::wait(&forwarder, &spawned, console)?.status)),
    }
}

fn refuse_unsupported(args: &ExecArgs) -> anyhow::Result<()> {
    ensure!(args.process.is_some() || !args.command.is_empty(), "a COMMAND is needed, or --process");
    Ok(())
}

/// The process of `--process`, or the container's own with what the options change.
fn program(args: &ExecArgs) -> anyhow::Result<Program> {
    if let Some(file) = &args.process {
        let text = std::fs::read(file).with_context(|| format!("exec: {}", file.display()))?;
        return Ok(Program::Json(text));
    }
    let (uid, gid) = args.user.unzip();
    Ok(Program::Changed(Changes {
        args: args.command.clone(),
        env: args.env.clone(),
        cwd: args.cwd.clone(),
        uid,
        gid: gid.flatten(),
        additional_gids: args.additional_gids.clone(),
        apparmor_profile: args.apparmor.clone(),
        selinux_label: args.process_label.clone(),
        terminal: args.tty,
        no_new_privileges: args.no_new_privs,
        capabilities: args.cap.clone(),
        ..Changes::default()
    }))
}
