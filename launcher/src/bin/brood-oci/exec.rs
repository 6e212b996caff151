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

use crate::console::{self, Console};
use crate::documents::OCI_VERSION;
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
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user, allow_negative_numbers = true)]
    user: Option<User>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID", value_parser = user_id, allow_negative_numbers = true)]
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
    ensure!(args.cgroup.is_empty(), "--cgroup is not supported yet");
    ensure!(args.process.is_some() || !args.command.is_empty(), "a COMMAND is needed, or --process");
    Ok(())
}

/// The process of `--process`, or the container's own with what the options change.
fn process(args: &ExecArgs, init: &std::path::Path) -> anyhow::Result<Process> {
    let file = args.process.as_deref().unwrap_or(init);
    let text = std::fs::read(file).with_context(|| file.display().to_string())?;
    let mut process: Value = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
    if args.process.is_none() {
        process["args"] = args.command.clone().into();
        process["terminal"] = args.tty.into();
        change(&mut process, args);
    }
    // The same checks as for an init process, by way of a configuration that holds nothing else.
    let spec = json!({
        "ociVersion": OCI_VERSION, "process": process, "root": {"path": "/"},
        "linux": {"namespaces": [{"type": "mount"}]},
    });
    let (spec, _) = config::parse(&serde_json::to_vec(&spec)?)?;
    config::validate(&spec)?;
    config::check_supported(&spec, false)?;
    spec.process().clone().context("no process")
}

fn change(process: &mut Value, args: &ExecArgs) {
    if let Some(cwd) = &args.cwd {
        process["cwd"] = cwd.as_str().into();
    }
    append(&mut process["env"], &args.env);
    if let Some(user) = args.user {
        process["user"]["uid"] = user.uid.into();
        if let Some(gid) = user.gid {
            process["user"]["gid"] = gid.into();
        }
    }
    append(&mut process["user"]["additionalGids"], &args.additional_gids);
    if let Some(profile) = &args.apparmor {
        process["apparmorProfile"] = profile.as_str().into();
    }
    if let Some(label) = &args.process_label {
        process["selinuxLabel"] = label.as_str().into();
    }
    if args.no_new_privs {
        process["noNewPrivileges"] = true.into();
    }
    add_capabilities(&mut process["capabilities"], &args.cap);
}

/// As runc: never to the inheritable set (CVE-2022-29162); to the ambient one only where the container has inheritable
/// capabilities, and there the kernel wants it in both.
fn add_capabilities(capabilities: &mut Value, added: &[String]) {
    if added.is_empty() {
        return;
    }
    for set in ["bounding", "effective", "permitted"] {
        append(&mut capabilities[set], added);
    }
    if capabilities["inheritable"].is_array() {
        append(&mut capabilities["ambient"], added);
    }
}

fn append<T: Clone + Into<Value>>(list: &mut Value, added: &[T]) {
    let added = added.iter().cloned().map(Into::into);
    match list.as_array_mut() {
        Some(list) => list.extend(added),
        None if added.len() > 0 => *list = added.collect(),
        None => {}
    }
}

/// What `--user` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: Option<u32>,
}

fn user(text: &str) -> Result<User, String> {
    match text.split_once(':') {
        None => Ok(User { uid: user_id(text)?, gid: None }),
        Some((uid, gid)) => Ok(User { uid: user_id(uid)?, gid: Some(user_id(gid)?) }),
    }
}

/// A uid or gid: digits and nothing else. A name is not looked up and never taken for 0 (CVE-2016-3697), nothing wraps
/// around (CVE-2024-40635), and the highest number is none, since setresuid(2) takes it for "leave it as it is".
fn user_id(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number != u32::MAX => Ok(number),
        _ => Err(format!("{text:?} is not a number from 0 to {}", u32::MAX - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_numbers() {
        for (text, number) in [("0", 0), ("1000", 1000), ("007", 7), ("4294967294", u32::MAX - 1)] {
            assert_eq!(user_id(text), Ok(number), "{text}");
            assert_eq!(user(text), Ok(User { uid: number, gid: None }));
            assert_eq!(user(&format!("{text}:{text}")), Ok(User { uid: number, gid: Some(number) }));
        }
        let wrong = [
            "",
            " ",
            "root",
            "-1",
            "-0",
            "+5",
            " 5",
            "5 ",
            "5\n",
            "5a",
            "0x10",
            "1e3",
            "1.0",
            "\u{665}",
            "4294967295",
            "4294967296",
            "8589934592",
            "18446744073709551616",
            "99999999999999999999999",
        ];
        for text in wrong {
            assert!(user_id(text).is_err(), "{text:?}");
            for both in [text.to_owned(), format!("{text}:0"), format!("0:{text}")] {
                assert!(user(&both).is_err(), "{both:?}");
            }
        }
        for text in [":", "1:", ":1", "1:2:3", "1::2"] {
            assert!(user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_added_capability_is_ambient_only_beside_inheritable_ones() {
        let added = ["CAP_SYS_TIME".to_owned()];
        let mut plain = json!({ "bounding": ["CAP_KILL"] });
        add_capabilities(&mut plain, &added);
        let sets = json!({ "bounding": ["CAP_KILL", "CAP_SYS_TIME"], "effective": added, "permitted": added });
        assert_eq!(plain, sets);
        let mut inheriting = json!({ "inheritable": ["CAP_KILL"] });
        add_capabilities(&mut inheriting, &added);
        assert_eq!((&inheriting["ambient"], &inheriting["inheritable"]), (&json!(added), &json!(["CAP_KILL"])));
        let mut none = Value::Null;
        add_capabilities(&mut none, &[]);
        assert_eq!(none, Value::Null);
    }
}
