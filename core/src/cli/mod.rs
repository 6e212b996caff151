//! The command line: `brood [--host unix://PATH] [--root DIR] COMMAND`.
//!
//! Every command but `daemon` is a client of a daemon. `run` does without one where none is there. Messages go to
//! standard error, one line each; 125 means that Brood itself failed, 126 and 127 that the program could not be run.

mod attached;
mod checkpoint;
mod daemon;
mod exec;
mod lifecycle;
mod query;
mod resources;
mod run;
mod terminal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use brood_launcher::state::StateRoot;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use rustix::io::Errno;

use crate::client::{Client, ClientError};
use crate::exe::Role;
use crate::line::{Line, Trouble};
use crate::registry::FailureKind;
use crate::socket;

/// Exit status when Brood itself failed.
pub const FAILED: u8 = 125;

#[derive(Parser)]
#[command(name = "brood", version, about = "High-throughput container supervisor", disable_help_subcommand = true)]
struct Cli {
    /// The daemon's socket, as unix://PATH [default: brood.sock in the state directory]
    #[arg(long, global = true, help_heading = "Global options", env = "BROOD_HOST", value_name = "unix://PATH")]
    host: Option<String>,
    /// State directory
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "BROOD_ROOT",
        value_name = "DIR",
        default_value_os_t = brood_launcher::rootless::default_state_root()
    )]
    root: PathBuf,
    /// Least severe level that is logged: error, warn, info, debug or trace
    #[arg(long, global = true, help_heading = "Global options", value_name = "LEVEL")]
    log_level: Option<tracing::level_filters::LevelFilter>,
    /// Form of the log
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// The same as --log-level debug
    #[arg(long, global = true, help_heading = "Global options")]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Daemon(daemon::DaemonArgs),
    /// Create and start a container; without a daemon, in this very process
    Run(Box<run::RunArgs>),
    /// Set a container up to the point where its program can be started
    Create(run::CreateArgs),
    /// Start the program of a created container
    Start(lifecycle::TargetArgs),
    /// Run one more process in a container
    Exec(exec::ExecArgs),
    /// Wait for a container to stop; print its exit status and exit with it
    Wait(lifecycle::TargetArgs),
    /// Send a signal to a container
    Kill(lifecycle::KillArgs),
    /// Stop all processes of a running container, until it is resumed
    Pause(IdArgs),
    /// Let a paused container go on
    Resume(IdArgs),
    /// Change limits of a container
    Update(resources::UpdateArgs),
    /// Print what containers use
    Stats(resources::StatsArgs),
    /// Remove a stopped container
    #[command(alias = "delete")]
    Rm(lifecycle::RmArgs),
    /// Checkpoints of containers: create, list and rm
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    /// Let a container go on from a checkpoint
    Restore(checkpoint::RestoreArgs),
    /// List the containers
    #[command(visible_aliases = ["ls", "ps"])]
    List(query::ListArgs),
    /// Print a container's state as JSON
    #[command(visible_alias = "inspect")]
    State(IdArgs),
    /// Print events: those that are kept, and with --follow those that come
    Events(query::EventsArgs),
    /// Print the versions of client and daemon
    Version,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct IdArgs {
    /// Container ID
    #[arg(value_name = "ID")]
    id: String,
}

/// Where the daemon is, and where state goes without one.
struct Place {
    host: Option<PathBuf>,
    root: PathBuf,
}

/// Entry point of the binary. A process that was started under the name of a [`Role`] is that.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = brood_launcher::rootless::serve_maps() {
        return code;
    }
    let mut arguments = std::env::args_os();
    let role = arguments.next().and_then(|name| Role::of(&name));
    if role == Some(Role::Zygote) {
        let Err(error) = brood_launcher::zygote::serve(rustix::stdio::stdin()) else { return ExitCode::SUCCESS };
        complain(&format!("zygote: {error}"));
        return ExitCode::from(FAILED);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                complain(&brood_launcher::usage::one_line(&error));
                return ExitCode::from(FAILED);
            }
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    init_log(&cli, role);
    dispatch(cli, role).unwrap_or_else(|error| {
        complain(&brood_launcher::usage::chain(&error));
        let refused = error.downcast_ref::<ClientError>().map_or(FAILED, |error| match error {
            ClientError::Refused(failure) => failure.exit_status,
            _ => FAILED,
        });
        ExitCode::from(refused)
    })
}

