//! The launch plan: all that can be decided about one container start before the clone.
//!
//! ```text
//! config.json --config::load--> Spec --plan::build--> Launch { plan, fds }
//!                                                        |  wire::encode (Cap'n Proto) + SCM_RIGHTS
//!                                                        v
//!                                        zygote --clone3--> child::run(&plan.steps) --> execve
//! ```
//!
//! A [`Plan`] holds no path of the host and no policy: host objects are descriptors, named by their [`FdIndex`] in the
//! list that travels beside the plan, and every choice (which path is searched, which flag a mount option means, who
//! owns a device) was made by [`build`]. What remains is an ordered list of [`Step`]s for the child.
//!
//! Not here: reading and checking config.json ([`crate::config`]), doing any of it ([`crate::child`]).

mod attributes;
mod bind;
mod build;
mod cgroup_mounts;
mod defaults;
mod exec;
mod hooks;
mod id_maps;
mod mount_options;
mod mounts;
mod process;
mod seccomp;
mod step;
pub mod wire;

use std::ffi::CString;
use std::num::NonZero;

pub use attributes::enabled;
pub use build::{BuildOptions, Io, PlanError, Stdio, build, needs_answers};
pub(crate) use cgroup_mounts::writes_to_cgroups;
pub use defaults::{DefaultBundle, default_spec};
pub use exec::{ExecOptions, build_exec};
pub use id_maps::AskedMaps;
pub use mount_options::known_options as known_mount_options;
pub(crate) use mounts::{BindTree, bind_trees};
pub use step::Step;

use crate::cgroup::Entrance;

/// Position of a descriptor in the list that accompanies a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdIndex(pub u16);

/// A plan and the descriptors that it names: what a launch consists of.
#[derive(Debug, Default)]
pub struct Launch {
    /// What to do.
    pub plan: Plan,
    /// The descriptors, in the order of their [`FdIndex`].
    pub fds: Vec<std::os::fd::OwnedFd>,
    /// What was taken in another way than it may have been meant: details for who debugs a profile.
    pub details: Vec<String>,
    /// The root of a container without a mount namespace, and its place: to be attached there before the clone.
    pub host_root: Option<(FdIndex, std::path::PathBuf)>,
    /// What the child will ask for ([`IdMap::Asked`]).
    pub asked_maps: AskedMaps,
}

impl Launch {
    /// Adds a descriptor and returns its index.
    ///
    /// # Panics
    /// At more than 65,535 descriptors, which no process may own here.
    pub fn add_fd(&mut self, fd: impl Into<std::os::fd::OwnedFd>) -> FdIndex {
        self.fds.push(fd.into());
        FdIndex(u16::try_from(self.fds.len() - 1).expect("a process has far fewer descriptors"))
    }

    /// The child is born in the cgroup v2 directory, and enters those of v1 before it does anything else.
    fn enter_cgroups(&mut self, entrance: Entrance, steps: &mut Vec<Step>) {
        self.plan.cgroup = entrance.birth.map(|directory| self.add_fd(directory));
        steps.extend(entrance.tasks.into_iter().map(|tasks| Step::JoinCgroup { tasks: self.add_fd(tasks) }));
    }
}

/// Everything that one clone, and the child made by it, must do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `CLONE_NEW*` bits for clone3(2). The cgroup and time namespaces are not among them: they are made by steps.
    pub clone_flags: u64,
    /// Of the child's new user namespace; beside a [`Plan::user_namespace`] those that it must have already.
    pub id_maps: Option<IdMaps>,
    /// A user namespace to be born in: joined by a process between the cloning one and the child, since there is no way
    /// back from it.
    pub user_namespace: Option<FdIndex>,
    /// Namespaces to be born in: setns(2) by the cloning process, before the clone. A pid namespace is joined in no other
    /// way; the rest when a user namespace of the child's own would deny it the right.
    pub born: Vec<Namespace>,
    /// Done by the cloning process, for a child that lost the privilege with its user namespace.
    pub oom_score_adj: Option<i32>,
    /// The same, by prlimit(2).
    pub rlimits: Vec<Rlimit>,
    /// Network devices of the host's that the cloning process moves into the child's network namespace.
    pub net_devices: Vec<NetDevice>,
    /// Descriptors that the program gets after standard error: the first as number 3, and so on.
    pub preserve: Vec<FdIndex>,
    /// A cgroup v2 directory to be born in (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<FdIndex>,
    /// Write end of the status pipe; the child's reports go there (`crate::report`).
    pub status: Option<FdIndex>,
    /// Whether directories are masked by the zygote's empty one ([`crate::zygote::EMPTY`]), and not by one of the container's own.
    pub zygotes_empty: bool,
    /// What the child does, in order. The last one is [`Step::Exec`].
    pub steps: Vec<Step>,
}

/// Identity mappings of a user namespace, in the text form of user_namespaces(7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Lines `inside outside count`, as written to `/proc/PID/uid_map`.
    pub uid_map: Vec<u8>,
    /// The same for `/proc/PID/gid_map`.
    pub gid_map: Vec<u8>,
}

/// A namespace to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Which kind.
    pub kind: NamespaceKind,
    /// The namespace.
    pub fd: FdIndex,
}

/// A resource limit, setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_*` number.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is infinity.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is infinity.
    pub hard: u64,
}

/// A network device to be moved (runtime-spec, config-linux, "Network Devices").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name in the network namespace of the cloning process.
    pub name: CString,
    /// Its name in the container.
    pub new_name: CString,
}

/// The container's state as JSON text, cut where a pid belongs that is known only after the clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateText {
    /// The pid stands between each two.
    pub parts: Vec<Vec<u8>>,
}

