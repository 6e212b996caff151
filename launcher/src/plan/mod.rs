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

mod build;
mod cgroup_mounts;
mod defaults;
mod exec;
mod mounts;
mod process;
pub mod wire;

use std::ffi::CString;

use crate::seccomp::Instruction;

pub use build::{BuildOptions, PlanError, Stdio, build};
pub use defaults::{DefaultBundle, default_spec};
pub use exec::{ExecOptions, build_exec};
pub use mounts::known_options as known_mount_options;

/// Position of a descriptor in the list that accompanies a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdIndex(pub u16);

/// A plan and the descriptors that it names: what a launch consists of.
#[derive(Debug)]
pub struct Launch {
    /// What to do.
    pub plan: Plan,
    /// The descriptors, in the order of their [`FdIndex`].
    pub fds: Vec<std::os::fd::OwnedFd>,
    /// What was taken in another way than it may have been meant: details for who debugs a profile.
    pub details: Vec<String>,
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
}

/// Everything that one clone, and the child made by it, must do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `CLONE_NEW*` bits for clone3(2). The cgroup and time namespaces are not among them: they are made by steps.
    pub clone_flags: u64,
    /// Present when the child gets a user namespace of its own.
    pub id_maps: Option<IdMaps>,
    /// A pid namespace to be born in (setns(2) by the cloning process, before the clone).
    pub pid_namespace: Option<FdIndex>,
    /// A cgroup v2 directory to be born in (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<FdIndex>,
    /// Write end of the status pipe; the child's reports go there (`crate::report`).
    pub status: Option<FdIndex>,
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

/// Where a mount, device or link goes: an absolute path as the container sees it, resolved inside its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path, absolute.
    pub path: CString,
    /// Whether a missing target is made as a directory or as an empty file.
    pub kind: TargetKind,
    /// Refuse any symbolic link on the way (`/proc` and `/sys`: CVE-2019-19921, CVE-2023-27561).
    pub no_symlinks: bool,
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
}

/// A file system parameter for fsconfig(2): `key` alone is a flag, `key=value` a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsParameter {
    /// Parameter name, e.g. `mode`.
    pub key: CString,
    /// Its value, e.g. `0755`; `None` for a flag such as `sync`.
    pub value: Option<CString>,
}

/// A namespace that a step joins by descriptor.
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

