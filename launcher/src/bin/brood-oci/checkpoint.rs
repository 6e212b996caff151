//! `checkpoint` and `restore`.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use brood_launcher::checkpoint::{self, CgroupsMode, DumpOptions, NetworkLock, Options, RestoreOptions};
use brood_launcher::config::{self, LoadOptions};
use brood_launcher::plan::Io;
use brood_launcher::prepare::{self, Order, Source};
use brood_launcher::spawn::Spawned;
use brood_launcher::state::{ContainerDir, Manager, Status};
use brood_launcher::{rootless, sys};
use clap::{Args, ValueEnum};

use crate::console::Console;
use crate::inherited::Inherited;
use crate::launch;
use crate::lifecycle;
use crate::runtime::Runtime;
use crate::signals::Forwarder;

/// Where images go that no option names, as with runc.
const DEFAULT_IMAGES: &str = "checkpoint";

/// Options that both commands have.
#[derive(Args)]
pub struct CommonArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Directory of the images
    #[arg(long, value_name = "DIR", default_value = DEFAULT_IMAGES)]
    image_path: PathBuf,
    /// Directory of CRIU's log and other files of its work [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Take open TCP connections along
    #[arg(long)]
    tcp_established: bool,
    /// Take unix sockets along whose other end is outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Take sessions and terminals along that were begun outside
    #[arg(long)]
    shell_job: bool,
    /// Take file locks along
    #[arg(long)]
    file_locks: bool,
    /// Move memory when it is asked for, by userfaultfd
    #[arg(long)]
    lazy_pages: bool,
    /// Free memory in older images that newer ones have
    #[arg(long)]
    auto_dedup: bool,
    /// What is done about cgroups [default: CRIU's]
    #[arg(long, value_enum, value_name = "MODE")]
    manage_cgroups_mode: Option<CgroupsModeArg>,
    /// Make a namespace of this kind, but without what was in it; that is always so for `network`
    #[arg(long, value_enum, value_name = "NAMESPACE")]
    empty_ns: Vec<EmptyNamespace>,
    /// How connections are kept still meanwhile [default: CRIU's]
    #[arg(long, value_enum, value_name = "METHOD")]
    network_lock: Option<NetworkLockArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum CgroupsModeArg {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Clone, Copy, ValueEnum)]
enum EmptyNamespace {
    Network,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetworkLockArg {
    Iptables,
    Nftables,
    Skip,
}

#[derive(Args)]
pub struct CheckpointArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Directory of an earlier --pre-dump, relative to that of the images
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container go on afterwards
    #[arg(long)]
    leave_running: bool,
    /// Leave TCP connections out that are not established yet
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give unlinked files a name again
    #[arg(long)]
    link_remap: bool,
    /// Descriptor that gets a NUL byte when the server of lazy pages listens
    #[arg(long, value_name = "FD", default_value_t = -1, allow_negative_numbers = true)]
    status_fd: RawFd,
    /// Send the memory to a page server
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    page_server: Option<(String, u16)>,
    /// Take the memory only, and let the container go on
    #[arg(long)]
    pre_dump: bool,
}

#[derive(Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Unix socket that receives the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Return when the container runs
    #[arg(short, long)]
    detach: bool,
    /// Write the init process's pid to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Leave orphans of the container to the host's init
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for the sake of callers: CRIU decides how the root is entered
    #[arg(long)]
    no_pivot: bool,
    /// Close TCP connections in place of restoring them
    #[arg(long)]
    tcp_close: bool,
    /// TYPE:NAME of another profile of a security module
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// Another security context for mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// Go on without what this version does not support, with a warning
    #[arg(long)]
    ignore_unsupported: bool,
}

fn page_server(text: &str) -> Result<(String, u16), String> {
    let usage = || "use --page-server ADDRESS:PORT".to_owned();
    let (address, port) = text.rsplit_once(':').ok_or_else(usage)?;
    // An IPv6 address stands in brackets, as with Go.
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let port = port.parse().ok().filter(|port| *port != 0).ok_or("invalid port number")?;
    if address.is_empty() { Err(usage()) } else { Ok((address.to_owned(), port)) }
}

impl CommonArgs {
    fn options(&self) -> Options {
        Options {
            images: self.image_path.clone(),
            work: self.work_path.clone(),
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            lazy_pages: self.lazy_pages,
            auto_dedup: self.auto_dedup,
            cgroups_mode: match self.manage_cgroups_mode {
                None => CgroupsMode::Default,
                Some(CgroupsModeArg::Soft) => CgroupsMode::Soft,
                Some(CgroupsModeArg::Full) => CgroupsMode::Full,
                Some(CgroupsModeArg::Strict) => CgroupsMode::Strict,
                Some(CgroupsModeArg::Ignore) => CgroupsMode::Ignore,
            },
            network_lock: self.network_lock.map(|method| match method {
                NetworkLockArg::Iptables => NetworkLock::Iptables,
                NetworkLockArg::Nftables => NetworkLock::Nftables,
                NetworkLockArg::Skip => NetworkLock::Skip,
            }),
        }
    }
}