/// A program of the host's that the child runs in the container's namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Which list of config.json.
    pub kind: HookKind,
    /// Position in that list.
    pub index: u16,
    /// Absolute path.
    pub path: CString,
    /// Its arguments; `argv[0]` is free.
    pub argv: Vec<CString>,
    /// Its whole environment.
    pub env: Vec<CString>,
    /// Seconds until it is killed; 0 for never.
    pub timeout: u32,
    /// What it reads from its standard input; the pid is the child's own, as it sees it.
    pub state: StateText,
}

/// Hooks that run in the container's namespaces (runtime-spec, config, "POSIX-platform Hooks").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// Before the pivot; its path is the host's.
    CreateContainer,
    /// Right before the program; its path is the container's.
    StartContainer,
}

/// Arguments of sched_setattr(2), with its units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduler {
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// Nice value, for SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Static priority, for SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE, as the next two.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// Who understands a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityModule {
    /// apparmor(7)
    AppArmor,
    /// selinux(8)
    Selinux,
}

/// Where the listener of a seccomp filter goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeccompListener {
    /// A connected unix socket.
    pub socket: FdIndex,
    /// What is sent with it (runtime-spec, config-linux, "The Container Process State"); the pid is the host's.
    pub state: StateText,
}

/// Where a mount, device or link goes: an absolute path as the container sees it, resolved inside its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path, absolute.
    pub path: CString,
    /// Whether a missing target is made as a directory or as an empty file.
    pub kind: TargetKind,
    /// Refuse any symbolic link on the way (`/proc` and `/sys`: CVE-2019-19921, CVE-2023-27561).
    pub no_symlinks: bool,
    /// A link in the last place is itself mounted over (option `dest-nofollow`).
    pub no_follow: bool,
}

/// As what a child remembers a mount that it has made, from 1; `None` for one that nobody asks for later.
pub type Slot = Option<NonZero<u16>>;

/// A path that is masked or made read-only.
///
/// Names can change: whoever may rename the image's `/proc` moves the mount with it. So a path below a mount of the plan is
/// resolved from that mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenPath {
    /// Absolute, as the container sees it.
    pub path: CString,
    /// The mount below which it lies.
    pub slot: Slot,
    /// The rest of the path, below that mount; `.` for the mount itself.
    pub below: CString,
}

/// Where the tree of a bind mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeSource {
    /// Opened before the clone, by open_tree(2) with `OPEN_TREE_CLONE`.
    Opened(FdIndex),
    /// A path of the container's, on what earlier steps have mounted there.
    Container {
        /// Absolute, as the container sees it.
        path: CString,
        /// With all mounts below it (option `rbind`).
        recursive: bool,
        /// A link in the last place is meant itself (option `src-nofollow`).
        no_follow: bool,
    },
}

/// What a missing mount target is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// `mkdir`, mode 0755.
    Directory,
    /// An empty regular file, mode 0644.
    File,
}

/// Attributes for mount_setattr(2): `MOUNT_ATTR_*` bits to set and clear, once for the mount itself and once for
/// everything below it (the `rro`, `rnosuid` ... family), and the propagation (`MS_PRIVATE` ...; 0 leaves it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttrs {
    /// Bits set on the mount.
    pub set: u64,
    /// Bits cleared on the mount.
    pub clear: u64,
    /// Bits set on the mount and all below.
    pub recursive_set: u64,
    /// Bits cleared on the mount and all below.
    pub recursive_clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    /// Whether the propagation applies to all mounts below as well.
    pub propagation_recursive: bool,
    /// The identity maps of the mount.
    pub id_map: IdMap,
}

/// How a mount gets identity maps (`MOUNT_ATTR_IDMAP`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdMap {
    /// It has none.
    #[default]
    None,
    /// The child sets them.
    Own {
        /// The user namespace that has them.
        namespace: FdIndex,
        /// Whether all mounts below get them as well.
        recursive: bool,
    },
    /// Whoever launches sets them, asked by the child, which in a user namespace has no right to: [`AskedMaps`].
    Asked(u16),
}

/// A file system parameter for fsconfig(2): `key` alone is a flag, `key=value` a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsParameter {
    /// Parameter name, e.g. `mode`.
    pub key: CString,
    /// Its value, e.g. `0755`; `None` for a flag such as `sync`.
    pub value: Option<CString>,
}

/// A kind of namespace that is joined by descriptor; for user namespaces see [`Plan::user_namespace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceKind {
    /// network_namespaces(7)
    Network,
    /// ipc_namespaces(7)
    Ipc,
    /// uts_namespaces(7)
    Uts,
    /// cgroup_namespaces(7)
    Cgroup,
    /// pid_namespaces(7); only before the clone.
    Pid,
    /// mount_namespaces(7)
    Mount,
    /// time_namespaces(7)
    Time,
}

impl NamespaceKind {
    /// The kind's `CLONE_NEW*` bit.
    #[must_use]
    pub fn flag(self) -> i32 {
        match self {
            NamespaceKind::Network => libc::CLONE_NEWNET,
            NamespaceKind::Ipc => libc::CLONE_NEWIPC,
            NamespaceKind::Uts => libc::CLONE_NEWUTS,
            NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
            NamespaceKind::Pid => libc::CLONE_NEWPID,
            NamespaceKind::Mount => libc::CLONE_NEWNS,
            NamespaceKind::Time => libc::CLONE_NEWTIME,
        }
    }

    /// Its file below `/proc/PID/ns`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            NamespaceKind::Network => "net",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Mount => "mnt",
            NamespaceKind::Time => "time",
        }
    }
}

/// The five capability sets of capabilities(7), one bit per capability number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// Effective set.
    pub effective: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Ambient set.
    pub ambient: u64,
}
