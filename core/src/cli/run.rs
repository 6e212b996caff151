//! `run` and `create`.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, bail, ensure};
use brood_launcher::exec::parse_id;
use brood_launcher::plan::{DefaultBundle, Stdio, default_spec};
use brood_launcher::prepare::{CgroupManager, Source};
use brood_launcher::rootless::{self, HostIds};
use brood_launcher::state::{ExitRecord, Manager};
use clap::{Args, ValueEnum};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::attached::{Job, attached, create_once};
use super::resources::{LimitArgs, device};
use super::terminal::{self, Console};
use super::{Place, absolute, nobody_there, print};
use crate::client::{Client, ClientError, Create, CreateSource};
use crate::limits::RETAIN_COUNT_DEFAULT;
use crate::line::{Line, Trouble};
use crate::reactor::{self, Choice};
use crate::registry::{Instance, ProcessCommand, Reply};
use crate::supervisor::{Order, Settings, StdioOrder, Supervisor};

/// Signals that are passed on to the container of a foreground run.
const FORWARDED: [i32; 6] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// How long a command without a daemon stays to remove what another one has left.
const SWEEP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Args)]
pub(super) struct CreateArgs {
    /// Name of the container
    #[arg(long, value_name = "ID")]
    name: String,
    /// OCI bundle: a directory with config.json
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args)]
pub(super) struct CommonArgs {
    /// A label, kept with the container
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<String>,
    /// Go on without what this version does not support, with a warning
    #[arg(long)]
    pub(super) ignore_unsupported: bool,
}

#[derive(Args)]
pub(super) struct RunArgs {
    /// Return when the program runs; its output goes to files in the state directory (needs a daemon)
    #[arg(short, long)]
    detach: bool,
    /// Remove the container when it stops (without a daemon it always is)
    #[arg(long)]
    rm: bool,
    /// Give the container our standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal, with our own as the other end
    #[arg(short, long, conflicts_with = "detach")]
    tty: bool,
    /// Name of the container [default: a random one]
    #[arg(long, value_name = "ID")]
    name: Option<String>,
    /// OCI bundle: a directory with config.json
    #[arg(long, value_name = "DIR", conflicts_with_all = ["rootfs", "env", "workdir", "user", "volumes", "network", "read_only", "hostname", "command", "devices", "LimitArgs"])]
    bundle: Option<PathBuf>,
    /// Root file system [default: the host's, read-only below a throw-away layer]
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User, as UID, UID:GID or a name of the host
    #[arg(short, long)]
    user: Option<String>,
    /// Bind mount
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]")]
    volumes: Vec<String>,
    /// Network: none (only loopback) or host
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// Make the root read-only
    #[arg(long)]
    read_only: bool,
    /// Host name inside [default: the container's name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Device of the host, with what may be done with it
    #[arg(long = "device", value_name = "HOST[:CONTAINER[:rwm]]")]
    devices: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    common: CommonArgs,
    /// Program and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    None,
    Host,
}

pub(super) fn create(place: &Place, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let create = Create {
        id: args.name,
        source: CreateSource::Bundle(absolute("--bundle", &args.bundle)?),
        labels: parse_labels(&args.common.labels)?,
        ignore_unsupported: args.common.ignore_unsupported,
        ..Create::default()
    };
    place.with_client(async |client| {
        create_once(&client, &create).await?;
        print(&format!("{}\n", create.id))
    })
}

pub(super) fn run(place: &Place, args: RunArgs) -> anyhow::Result<ExitCode> {
    let id = args.name.clone().map_or_else(random_name, Ok)?;
    let create = Create {
        source: source(&args, &id)?,
        stdio: None,
        labels: parse_labels(&args.common.labels)?,
        start: true,
        auto_remove: args.rm,
        ignore_unsupported: args.common.ignore_unsupported,
        checkpoint: None,
        id,
    };
    let remote = place.try_with_line(async |line| run_remote(line, create.clone(), &args).await)?;
    match remote {
        Ok(status) => status,
        Err(error) if place.host.is_none() && nobody_there(&error) => {
            ensure!(!args.detach, "-d needs a daemon: {error}");
            run_embedded(place, create, &args)
        }
        Err(error) => Err(error.into()),
    }
}