pub fn checkpoint(runtime: &Runtime, args: CheckpointArgs) -> anyhow::Result<ExitCode> {
    let id = &args.common.id;
    let dir = runtime.find(id)?;
    warn_rootless(runtime, "checkpoint");
    match dir.status() {
        Status::Running | Status::Paused => {}
        status => bail!("container cannot be checkpointed in {status} state"),
    }
    let state = dir.read_state()?;
    let goes_on = args.leave_running || args.pre_dump;
    let of_daemon = state.manager == Manager::Daemon && runtime.root.has_daemon();
    ensure!(goes_on || !of_daemon, "container {id} belongs to the daemon that runs here: use --leave-running");
    let status_fd = inherited(args.status_fd)?;
    let options = DumpOptions {
        common: args.common.options(),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        parent: args.parent_path.filter(|path| !path.as_os_str().is_empty()),
        page_server: args.page_server,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        status_fd,
    };
    options.check_status_fd()?;
    ensure!(!state.bundle.as_os_str().is_empty(), "container {id} has no bundle: it could not be restored");
    let file = state.config_file();
    let spec = config::load_file(&file, LoadOptions { ignore_unsupported: true })?.spec;
    checkpoint::dump(&dir, &state, &spec, options, || {})?;
    if !goes_on {
        remove(runtime, &dir)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Its processes are gone. Whoever waits for its init process may be removing it as well.
fn remove(runtime: &Runtime, dir: &ContainerDir) -> anyhow::Result<()> {
    match lifecycle::remove(runtime, dir) {
        Err(error) if dir.path().exists() => Err(error),
        _ => Ok(()),
    }
}

fn inherited(number: RawFd) -> anyhow::Result<Option<OwnedFd>> {
    if number < 0 {
        return Ok(None);
    }
    ensure!(number > 2, "--status-fd {number}: one of the standard descriptors");
    let copy = sys::inherited(number).with_context(|| format!("--status-fd {number}"))?;
    // Whoever waits for the end of file is not to wait for us.
    let null = std::fs::File::open("/dev/null").context("/dev/null")?;
    sys::dup_to(null.as_fd(), number).context("--status-fd")?;
    Ok(Some(copy))
}

fn warn_rootless(runtime: &Runtime, command: &str) {
    if rootless::needed() {
        runtime.messages.warning(&format!("{command}: CRIU needs root; for an ordinary user it fails"));
    }
}

pub fn restore(runtime: &Runtime, args: RestoreArgs) -> anyhow::Result<ExitCode> {
    warn_rootless(runtime, "restore");
    // What our caller left open is nobody's business.
    drop(Inherited::take(0)?);
    sys::close_range_cloexec(3).context("close_range")?;
    if !args.no_subreaper && !args.detach {
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("PR_SET_CHILD_SUBREAPER")?;
    }
    let forwarder = if args.detach { None } else { Some(Forwarder::new()?) };
    let options = RestoreOptions {
        common: args.common.options(),
        tcp_close: args.tcp_close,
        lsm_profile: args.lsm_profile,
        lsm_mount_context: args.lsm_mount_context,
    };
    let order = Order {
        id: args.common.id,
        source: Source::Bundle { path: args.bundle, config: None },
        labels: Default::default(),
        park: false,
        manager: Manager::Caller,
        die_with_parent: None,
        ignore_unsupported: args.ignore_unsupported,
        auto_remove: false,
        cgroup: runtime.cgroups,
        no_pivot: args.no_pivot,
        new_keyring: true,
        preserve: Vec::new(),
        env: Vec::new(),
    };
    let reservation = prepare::reserve(&runtime.root, order)?;
    for note in &reservation.notes {
        runtime.messages.warning(note);
    }
    let (console, childs) = Console::open(reservation.terminal(), args.detach, args.console_socket.as_deref())?;
    let io = match childs {
        Some(socket) => Io::Terminal(socket),
        None => Io::Descriptors(launch::inherit().context("standard descriptors")?),
    };
    let restored = checkpoint::restore(&reservation, &io, &options)?;
    drop(io);
    runtime.messages.debug(&format!("process {}: restored", restored.pid));
    let spawned = Spawned { pid: restored.pid, pidfd: restored.pidfd, helper: None };
    if let Some(path) = &args.pid_file
        && let Err(error) = launch::write_pid_file(path, spawned.pid)
    {
        launch::end(&spawned)?;
        return Err(error);
    }
    let dir = reservation.reserved.keep();
    let Some(forwarder) = forwarder else { return Ok(ExitCode::SUCCESS) };
    let record = launch::wait(&forwarder, &spawned, console)?;
    launch::record_end(&dir, &record)?;
    lifecycle::remove(runtime, &dir)?;
    Ok(ExitCode::from(record.status))
}

#[cfg(test)]
mod tests {
    use super::page_server;

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        assert_eq!(page_server("10.0.0.1:27"), Ok(("10.0.0.1".to_owned(), 27)));
        assert_eq!(page_server("[::1]:27"), Ok(("::1".to_owned(), 27)));
        for wrong in ["", "host", ":27", "host:", "host:0", "host:65536", "host:x"] {
            assert!(page_server(wrong).is_err(), "{wrong}");
        }
    }
}
