//! `brood-oci`: the launcher as a daemonless OCI runtime, with the commands and flags of runc.
//!
//! Options are accepted before and after the container's ID. Messages go to standard error and to `--log`, since
//! callers parse both. `run` exits with the container's status, or 1; `exec` with the process's, or 255; every other
//! command with 0 or 1.

mod checkpoint;
mod console;
mod documents;
mod events;
mod exec;
mod features;
mod inherited;
mod launch;
mod lifecycle;
mod list;
mod messages;
mod name;
mod ps;
mod runtime;
mod signals;
mod stats;
mod update;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use brood_launcher::prepare::CgroupManager;
use brood_launcher::rootless::{self, HostIds};
use brood_launcher::seal::SealedExe;
use brood_launcher::state::StateRoot;
use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::messages::{Level, LogFormat, Messages};
use crate::runtime::Runtime;

#[derive(Parser)]
#[command(name = "brood-oci", disable_version_flag = true, disable_help_subcommand = true, args_override_self = true)]
#[command(
    about = "Open Container Initiative runtime: starts and manages containers from OCI bundles, without a daemon"
)]
struct Cli {
    /// Directory for container state [default: /run/brood, or $XDG_RUNTIME_DIR/brood for an ordinary user]
    #[arg(long, global = true, help_heading = "Global options", env = "BROOD_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Also write messages to this file
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE")]
    log: Option<String>,
    /// Format of the log file
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Least severe level that is written
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value = "warn")]
    log_level: Level,
    /// Write debug messages too
    #[arg(long, global = true, help_heading = "Global options")]
    debug: bool,
    /// Cgroups by way of systemd: each container is a scope, as linux.cgroupsPath says (slice:prefix:name)
    #[arg(long, global = true, help_heading = "Global options")]
    systemd_cgroup: bool,
    /// How cgroups are managed
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value = "cgroupfs")]
    cgroup_manager: ManagerName,
    /// Ignore errors that an ordinary user cannot avoid
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", ignore_case = true)]
    rootless: Rootless,
    /// Print the version
    #[arg(short = 'v', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ManagerName {
    Cgroupfs,
    Systemd,
    Disabled,
}

/// In all the words that runc takes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rootless {
    #[value(alias = "")]
    Auto,
    #[value(aliases = ["1", "t"])]
    True,
    #[value(aliases = ["0", "f"])]
    False,
}

#[derive(Subcommand)]
enum Command {
    /// Set a container up to the point where its program can be started
    Create(launch::CreateArgs),
    /// Start the program of a created container
    Start(IdArgs),
    /// Create and start a container, wait for it and delete it
    Run(launch::RunArgs),
    /// Run one more process in a running container, and exit with its status
    Exec(exec::ExecArgs),
    /// Print a container's state as JSON
    State(IdArgs),
    /// List the processes of a container
    Ps(ps::PsArgs),
    /// Print statistics at intervals, and notices when memory runs out, as JSON
    Events(events::EventsArgs),
    /// Change the limits of a container
    Update(update::UpdateArgs),
    /// Freeze all processes of a container
    Pause(IdArgs),
    /// Let a paused container go on
    Resume(IdArgs),
    /// Write a running container's processes to images, by CRIU
    Checkpoint(checkpoint::CheckpointArgs),
    /// Let a container go on from its images, and wait for it and delete it
    Restore(checkpoint::RestoreArgs),
    /// Send a signal to a container's init process
    Kill(lifecycle::KillArgs),
    /// Remove what a stopped container holds
    Delete(lifecycle::DeleteArgs),
    /// List the containers
    #[command(alias = "ls")]
    List(list::ListArgs),
    /// Write a config.json to start from
    Spec(documents::SpecArgs),
    /// Print what this runtime supports, as JSON
    Features,
    /// Print the version
    Version,
}

/// A container's name and nothing else.
#[derive(Args)]
struct IdArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