/// One thing that the child does. This enum is the only list of steps: wire form, names, error texts and the
/// fault-injection tests follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait until the parent has written the identity maps, then become root of the new user namespace.
    EnterUserNamespace,
    /// Join an existing namespace.
    JoinNamespace {
        /// Which kind.
        kind: NamespaceKind,
        /// The namespace.
        fd: FdIndex,
    },
    /// Join the namespaces of a container's init process (an exec): all in one setns(2) by its pidfd, Linux 5.8.
    JoinContainer {
        /// The init process.
        pidfd: FdIndex,
        /// `CLONE_NEW*` bits of the namespaces that differ from ours. The pid namespace is joined before the clone
        /// ([`Plan::pid_namespace`]).
        namespaces: u32,
    },
    /// `setsid`: the container gets a session of its own, away from our terminal.
    NewSession,
    /// `unshare(CLONE_NEWCGROUP)`: here, because the namespace's root is the cgroup that the CALLER is in.
    NewCgroupNamespace,
    /// `unshare(CLONE_NEWTIME)` and its clock offsets; in force from the exec on (Linux 6.1).
    NewTimeNamespace {
        /// The text for `/proc/self/timens_offsets`, lines `clock seconds nanoseconds`; may be empty.
        offsets: Vec<u8>,
    },
    /// Bring `lo` up in the new network namespace.
    LoopbackUp,
    /// sethostname(2)
    Hostname(CString),
    /// setdomainname(2)
    Domainname(CString),
    /// Make every mount of this namespace private; only needed where the namespace is a copy of the host's.
    PrivateMounts,
    /// Attach a detached tree as the coming root directory.
    AttachRoot {
        /// From open_tree(2) with `OPEN_TREE_CLONE`.
        tree: FdIndex,
    },
    /// Make the coming root an overlay: `lower` read-only below, a fresh tmpfs above that goes with the container.
    OverlayRoot {
        /// From open_tree(2) with `OPEN_TREE_CLONE`.
        lower: FdIndex,
        /// `size=` of the tmpfs that holds the upper layer; empty for the kernel's default (half of memory).
        upper_size: CString,
    },
    /// Make a new file system and attach it.
    MountFilesystem {
        /// Position in config.json's `mounts`, for messages.
        index: u16,
        /// Where.
        target: Target,
        /// File system type, e.g. `tmpfs`.
        fstype: CString,
        /// Shown as the source in mountinfo.
        source: CString,
        /// Superblock parameters, in order.
        parameters: Vec<FsParameter>,
        /// Mount attributes.
        attrs: MountAttrs,
    },
    /// Attach a detached tree (a bind mount; the source was opened before the clone).
    MountTree {
        /// Position in config.json's `mounts`, for messages; `u16::MAX` for mounts of our own (devices).
        index: u16,
        /// Where.
        target: Target,
        /// From open_tree(2) with `OPEN_TREE_CLONE`.
        tree: FdIndex,
        /// Mount attributes.
        attrs: MountAttrs,
    },
    /// Change the attributes of what is mounted at the target already (option `remount`).
    Remount {
        /// Position in config.json's `mounts`, for messages.
        index: u16,
        /// Where.
        target: Target,
        /// Mount attributes.
        attrs: MountAttrs,
    },
    /// mknod(2) inside the root, then owner and mode.
    Device {
        /// Absolute path inside the container.
        path: CString,
        /// File type and permissions (`S_IFCHR | 0o666`).
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// symlink(2) inside the root; an existing entry stays.
    Symlink {
        /// Absolute path of the link inside the container.
        path: CString,
        /// What it says.
        to: CString,
    },
    /// pivot_root(2) into the coming root and let go of the old one.
    PivotRoot,
    /// Make the root mount read-only.
    ReadonlyRoot,
    /// Make a path read-only by a bind mount upon itself; a missing path is fine.
    ReadonlyPath(CString),
    /// Hide a path: a directory under an empty read-only one, a file under the container's
    /// /dev/null, verified to be character device 1:3 (CVE-2025-31133); a missing path is fine.
    MaskPath(CString),
    /// umask(2)
    Umask(u32),
    /// `/proc/self/oom_score_adj`
    OomScoreAdj(i32),
    /// setrlimit(2)
    Rlimit {
        /// `RLIMIT_*` number.
        resource: u32,
        /// Soft limit; `u64::MAX` is infinity.
        soft: u64,
        /// Hard limit; `u64::MAX` is infinity.
        hard: u64,
    },
    /// Put the three descriptors at 0, 1 and 2 and let the container's user own the pipes and files among them.
    Stdio {
        /// Standard input.
        stdin: FdIndex,
        /// Standard output.
        stdout: FdIndex,
        /// Standard error.
        stderr: FdIndex,
        /// The container's user, in its own numbering.
        uid: u32,
    },
    /// chdir(2), and proof that the result lies inside the root (CVE-2024-21626).
    WorkingDirectory(CString),
    /// Drop every capability that is not in the mask from the bounding set.
    BoundingSet(u64),
    /// setgroups(2), setresgid(2), setresuid(2), capabilities kept across.
    Identity {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
        /// False where the user namespace denies setgroups(2).
        set_groups: bool,
    },
    /// capset(2) and the ambient set.
    Capabilities(CapabilitySets),
    /// `PR_SET_NO_NEW_PRIVS`
    NoNewPrivileges,
    /// seccomp(2). With no_new_privs it is the last step before the exec; without, it needs a privilege that is dropped.
    Seccomp {
        /// The compiled profile ([`crate::seccomp::compile`]).
        program: Vec<Instruction>,
        /// `SECCOMP_FILTER_FLAG_*`
        flags: u32,
    },
    /// `PR_SET_PDEATHSIG`: the signal that the container gets when the process that started it is gone.
    DieWithParent(u32),
    /// Find the program: the first candidate that may be executed. 127 when there is none, 126 when one is not executable.
    FindExecutable {
        /// Paths to try, in order.
        candidates: Vec<CString>,
    },
    /// Report `ready` and wait at the listening socket until somebody connects (`start`).
    Park {
        /// A listening SOCK_SEQPACKET unix socket.
        socket: FdIndex,
    },
    /// Close all else and execve(2) what FindExecutable found.
    Exec {
        /// argv
        argv: Vec<CString>,
        /// envp, `KEY=value`
        env: Vec<CString>,
    },
}

