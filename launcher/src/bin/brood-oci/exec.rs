//! `exec`: one more process in a running container.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use brood_launcher::config;
use brood_launcher::plan::{ExecOptions, Io, build_exec};
use brood_launcher::state::{INIT, Status, open_process};
use clap::Args;
use oci_spec::runtime::Process;
use rustix::pipe::PipeFlags;
use serde_json::{Value, json};

use crate::Runtime;
use crate::console::{self, Console};
use crate::inherited::Inherited;
use crate::launch::{self, Launching};
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
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
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
    /// Sub-cgroup to run in (not supported yet)
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

pub fn exec(runtime: &Runtime, args: ExecArgs) -> anyhow::Result<ExitCode> {
    refuse_unsupported(&args)?;
    let inherited = Inherited::take(args.preserve_fds)?;
    let pidfd_socket = args.pidfd_socket.as_deref().map(|path| console::connect("--pidfd-socket", path)).transpose()?;
    let dir = runtime.root.find(&args.id)?;
    let state = dir.read_state()?;
    match dir.status() {
        Status::Running | Status::Created => {}
        status => bail!("cannot exec in a container that is {status}"),
    }
    let process = process(&args, &dir.process(INIT).path().join("process.json"))?;
    let record = dir.process(INIT).read_pid()?;
    let init = open_process(record).context("cannot exec in a stopped container")?;
    let cgroup = launch::open_cgroup(&state.cgroup)?;
    let (status, status_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("status pipe")?;
    let terminal = process.terminal().unwrap_or(false);
    let (console, childs) = Console::open(terminal, args.detach, args.console_socket.as_deref())?;
    let io = match childs {
        Some(socket) => Io::Terminal(socket),
        None => Io::Descriptors(launch::inherit().context("standard descriptors")?),
    };
    let options = ExecOptions {
        kept: dir.read_kept()?,
        init,
        init_pid: record.pid,
        io,
        preserve: inherited.fds,
        status: status_write,
        cgroup,
    };
    let forwarder = if args.detach { None } else { Some(Forwarder::new()?) };
    let launching = Launching { launch: build_exec(&process, options)?, status, pidfd_socket, hooks: None };
    let spawned = launching.run(args.pid_file.as_deref())?;
    match forwarder {
        None => Ok(ExitCode::SUCCESS),
        Some(forwarder) => Ok(ExitCode::from(launch::wait(&forwarder, &spawned, console)?.status)),
    }
}

fn refuse_unsupported(args: &ExecArgs) -> anyhow::Result<()> {
    ensure!(args.cgroup.is_empty(), "exec: --cgroup is not supported yet");
    ensure!(args.process.is_some() || !args.command.is_empty(), "exec: a COMMAND is needed, or --process");
    Ok(())
}

/// The process of `--process`, or the container's own with what the options change.
fn process(args: &ExecArgs, init: &std::path::Path) -> anyhow::Result<Process> {
    let file = args.process.as_deref().unwrap_or(init);
    let text = std::fs::read(file).with_context(|| format!("exec: {}", file.display()))?;
    let mut process: Value = serde_json::from_slice(&text).with_context(|| format!("exec: {}", file.display()))?;
    if args.process.is_none() {
        process["args"] = args.command.clone().into();
        process["terminal"] = args.tty.into();
        change(&mut process, args)?;
    }
    // The same checks as for an init process, by way of a configuration that holds nothing else.
    let spec = json!({
        "ociVersion": "1.2.1", "process": process, "root": {"path": "/"},
        "linux": {"namespaces": [{"type": "mount"}]},
    });
    let (spec, _) = config::parse(&serde_json::to_vec(&spec)?)?;
    config::validate(&spec)?;
    config::check_supported(&spec, false)?;
    spec.process().clone().context("exec: no process")
}

fn change(process: &mut Value, args: &ExecArgs) -> anyhow::Result<()> {
    if let Some(cwd) = &args.cwd {
        process["cwd"] = cwd.as_str().into();
    }
    if let Some(env) = process["env"].as_array_mut() {
        env.extend(args.env.iter().map(|entry| Value::from(entry.as_str())));
    } else {
        process["env"] = args.env.clone().into();
    }
    if let Some(user) = &args.user {
        // A number is only ever a number (CVE-2016-3697, CVE-2026-30892).
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| text.parse::<u32>().with_context(|| format!("exec: --user {user:?}: not a number"));
        process["user"]["uid"] = number(uid)?.into();
        if let Some(gid) = gid {
            process["user"]["gid"] = number(gid)?.into();
        }
    }
    if !args.additional_gids.is_empty() {
        process["user"]["additionalGids"] = args.additional_gids.clone().into();
    }
    if let Some(profile) = &args.apparmor {
        process["apparmorProfile"] = profile.as_str().into();
    }
    if let Some(label) = &args.process_label {
        process["selinuxLabel"] = label.as_str().into();
    }
    if args.no_new_privs {
        process["noNewPrivileges"] = true.into();
    }
    for capability in &args.cap {
        // Not the inheritable set, and so not the ambient one (CVE-2022-29162).
        for set in ["bounding", "effective", "permitted"] {
            let list = &mut process["capabilities"][set];
            match list.as_array_mut() {
                Some(list) => list.push(capability.as_str().into()),
                None => *list = json!([capability]),
            }
        }
    }
    Ok(())
}
