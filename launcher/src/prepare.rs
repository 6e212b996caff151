//! Everything before the clone, all or nothing: the configuration, the name, the state files, the cgroup, the plan.
//! Used alike by the supervisor (on a thread that may block) and by the daemonless `brood-oci`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::pipe::PipeFlags;

use crate::cgroup::{
    Anchor, CgroupError, Cgroups, Entrance, Hierarchy, Host, ID_BYTES_MAX, LimitError, Limits, ScopeOrder, StartError,
};
use crate::config::{self, ConfigError, IdError, LoadOptions};
use crate::host_root::HostRoot;
use crate::plan::{self, BuildOptions, FdIndex, Io, Launch, PlanError};
use crate::resctrl::{self, Group, Resctrl, ResctrlError};
use crate::state::{ContainerDir, ContainerState, INIT, Kept, Manager, Ordered, PidRecord, StateError, StateRoot};

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
    /// The cgroup, by way of systemd.
    #[error(transparent)]
    Scope(#[from] StartError),
    /// The host has no place for the cgroup that the configuration asks for.
    #[error("config.json: linux.cgroupsPath: the host has no writable cgroup hierarchy")]
    NoCgroup,
    /// A limit makes no sense, or the host or the kernel refuses it.
    #[error("config.json: {0}")]
    Limit(#[from] LimitError),
    /// A group of resctrl.
    #[error("config.json: {0}")]
    Resctrl(#[from] ResctrlError),
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

/// Who makes a container's cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupManager {
    /// Nobody: it has none.
    Nobody,
    /// We do, as directories.
    Ourselves,
    /// systemd, as a scope.
    Systemd,
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
    /// Whether it gets a cgroup of its own, and by whom.
    pub cgroup: CgroupManager,
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
    /// Made for it.
    resctrl: Option<Group>,
    /// Keeps an empty scope from ending.
    anchor: Option<Anchor>,
    /// Attached for it.
    host_root: Option<HostRoot>,
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
        self.dir.process(INIT).record_pid(pid, None, Ordered::default())
    }

    /// Puts the root of a container without a mount namespace in its place, once it is written down.
    fn attach(
        &mut self,
        state: &mut ContainerState,
        launch: &Launch,
        tree: FdIndex,
        path: PathBuf,
    ) -> Result<(), PrepareError> {
        let refused = |path: &Path, errno| PrepareError::Plan(PlanError::path("root.path", path, errno));
        let tree = launch.fds[usize::from(tree.0)].as_fd();
        let root = HostRoot::of(tree, path.clone()).map_err(|errno| refused(&path, errno))?;
        state.host_root = Some(root.clone());
        self.dir.write_state(state)?;
        // Ours to take away from here on, however far attaching it comes.
        self.host_root.insert(root).attach(tree).map_err(|errno| refused(&path, errno))
    }

    /// Once its process is in its cgroup nobody else has to be: what is returned is to be dropped, which waits for an end.
    #[must_use]
    pub fn take_anchor(&mut self) -> Option<Anchor> {
        self.anchor.take()
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
        self.anchor = None;
        if !self.kept {
            // An unborn container's cgroups are empty, so nothing is killed and nothing waits, unless a launch was given up
            // so late that there is a child, which is being killed.
            let _ = self.cgroups.kill_and_remove(std::time::Duration::from_secs(1));
            let _ = self.host_root.as_ref().map(HostRoot::detach);
            let _ = self.resctrl.as_ref().map(Group::remove);
            let _ = self.dir.remove();
        }
    }
}

/// A container with a name, a folder and a cgroup, and no process yet. Dropping it undoes all of that.
#[derive(Debug)]
pub struct Reservation {
    /// Its configuration.
    pub spec: Spec,
    /// Where relative paths of that start.
    pub bundle: PathBuf,
    /// As written to `state.json`.
    pub state: ContainerState,
    /// As written to `kept.json`.
    pub kept: Kept,
    /// What was ignored or migrated, one line each.
    pub notes: Vec<String>,
    /// The name and what hangs on it.
    pub reserved: Reserved,
    /// A limit on processes that is too low for those who set a process up: the open file, and the text.
    pub few_processes: Option<(OwnedFd, String)>,
    /// For the clone.
    entrance: Entrance,
    order: Order,
}

impl Reservation {
    /// Whether the configuration asks for a terminal.
    #[must_use]
    pub fn terminal(&self) -> bool {
        self.spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false))
    }

    /// Whether the end of its init process is the end of all its processes.
    #[must_use]
    pub fn owns_pid_namespace(&self) -> bool {
        let list = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let mut pids = list.into_iter().flatten().filter(|namespace| namespace.typ() == LinuxNamespaceType::Pid);
        pids.any(|namespace| namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty()))
    }
}