impl Step {
    /// How many kinds of steps there are.
    pub const KINDS: usize = 35;

    /// The step's name as errors, logs and documents give it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Step::EnterUserNamespace => "enter user namespace",
            Step::JoinNamespace { .. } => "join namespace",
            Step::JoinContainer { .. } => "join container",
            Step::NewSession => "new session",
            Step::NewCgroupNamespace => "new cgroup namespace",
            Step::NewTimeNamespace { .. } => "new time namespace",
            Step::LoopbackUp => "loopback up",
            Step::Hostname(_) => "hostname",
            Step::Domainname(_) => "domainname",
            Step::PrivateMounts => "private mounts",
            Step::AttachRoot { .. } => "attach root",
            Step::OverlayRoot { .. } => "overlay root",
            Step::MountFilesystem { .. } => "mount file system",
            Step::MountTree { .. } => "bind mount",
            Step::Remount { .. } => "remount",
            Step::Device { .. } => "device",
            Step::Symlink { .. } => "symlink",
            Step::PivotRoot => "pivot root",
            Step::ReadonlyRoot => "read-only root",
            Step::ReadonlyPath(_) => "read-only path",
            Step::MaskPath(_) => "mask path",
            Step::Umask(_) => "umask",
            Step::OomScoreAdj(_) => "oom score",
            Step::Rlimit { .. } => "rlimit",
            Step::Stdio { .. } => "stdio",
            Step::WorkingDirectory(_) => "working directory",
            Step::BoundingSet(_) => "bounding set",
            Step::Identity { .. } => "identity",
            Step::Capabilities(_) => "capabilities",
            Step::NoNewPrivileges => "no new privileges",
            Step::Seccomp { .. } => "seccomp",
            Step::DieWithParent(_) => "die with parent",
            Step::FindExecutable { .. } => "find executable",
            Step::Park { .. } => "park",
            Step::Exec { .. } => "exec",
        }
    }

    /// What the step acts upon, in config.json's words where there is one: the middle of an error message.
    #[must_use]
    pub fn object(&self) -> String {
        let text = |s: &CString| s.to_string_lossy().into_owned();
        match self {
            Step::JoinNamespace { kind, .. } => format!("{kind:?}").to_lowercase(),
            Step::Hostname(name) | Step::Domainname(name) => text(name),
            Step::MountFilesystem { index, target, fstype, .. } => {
                format!("mounts[{index}] {} ({})", text(&target.path), text(fstype))
            }
            Step::MountTree { index: u16::MAX, target, .. } => text(&target.path),
            Step::MountTree { index, target, .. } | Step::Remount { index, target, .. } => {
                format!("mounts[{index}] {}", text(&target.path))
            }
            Step::Device { path, .. } | Step::Symlink { path, .. } => text(path),
            Step::MaskPath(path) | Step::ReadonlyPath(path) => text(path),
            Step::WorkingDirectory(path) => format!("process.cwd {}", text(path)),
            Step::OomScoreAdj(value) => format!("process.oomScoreAdj {value}"),
            Step::Rlimit { resource, soft, hard } => format!("process.rlimits {resource} soft {soft} hard {hard}"),
            Step::Identity { uid, gid, .. } => format!("process.user {uid}:{gid}"),
            Step::FindExecutable { candidates } => {
                // Of several, only the name that was looked for along PATH.
                let last = candidates.last().map(text).unwrap_or_default();
                let name = last.rsplit('/').next().filter(|_| candidates.len() > 1).unwrap_or(&last);
                format!("process.args[0] {name}")
            }
            Step::Exec { argv, .. } => {
                argv.first().map_or_else(String::new, |a| format!("process.args[0] {}", text(a)))
            }
            Step::EnterUserNamespace
            | Step::JoinContainer { .. }
            | Step::NewSession
            | Step::NewCgroupNamespace
            | Step::NewTimeNamespace { .. }
            | Step::LoopbackUp
            | Step::PrivateMounts
            | Step::AttachRoot { .. }
            | Step::OverlayRoot { .. }
            | Step::PivotRoot
            | Step::ReadonlyRoot
            | Step::Umask(_)
            | Step::Stdio { .. }
            | Step::BoundingSet(_)
            | Step::Capabilities(_)
            | Step::NoNewPrivileges
            | Step::Seccomp { .. }
            | Step::DieWithParent(_)
            | Step::Park { .. } => String::new(),
        }
    }
}