fn dispatch(cli: Cli, role: Option<Role>) -> anyhow::Result<ExitCode> {
    let place = Place { host: cli.host.as_deref().map(parse_host).transpose()?, root: cli.root };
    match cli.command {
        Command::Daemon(args) => daemon::daemon(&place, &args, role),
        Command::Run(args) => run::run(&place, *args),
        Command::Create(args) => run::create(&place, args),
        Command::Exec(args) => exec::exec(&place, args),
        Command::Start(args) => lifecycle::start(&place, &args),
        Command::Wait(args) => lifecycle::wait(&place, &args),
        Command::Kill(args) => lifecycle::kill(&place, &args),
        Command::Pause(args) => resources::pause(&place, &args.id),
        Command::Resume(args) => resources::resume(&place, &args.id),
        Command::Update(args) => resources::update(&place, &args),
        Command::Stats(args) => resources::stats(&place, &args),
        Command::Rm(args) => lifecycle::rm(&place, &args),
        Command::Checkpoint(command) => checkpoint::checkpoint(&place, &command),
        Command::Restore(args) => checkpoint::restore(&place, args),
        Command::List(args) => query::list(&place, &args),
        Command::State(args) => query::state(&place, &args.id),
        Command::Events(args) => query::events(&place, &args),
        Command::Version => query::version(&place),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "brood", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

fn parse_host(host: &str) -> anyhow::Result<PathBuf> {
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        _ => anyhow::bail!("--host: expected unix:///PATH, not {host:?}"),
    }
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.host.clone().unwrap_or_else(|| self.root.join(socket::RPC))
    }

    fn state_root(&self) -> anyhow::Result<StateRoot> {
        StateRoot::open(&self.root).map_err(|error| anyhow::anyhow!("--root: {error}"))
    }

    /// Runs a client on a connection to the daemon.
    ///
    /// When the connection breaks, it is run again on another one.
    fn with_client<R>(&self, client: impl AsyncFn(Client) -> anyhow::Result<R>) -> anyhow::Result<R> {
        let connected = self.try_with_line(async |line| line.call(&client, trouble).await)?;
        connected.unwrap_or_else(|error| Err(error.into()))
    }

    /// The same, with the failure to connect apart.
    fn try_with_line<R>(
        &self,
        work: impl AsyncFnOnce(Rc<Line>) -> anyhow::Result<R>,
    ) -> anyhow::Result<Result<anyhow::Result<R>, ClientError>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(tokio::task::LocalSet::new().block_on(&runtime, async {
            match Line::connect(&self.socket()).await {
                Ok(line) => Ok(work(Rc::new(line)).await),
                Err(error) => Err(error),
            }
        }))
    }
}

/// Why a command is run once more.
fn trouble(error: &anyhow::Error) -> Option<Trouble> {
    match error.downcast_ref::<capnp::Error>() {
        Some(error) => (error.kind == capnp::ErrorKind::Disconnected).then_some(Trouble::Lost),
        None => error.downcast_ref::<ClientError>().and_then(Trouble::of),
    }
}

/// Whether this is the refusal of a second try at what the first one, whose answer was lost, has done.
fn is_done(client: &Client, error: &ClientError, kind: FailureKind) -> bool {
    client.again && matches!(error, ClientError::Refused(failure) if failure.kind == kind)
}

/// Whether a failed connection means that there is no daemon, rather than one that is not for us.
fn nobody_there(error: &ClientError) -> bool {
    matches!(error, ClientError::Connect { errno: Errno::NOENT | Errno::CONNREFUSED, .. })
}

fn init_log(cli: &Cli, role: Option<Role>) {
    use tracing::level_filters::LevelFilter;
    // A daemon tells what it does; a command speaks when something is wrong.
    let default = if role.is_some() { LevelFilter::INFO } else { LevelFilter::WARN };
    let level = if cli.debug { LevelFilter::DEBUG } else { cli.log_level.unwrap_or(default) };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    match (cli.log_format, role) {
        (LogFormat::Json, _) => subscriber.json().init(),
        (LogFormat::Text, Some(_)) => subscriber.with_ansi(false).init(),
        (LogFormat::Text, None) => subscriber.with_ansi(false).without_time().init(),
    }
}

fn complain(message: &str) {
    // Nobody is left to tell when it cannot be written.
    let _ = writeln!(std::io::stderr(), "brood: {message}");
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// An absolute path for the daemon, whose working directory is not ours.
fn absolute(option: &str, path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).map_err(|error| anyhow::anyhow!("{option} {}: {error}", path.display()))
}