async fn run_remote(line: Rc<Line>, create: Create, args: &RunArgs) -> anyhow::Result<ExitCode> {
    if !args.detach {
        return attached(line, Job::Run(create), args.tty, args.interactive).await;
    }
    ensure!(!args.interactive, "-i: a detached container has no standard input of ours");
    line.call(async |client| create_once(&client, &create).await, Trouble::of).await?;
    print(&format!("{}\n", create.id))
}

/// Without a daemon: the same supervisor, in this process and for this one container.
fn run_embedded(place: &Place, create: Create, args: &RunArgs) -> anyhow::Result<ExitCode> {
    if rootless::needed() {
        let ids = match &create.source {
            CreateSource::Bundle(path) => HostIds::of_file(&path.join("config.json")),
            CreateSource::Config { text, .. } => HostIds::of(text),
        };
        rootless::enter(&ids)?;
    }
    let kind = Choice::Auto.resolve().context("reactor")?;
    let made_root = !place.root.exists();
    let settings = Settings {
        root: place.state_root()?,
        reactor: kind,
        zygotes: 1,
        start_timeout: std::time::Duration::from_secs(15),
        retain: RETAIN_COUNT_DEFAULT,
        manager: Manager::Embedded,
        cgroups: CgroupManager::Ourselves,
        container_nofile: None,
    };
    let root = settings.root.clone();
    let (console, stdio) = if args.tty {
        let (ours, theirs) = Console::open()?;
        (Some(ours), StdioOrder::Terminal(theirs))
    } else {
        (None, StdioOrder::Fds(stdio(args.interactive)?))
    };
    let status = reactor::block_on(kind, async move {
        // Before there is anything that a signal could leave behind.
        let signals = Signals::new()?;
        let supervisor = Supervisor::start(settings, None).context("start")?;
        let sweep = supervisor.sweep();
        let source = match create.source {
            CreateSource::Bundle(path) => Source::Bundle { path, config: None },
            CreateSource::Config { text, host_overlay } => Source::Inline { config: text, host_overlay },
        };
        let order = Order {
            id: create.id,
            source,
            stdio,
            labels: create.labels,
            start: true,
            auto_remove: false,
            ignore_unsupported: create.ignore_unsupported,
            checkpoint: None,
        };
        let result = run_locally(&supervisor, order, signals, console).await;
        if tokio::time::timeout(SWEEP_PATIENCE, sweep).await.is_err() {
            tracing::warn!("what a command that was killed has left is not all removed; the next one goes on");
        }
        supervisor.stop();
        result
    });
    if made_root {
        // Unless a daemon or another command has moved in meanwhile.
        let _ = std::fs::remove_dir(root.path());
    }
    status?
}

async fn run_locally(
    supervisor: &Rc<Supervisor>,
    order: Order,
    signals: Signals,
    console: Option<Console>,
) -> anyhow::Result<ExitCode> {
    let (instance, exit) = match supervisor.begin(order).complete().await {
        Ok(created) => created,
        Err(failure) => return Err(ClientError::from(failure).into()),
    };
    let relay = console.map(Console::relay).transpose();
    let forwarding = tokio::task::spawn_local(Wired::Local(supervisor.clone(), instance).forward(signals));
    let exit = exit.await;
    forwarding.abort();
    if let Ok(Some(relay)) = relay {
        relay.finish().await;
    }
    let deleted = supervisor.ask(instance, ProcessCommand::Delete { force: true }).await;
    match (exit, deleted) {
        (Reply::Refused(failure), _) | (_, Reply::Refused(failure)) => Err(ClientError::from(failure).into()),
        (Reply::Exit(exit), _) => Ok(status(&exit)),
        (Reply::Created(_) | Reply::Done, _) => bail!("a wait was answered with no exit"),
    }
}

