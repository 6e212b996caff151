//! Everything before the clone, all or nothing: the configuration, the name, the state files, the cgroup, the plan.
//! Used alike by the supervisor (on a thread that may block) and by the daemonless `brood-oci`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use rustix::pipe::PipeFlags;

use crate::cgroup::{CgroupError, Cgroups, Host, LimitError, Limits};
use crate::config::{self, ConfigError, IdError, LoadOptions};
use crate::plan::{self, BuildOptions, Io, Launch, PlanError};
use crate::state::{ContainerDir, ContainerState, INIT, Kept, Manager, PidRecord, StateError, StateRoot};

/// Why a container could not be prepared. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The container's name.
    #[error("container {0}")]
    Id(#[from] IdError),
    /// The bundle or its config.json.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that config.json names.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The cgroup.
    #[error("linux.cgroupsPath: {0}")]
    Cgroup(#[from] CgroupError),
    /// The host has no place for the cgroup that the configuration asks for.
    #[error("config.json: linux.cgroupsPath: the host has no writable cgroup hierarchy")]
    NoCgroup,
    /// A limit makes no sense, or the host or the kernel refuses it.
    #[error("config.json: {0}")]
    Limit(#[from] LimitError),
    /// What the caller was to give as descriptors or terminal.
    #[error("{0}")]
    Io(String),
    /// A pipe or descriptor could not be had.
    #[error("status pipe: {}", crate::report::errno_text(*.0))]
    Pipe(rustix::io::Errno),
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A bundle directory, and a configuration file elsewhere if given.
    Bundle {
        /// The directory.
        path: PathBuf,
        /// Instead of `<bundle>/config.json`.
        config: Option<PathBuf>,
    },
    /// The text of a configuration without a bundle ([`plan::default_spec`]); its paths are absolute.
    Inline {
        /// A config.json.
        config: Vec<u8>,
        /// The root is a throw-away layer over the host's root, and root.path is not looked at.
        host_overlay: bool,
    },
}

/// A container to be prepared.
#[derive(Debug)]
pub struct Order {
    /// Its name.
    pub id: String,
    /// Its configuration.
    pub source: Source,
    /// Labels for the state file.
    pub labels: BTreeMap<String, String>,
    /// Wait for `start` after set-up.
    pub park: bool,
    /// Who looks after it; all but [`Manager::Caller`] clone by zygote.
    pub manager: Manager,
    /// Signal for it when its launcher dies.
    pub die_with_parent: Option<u32>,
    /// Go on without what is not supported.
    pub ignore_unsupported: bool,
    /// For the state file.
    pub auto_remove: bool,
    /// Whether it gets a cgroup of its own.
    pub cgroup: bool,
    /// Without pivot_root(2), for hosts whose root is the initramfs.
    pub no_pivot: bool,
    /// Whether it gets a session keyring of its own.
    pub new_keyring: bool,
    /// Descriptors that the program gets after standard error.
    pub preserve: Vec<OwnedFd>,
    /// Added to the environment of the configuration.
    pub env: Vec<String>,
}

/// A prepared container: launch it, then [`Reserved::keep`] it.
#[derive(Debug)]
pub struct Prepared {
    /// For [`crate::spawn`] or a zygote.
    pub launch: Launch,
    /// Our end of the status pipe ([`crate::report`]), or of the status socket, where hooks are to be run.
    pub status: OwnedFd,
    /// What of the configuration is needed after the launch; its hooks are the caller's to run.
    pub kept: Kept,
    /// As written to `state.json`.
    pub state: ContainerState,
    /// What was ignored or migrated, one line each.
    pub notes: Vec<String>,
    /// The name and what hangs on it.
    pub reserved: Reserved,
}

/// A reserved name with its directory and cgroup. Dropping it undoes all of that, unless it is kept.
#[derive(Debug)]
pub struct Reserved {
    dir: ContainerDir,
    /// Made for it.
    cgroups: Cgroups,
    kept: bool,
}

impl Reserved {
    /// The container's folder.
    #[must_use]
    pub fn dir(&self) -> &ContainerDir {
        &self.dir
    }

    /// Records the clone.
    ///
    /// # Errors
    /// The state directory refuses.
    pub fn record_pid(&self, pid: i32) -> Result<PidRecord, StateError> {
        self.dir.process(INIT).record_pid(pid, false)
    }

    /// The container exists now: from here on `delete` is what removes it.
    #[must_use]
    pub fn keep(mut self) -> ContainerDir {
        self.kept = true;
        self.dir.clone()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            // An unborn container's cgroups are empty, so nothing is killed and nothing waits, unless a launch was given up
            // so late that there is a child, which is being killed.
            let _ = self.cgroups.kill_and_remove(std::time::Duration::from_secs(1));
            let _ = self.dir.remove();
        }
    }
}

/// Prepares a container. `io` is asked for once the container's folder exists, since it may hold the output files; it is
/// told whether the configuration asks for a terminal.
///
/// # Errors
/// One line that names the field, path or step; nothing is left behind.
pub fn prepare(
    root: &StateRoot,
    order: Order,
    io: impl FnOnce(&ContainerDir, bool) -> Result<Io, PrepareError>,
) -> Result<Prepared, PrepareError> {
    config::check_id(&order.id)?;
    let (mut spec, mut notes, bundle) = load(&order)?;
    if let Some(process) = spec.process_mut().as_mut().filter(|_| !order.env.is_empty()) {
        process.env_mut().get_or_insert_default().extend(order.env);
    }
    let (mut limits, mut cgroups) = (Limits::default(), Cgroups::default());
    if order.cgroup {
        let host = Host::find();
        limits = limits_of(&spec, host, order.ignore_unsupported, &mut notes)?;
        cgroups = places(root, &order.id, &spec, host, &limits)?;
    }
    let mut state = ContainerState {
        oci_version: spec.version().clone(),
        rootfs: spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default(),
        bundle: if matches!(order.source, Source::Bundle { .. }) { bundle.clone() } else { PathBuf::new() },
        annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        labels: order.labels,
        created: jiff::Timestamp::now().to_string(),
        cgroups,
        owner: rustix::process::getuid().as_raw(),
        manager: order.manager,
        auto_remove: order.auto_remove,
        embedded_in: (order.manager == Manager::Embedded).then(own_record),
        id: order.id,
    };
    let dir = root.reserve(&state)?;
    let mut reserved = Reserved { dir, cgroups: Cgroups::default(), kept: false };
    let planned = state.cgroups.clone();
    state.cgroups.make()?;
    reserved.cgroups.clone_from(&state.cgroups);
    if state.cgroups != planned {
        reserved.dir.write_state(&state)?;
    }
    let few_processes = few_processes(&mut limits, &state.cgroups)?;
    limits.apply(&state.cgroups)?;
    let entrance = state.cgroups.entrance()?;
    let mut terminal = false;
    if let Some(process) = spec.process() {
        terminal = process.terminal().unwrap_or(false);
        reserved.dir.process(INIT).create(process)?;
    }
    let kept = Kept { callers_keyring: !order.new_keyring, ..Kept::of(&spec) };
    reserved.dir.write_kept(&kept)?;
    let park = if order.park { Some(reserved.dir.start_socket().listen()?) } else { None };
    let (status, childs_status) = status(&spec).map_err(PrepareError::Pipe)?;
    let without_cgroup = order.cgroup && state.cgroups.is_empty();
    let mut launch = plan::build(
        &spec,
        BuildOptions {
            bundle,
            host_overlay: matches!(order.source, Source::Inline { host_overlay: true, .. }),
            container: state.clone(),
            io: io(&reserved.dir, terminal)?,
            preserve: order.preserve,
            status: childs_status,
            no_pivot: order.no_pivot,
            new_keyring: order.new_keyring,
            park,
            cgroups: entrance,
            few_processes,
            from_zygote: order.manager != Manager::Caller,
            die_with_parent: order.die_with_parent,
        },
    )?;
    if without_cgroup {
        launch.details.push("no writable cgroup hierarchy: the container has no cgroup of its own".to_owned());
    }
    Ok(Prepared { launch, status, kept, state, notes, reserved })
}

/// Our end and the child's.
fn status(spec: &Spec) -> Result<(OwnedFd, OwnedFd), rustix::io::Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    if plan::needs_answers(spec) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
    } else {
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
    }
}