/// Takes the name and makes what a container has before its first process.
///
/// # Errors
/// One line that names the field or path; nothing is left behind.
pub fn reserve(root: &StateRoot, mut order: Order) -> Result<Reservation, PrepareError> {
    config::check_id(&order.id)?;
    let (mut spec, mut notes, bundle) = load(&order)?;
    if let Some(process) = spec.process_mut().as_mut().filter(|_| !order.env.is_empty()) {
        process.env_mut().get_or_insert_default().append(&mut order.env);
    }
    let (mut limits, mut cgroups, mut scope) = (Limits::default(), Cgroups::default(), None);
    let host = if order.cgroup == CgroupManager::Systemd { Host::whole() } else { Host::find() };
    if order.cgroup != CgroupManager::Nobody {
        limits = limits_of(&spec, host, order.ignore_unsupported, &mut notes)?;
    }
    match order.cgroup {
        CgroupManager::Nobody => {}
        CgroupManager::Ourselves => cgroups = places(root, &order, &spec, host, &limits)?,
        CgroupManager::Systemd => scope = Some(scope_of(&spec, &order.id)?),
    }
    let resctrl = resctrl_of(&spec, &order.id)?;
    let mut state = ContainerState {
        oci_version: spec.version().clone(),
        rootfs: spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default(),
        bundle: if matches!(order.source, Source::Bundle { .. }) { bundle.clone() } else { PathBuf::new() },
        config: match &order.source {
            Source::Bundle { config: Some(file), .. } => std::path::absolute(file).ok(),
            _ => None,
        },
        annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        labels: std::mem::take(&mut order.labels),
        created: jiff::Timestamp::now().to_string(),
        cgroups,
        host_root: None,
        resctrl: resctrl.as_ref().map(|wanted| wanted.group().clone()),
        owner: rustix::process::getuid().as_raw(),
        manager: order.manager,
        auto_remove: order.auto_remove,
        embedded_in: (order.manager == Manager::Embedded).then(own_record),
        creator: (order.manager == Manager::Caller).then(own_record),
        id: std::mem::take(&mut order.id),
    };
    let dir = root.reserve(&state)?;
    let mut reserved =
        Reserved { dir, cgroups: Cgroups::default(), resctrl: None, anchor: None, host_root: None, kept: false };
    let planned = state.cgroups.clone();
    match scope {
        None => state.cgroups.make()?,
        Some(scope) => {
            // Should we be killed before it is written down, it ends by itself: nobody is in it.
            let started = state.cgroups.start_scope(scope, host, &limits);
            reserved.cgroups.clone_from(&state.cgroups);
            reserved.anchor = Some(started?);
        }
    }
    reserved.cgroups.clone_from(&state.cgroups);
    if state.cgroups != planned {
        reserved.dir.write_state(&state)?;
    }
    let few_processes = few_processes(&mut limits, &state.cgroups)?;
    limits.apply(&state.cgroups)?;
    let mut entrance = state.cgroups.entrance()?;
    if let Some(wanted) = resctrl {
        wanted.make()?;
        reserved.resctrl.clone_from(&state.resctrl);
        entrance.tasks.extend(wanted.group().entrance()?);
    }
    if let Some(process) = spec.process() {
        reserved.dir.process(INIT).create(process)?;
    }
    let kept = Kept { callers_keyring: !order.new_keyring, ..Kept::of(&spec) };
    reserved.dir.write_kept(&kept)?;
    Ok(Reservation { spec, bundle, state, kept, notes, reserved, few_processes, entrance, order })
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
    let reservation = reserve(root, order)?;
    let terminal = reservation.terminal();
    let Reservation { spec, bundle, mut state, kept, notes, mut reserved, few_processes, entrance, order } =
        reservation;
    let park = if order.park { Some(reserved.dir.start_socket().listen()?) } else { None };
    let (status, childs_status) = status(&spec).map_err(PrepareError::Pipe)?;
    let without_cgroup = order.cgroup != CgroupManager::Nobody && state.cgroups.is_empty();
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
    if let Some((tree, path)) = launch.host_root.take() {
        reserved.attach(&mut state, &launch, tree, path)?;
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
fn places(root: &StateRoot, order: &Order, spec: &Spec, host: &Host, limits: &Limits) -> Result<Cgroups, PrepareError> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let wanted = wanted.filter(|path| !path.as_os_str().is_empty());
    // As with runc: who calls brood-oci finds it by the container's name, unless another state directory has one of that name.
    let id = Path::new(&order.id);
    let is_free = || !host.hierarchies().any(|hierarchy| hierarchy.place(root.path(), &order.id, Some(id)).exists());
    let by_name = wanted.is_none() && order.manager == Manager::Caller && order.id.len() <= ID_BYTES_MAX && is_free();
    let given = if by_name { Some(id) } else { wanted };
    let place = |hierarchy: &Hierarchy| hierarchy.place(root.path(), &order.id, given);
    let cgroups = Cgroups::plan(host, &limits.controllers(), plan::writes_to_cgroups(spec), place);
    if wanted.is_some() && cgroups.is_empty() { Err(PrepareError::NoCgroup) } else { Ok(cgroups) }
}

/// The scope that the configuration asks for.
fn scope_of(spec: &Spec, id: &str) -> Result<ScopeOrder, StartError> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let path = path.unwrap_or(Path::new("")).to_string_lossy();
    let annotations = spec.annotations().clone().unwrap_or_default();
    Ok(ScopeOrder::new(&path, id, &annotations)?)
}

/// The group of resctrl that the configuration asks for. Without one mounted, that was to be ignored.
fn resctrl_of(spec: &Spec, id: &str) -> Result<Option<resctrl::Wanted>, ResctrlError> {
    let rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let found = rdt.and_then(|rdt| Some((rdt, Resctrl::find()?)));
    found.map(|(rdt, resctrl)| resctrl.plan(rdt, id)).transpose()
}

/// A limit on processes that the child itself is to write: the open file, and the text.
fn few_processes(limits: &mut Limits, cgroups: &Cgroups) -> Result<Option<(OwnedFd, String)>, LimitError> {
    let Some(setting) = limits.take_few_processes() else { return Ok(None) };
    setting.open(cgroups).map(|file| Some((file, setting.value)))
}