/// A foreground process, and who has it.
pub(super) enum Wired {
    /// In a daemon.
    Remote {
        line: Rc<Line>,
        container: String,
        /// Not the container's own process but this one.
        exec: Option<String>,
    },
    /// In this process.
    Local(Rc<Supervisor>, Instance),
}

impl Wired {
    /// Passes our signals on, until aborted.
    pub(super) async fn forward(self, mut signals: Signals) {
        loop {
            let number = signals.next().await;
            match &self {
                // It may have ended this very moment; then the run is about to end as well.
                Wired::Remote { line, container, exec } => {
                    let kill = async |client: Client| {
                        let container = client.get(container);
                        match exec {
                            Some(exec) => container.process(exec).kill(number as u8).await,
                            None => container.kill(number as u8, false).await,
                        }
                    };
                    drop(line.call(kill, Trouble::of).await);
                }
                Wired::Local(supervisor, target) => {
                    drop(supervisor.ask(*target, ProcessCommand::Kill { signal: number, all: false }).await);
                }
            }
        }
    }
}

/// The signals that are passed on, caught from the making of this on.
pub(super) struct Signals(Vec<(i32, Signal)>);

impl Signals {
    pub(super) fn new() -> std::io::Result<Signals> {
        let catch = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        FORWARDED.into_iter().map(catch).collect::<std::io::Result<_>>().map(Signals)
    }

    async fn next(&mut self) -> i32 {
        let any = self.0.iter_mut().map(|(number, signal)| {
            Box::pin(async {
                signal.recv().await;
                *number
            })
        });
        futures::future::select_all(any).await.0
    }
}

pub(super) fn status(exit: &ExitRecord) -> ExitCode {
    if let Some(reason) = &exit.reason {
        tracing::warn!("exit status unknown: {reason}");
    }
    ExitCode::from(exit.status)
}

/// Our own descriptors for the process; without -i its input is empty, as a terminal's would never end.
pub(super) fn stdio(interactive: bool) -> anyhow::Result<Stdio> {
    let copy = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let open = || -> Result<Stdio, Errno> {
        let stdin = if interactive {
            copy(rustix::stdio::stdin())?
        } else {
            rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
        };
        Ok(Stdio { stdin, stdout: copy(rustix::stdio::stdout())?, stderr: copy(rustix::stdio::stderr())? })
    };
    open().context("standard descriptors")
}