fn main() -> ExitCode {
    if let Some(code) = rootless::serve_maps() {
        return code;
    }
    let cli = match name::command::<Cli>().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            Messages::default().error(&name::wrong_usage(&error));
            return ExitCode::FAILURE;
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let execs = matches!(cli.command, Some(Command::Exec(_)));
    let runs = matches!(cli.command, Some(Command::Run(_)));
    let level = if cli.debug { Level::Debug } else { cli.log_level };
    let messages = Messages::new(cli.log.as_deref(), cli.log_format, level);
    let result = match &messages {
        Ok(messages) => dispatch(cli, messages.clone()),
        Err(error) => Err(anyhow::anyhow!(brood_launcher::usage::chain(error))),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let (messages, text) = (messages.unwrap_or_default(), brood_launcher::usage::chain(&error));
            match error.downcast_ref().filter(|_| runs).and_then(launch::NotStarted::of_execve) {
                Some(words) => messages.error_as(&words, &text),
                None => messages.error(&text),
            }
            if execs { ExitCode::from(exec::EXEC_FAILED) } else { ExitCode::FAILURE }
        }
    }
}

fn dispatch(cli: Cli, messages: Messages) -> anyhow::Result<ExitCode> {
    if cli.version {
        return documents::version();
    }
    let Some(command) = cli.command else {
        name::command::<Cli>().print_help()?;
        return Ok(ExitCode::SUCCESS);
    };
    match command {
        Command::Spec(args) => return documents::spec(&args),
        Command::Features => return features::features(),
        Command::Version => return documents::version(),
        _ => {}
    }
    let cgroups = match cli.cgroup_manager {
        _ if cli.systemd_cgroup => CgroupManager::Systemd,
        ManagerName::Systemd => CgroupManager::Systemd,
        ManagerName::Cgroupfs => CgroupManager::Ourselves,
        ManagerName::Disabled => CgroupManager::Nobody,
    };
    if matches!(command, Command::List(_))
        && let Some(root) = &cli.root
    {
        // A list makes nothing; only the default directory may be missing.
        std::fs::metadata(root).with_context(|| format!("--root {}", root.display()))?;
    }
    let path = cli.root.unwrap_or_else(rootless::default_state_root);
    match &command {
        Command::Create(args) => run_sealed(Some(&args.config_file()), &messages)?,
        Command::Run(args) => run_sealed(Some(&args.create.config_file()), &messages)?,
        Command::Exec(_) => run_sealed(None, &messages)?,
        _ => {}
    }
    let root = StateRoot::open(&path).context("state directory")?;
    anyhow::ensure!(root.path() != Path::new("/"), "--root must not be /");
    let runtime = Runtime { root, messages, cgroups };
    match command {
        Command::Create(args) => launch::create(&runtime, args),
        Command::Run(args) => launch::run(&runtime, args),
        Command::Start(args) => lifecycle::start(&runtime, &args.id),
        Command::Exec(args) => exec::exec(&runtime, args),
        Command::State(args) => list::state(&runtime, &args.id),
        Command::Ps(args) => ps::ps(&runtime, &args),
        Command::Events(args) => events::events(&runtime, &args),
        Command::Update(args) => update::update(&runtime, &args),
        Command::Pause(args) => lifecycle::pause(&runtime, &args.id),
        Command::Resume(args) => lifecycle::resume(&runtime, &args.id),
        Command::Checkpoint(args) => checkpoint::checkpoint(&runtime, args),
        Command::Restore(args) => checkpoint::restore(&runtime, args),
        Command::Kill(args) => lifecycle::kill(&runtime, &args),
        Command::Delete(args) => lifecycle::delete(&runtime, &args),
        Command::List(args) => list::list(&runtime, &args),
        Command::Spec(_) | Command::Features | Command::Version => Ok(ExitCode::SUCCESS),
    }
}

/// Goes on from a copy of the binary that nobody in a container can overwrite (CVE-2019-5736). An ordinary user goes on in
/// a user namespace as well when there is a container to be made.
fn run_sealed(config: Option<&Path>, messages: &Messages) -> anyhow::Result<()> {
    let name = name::own();
    if name::is_sealed() {
        messages.debug(&format!("{name} exeseal: using /proc/self/exe clone"));
        return Ok(());
    }
    if let Some(config) = config.filter(|_| rootless::needed()) {
        rootless::enter(&HostIds::of_file(config))?;
    }
    let exe = SealedExe::brief().context("sealed copy of the binary")?;
    messages.debug(&format!("{name} exeseal: using {} for sealed /proc/self/exe", exe.kind()));
    let arguments = std::env::args_os().skip(1);
    let failed = std::process::Command::new(exe.path()).arg0(name::sealed()).args(arguments).exec();
    Err(failed).context("sealed copy of the binary")
}