fn own_record() -> PidRecord {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    PidRecord { pid, start_time: crate::state::start_time(pid).unwrap_or(0) }
}

fn load(order: &Order) -> Result<(Spec, Vec<String>, PathBuf), PrepareError> {
    let options = LoadOptions { ignore_unsupported: order.ignore_unsupported };
    match &order.source {
        Source::Bundle { path, config } => {
            let loaded = match config {
                Some(file) => config::load_file(file, options)?,
                None => config::load(path, options)?,
            };
            let bundle = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Ok((loaded.spec, loaded.notes, bundle))
        }
        Source::Inline { config, .. } => {
            let (spec, mut notes) = config::parse(config)?;
            notes.extend(config::validate(&spec)?);
            notes.extend(config::check_supported(&spec, order.ignore_unsupported)?);
            Ok((spec, notes, PathBuf::from("/")))
        }
    }
}

/// What `linux.resources` asks for; notes on what the host lacks, if that is to be ignored.
fn limits_of(spec: &Spec, host: &Host, ignore: bool, notes: &mut Vec<String>) -> Result<Limits, PrepareError> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let mut limits = Limits::of_new(resources, host)?;
    for refusal in limits.take_lacking(host) {
        if !ignore {
            return Err(refusal.into());
        }
        notes.push(format!("{refusal}, ignored"));
    }
    Ok(limits)
}

/// Where the container's cgroups go, if there are to be any.
fn places(root: &StateRoot, id: &str, spec: &Spec, host: &Host, limits: &Limits) -> Result<Cgroups, PrepareError> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let wanted = wanted.filter(|path| !path.as_os_str().is_empty());
    let cgroups = Cgroups::plan(host, &limits.controllers(), |hierarchy| hierarchy.place(root.path(), id, wanted));
    if wanted.is_some() && cgroups.is_empty() { Err(PrepareError::NoCgroup) } else { Ok(cgroups) }
}

/// A limit on processes that the child itself is to write: the open file, and the text.
fn few_processes(limits: &mut Limits, cgroups: &Cgroups) -> Result<Option<(OwnedFd, String)>, LimitError> {
    let Some(setting) = limits.take_few_processes() else { return Ok(None) };
    setting.open(cgroups).map(|file| Some((file, setting.value)))
}