fn source(args: &RunArgs, id: &str) -> anyhow::Result<CreateSource> {
    if let Some(bundle) = &args.bundle {
        return Ok(CreateSource::Bundle(absolute("--bundle", bundle)?));
    }
    ensure!(!args.command.is_empty(), "a COMMAND is needed, or --bundle");
    let mut spec = default_spec(&DefaultBundle {
        args: args.command.clone(),
        env: environment(&args.env)?,
        cwd: args.workdir.clone().unwrap_or_default(),
        hostname: args.hostname.clone().unwrap_or_else(|| id.chars().take(63).collect()),
    });
    if let Some(user) = &args.user {
        let (uid, gid) = parse_user(user, args.rootfs.is_none())?;
        spec["process"]["user"] = serde_json::json!({"uid": uid, "gid": gid});
    }
    if args.network == Some(Network::Host)
        && let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut()
    {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    for volume in &args.volumes {
        let mount = parse_volume(volume)?;
        spec["mounts"].as_array_mut().context("default bundle")?.push(mount);
    }
    put_resources(&mut spec, args)?;
    if args.tty {
        let (rows, columns) = terminal::size();
        spec["process"]["terminal"] = true.into();
        if (rows, columns) != (0, 0) {
            spec["process"]["consoleSize"] = serde_json::json!({"height": rows, "width": columns});
        }
    }
    if rootless::needed() {
        // The mounts below the host's root are locked together with it, and an overlay takes no such layer.
        ensure!(args.rootfs.is_some(), "without root a container needs a root of its own: --rootfs or --bundle");
        rootless::add_user_namespace(&mut spec);
    }
    spec["root"]["readonly"] = args.read_only.into();
    if let Some(rootfs) = &args.rootfs {
        spec["root"]["path"] = absolute("--rootfs", rootfs)?.to_string_lossy().into();
    }
    Ok(CreateSource::Config { text: spec.to_string().into_bytes(), host_overlay: args.rootfs.is_none() })
}

fn put_resources(spec: &mut serde_json::Value, args: &RunArgs) -> anyhow::Result<()> {
    let linux = spec["linux"].as_object_mut().context("default bundle")?;
    let resources = linux.entry("resources").or_insert_with(|| serde_json::json!({}));
    for (section, fields) in args.limits.resources()? {
        resources[section] = fields;
    }
    let (devices, mut rules) =
        args.devices.iter().map(|text| device(text)).collect::<anyhow::Result<(Vec<_>, Vec<_>)>>()?;
    if !devices.is_empty() {
        // What the default rules allow stays allowed; without any, everything else is refused first.
        let known = resources["devices"].as_array().cloned();
        let mut all = known.unwrap_or_else(|| vec![serde_json::json!({"allow": false, "access": "rwm"})]);
        all.append(&mut rules);
        resources["devices"] = all.into();
        linux.insert("devices".to_owned(), devices.into());
    }
    Ok(())
}

/// `KEY` alone takes our own value, as with docker.
pub(super) fn environment(entries: &[String]) -> anyhow::Result<Vec<String>> {
    let entry = |entry: &String| match entry.split_once('=') {
        Some(("", _)) => Err(anyhow::anyhow!("-e {entry:?}: the name is empty")),
        Some(_) => Ok(entry.clone()),
        None => Ok(format!("{entry}={}", std::env::var(entry).unwrap_or_default())),
    };
    entries.iter().map(entry).collect()
}

/// A number is only ever a number (CVE-2016-3697); a name is looked up on the host, and only where its root is used.
fn parse_user(user: &str, host_names: bool) -> anyhow::Result<(u32, u32)> {
    let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let number = |text: &str| parse_id(text).with_context(|| format!("--user {user:?}"));
    let group = group.map(number).transpose()?;
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        let uid = number(name)?;
        return Ok((uid, group.unwrap_or(0)));
    }
    ensure!(host_names, "--user {user:?}: with --rootfs it must be a number");
    let found = nix::unistd::User::from_name(name).ok().flatten();
    let found = found.with_context(|| format!("--user {user:?}: no such user on this host"))?;
    Ok((found.uid.as_raw(), group.unwrap_or(found.gid.as_raw())))
}

fn parse_volume(volume: &str) -> anyhow::Result<serde_json::Value> {
    let parts: Vec<&str> = volume.split(':').collect();
    let (source, destination, option) = match parts[..] {
        [source, destination] => (source, destination, "rw"),
        [source, destination, option @ ("ro" | "rw")] => (source, destination, option),
        _ => bail!("-v {volume:?}: expected SRC:DST or SRC:DST:ro"),
    };
    ensure!(source.starts_with('/') && destination.starts_with('/'), "-v {volume:?}: both paths must be absolute");
    Ok(serde_json::json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", option]}))
}

pub(super) fn parse_labels(labels: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let parse = |label: &String| {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        ensure!(!key.is_empty(), "--label {label:?}: the key is empty");
        Ok((key.to_owned(), value.to_owned()))
    };
    labels.iter().map(parse).collect()
}

pub(super) fn random_name() -> anyhow::Result<String> {
    let mut bytes = [0; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("random name")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
