//! The steps of a child.

use std::ffi::CString;

use super::{
    CapabilitySets, FdIndex, FsParameter, HiddenPath, Hook, HookKind, MountAttrs, Namespace, Rlimit, Scheduler,
    SeccompListener, SecurityModule, Slot, Target, TreeSource,
};
use crate::seccomp::Instruction;

/// One thing that the child does. This enum is the only list of steps: wire form, names, error texts and the
/// fault-injection tests follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait until the cloning process has done its half: identity maps, limits, network devices.
    AwaitParent,
    /// Enter a cgroup v1 directory, by writing `0` to its `tasks`; before the namespaces, since a cgroup namespace begins at
    /// the cgroup that its maker is in.
    JoinCgroup {
        /// The open `tasks`.
        tasks: FdIndex,
    },
    /// Become root of the user namespace.
    EnterUserNamespace,
    /// Join an existing namespace.
    JoinNamespace(Namespace),
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
    /// `unshare(CLONE_NEWTIME)` and its clock offsets; in force at once.
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
    /// Report that the namespaces are there, and wait until the `prestart` and `createRuntime` hooks have run.
    RuntimeHooks,
    /// Run a hook in the container's namespaces.
    Hook(Hook),
    /// Join a session keyring of this name, or without a name a new one (keyctl(2)); none where the kernel has no keyrings.
    SessionKeyring(CString),
    /// Write a file below `/proc/sys`, which the kernel resolves in the namespaces of the child.
    Sysctl {
        /// Relative to `/proc/sys`.
        path: CString,
        /// The text.
        value: Vec<u8>,
    },
    /// Write `pids.max`: a limit so low that the processes which help at the start would not fit in.
    LimitProcesses {
        /// The open `pids.max`.
        file: FdIndex,
        /// The limit, in decimal.
        limit: CString,
    },
    /// sched_setattr(2)
    Scheduler(Scheduler),
    /// ioprio_set(2): class and level in one number.
    IoPriority(u32),
    /// sched_setaffinity(2): the mask, lowest CPUs first.
    CpuAffinity(Vec<u64>),
    /// personality(2)
    Personality(u32),
    /// set_mempolicy(2)
    MemoryPolicy {
        /// `MPOL_*` with `MPOL_F_*`.
        mode: u32,
        /// The mask, lowest nodes first.
        nodes: Vec<u64>,
    },
    /// The label that execve gives the program, written below `/proc/self/attr`.
    Label {
        /// Who understands it.
        module: SecurityModule,
        /// The profile or context.
        text: CString,
    },
    /// Attach a detached tree as the coming root directory.
    AttachRoot {
        /// From open_tree(2) with `OPEN_TREE_CLONE`.
        tree: FdIndex,
        /// Where: `/`, or for hooks that enter the mount namespace and look for it there, its path on the host.
        place: CString,
    },
    /// Take what is mounted already, in a mount namespace that is not the container's own, for the coming root.
    AdoptRoot {
        /// Its top directory.
        root: FdIndex,
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
        /// Fill it with a copy of what the target holds (option `tmpcopyup`).
        copy_up: bool,
        /// As what the child remembers it.
        slot: Slot,
    },
    /// Attach a detached tree (a bind mount).
    MountTree {
        /// Position in config.json's `mounts`, for messages; `u16::MAX` for mounts of our own (devices).
        index: u16,
        /// Where.
        target: Target,
        /// Where it comes from.
        source: TreeSource,
        /// Mount attributes.
        attrs: MountAttrs,
        /// As what the child remembers it.
        slot: Slot,
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
    /// In place of `PivotRoot`: chroot(2) into the coming root, which covers the old one.
    MoveRoot,
    /// In place of `PivotRoot`, where the root of a zygote is below: let go of what that holds, and chroot(2) into the
    /// coming root. pivot_root(2) looks at every task of the machine, this at none.
    CoverRoot,
    /// In place of `PivotRoot`, where the mount namespace is not the container's own: chroot(2) into the coming root.
    ChangeRoot,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`, perhaps with `MS_REC`, on the container's root.
    RootPropagation(u64),
    /// Make the directory that the program is to begin in, and those above it, where they are missing.
    MakeWorkingDirectory(CString),
    /// Make the root mount read-only.
    ReadonlyRoot,
    /// Make a path read-only by a bind mount upon itself; a missing path is fine.
    ReadonlyPath(HiddenPath),
    /// Hide a path: a directory under an empty read-only one, a file under the container's
    /// /dev/null, verified to be character device 1:3 (CVE-2025-31133); a missing path is fine.
    MaskPath(HiddenPath),
    /// umask(2)
    Umask(u32),
    /// `/proc/self/oom_score_adj`
    OomScoreAdj(i32),
    /// setrlimit(2)
    Rlimit(Rlimit),
    /// A new pseudo-terminal of the container's own devpts as 0, 1 and 2, and as controlling terminal.
    Terminal {
        /// A connected unix socket: the master goes there.
        socket: FdIndex,
        /// Lines; 0 with 0 columns leaves the size.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Becomes its owner, in the container's numbering.
        uid: u32,
        /// Also bind it to /dev/console.
        console: bool,
        /// Without `ONLCR`: what is carried to another terminal, or into a file, is not to be changed on the way.
        keep_line_ends: bool,
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
        /// Who decides about `SCMP_ACT_NOTIFY`.
        listener: Option<SeccompListener>,
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
    pub const KINDS: usize = 55;

    /// The step's name as errors, logs and documents give it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Step::AwaitParent => "await parent",
            Step::JoinCgroup { .. } => "join cgroup",
            Step::EnterUserNamespace => "enter user namespace",
            Step::JoinNamespace(_) => "join namespace",
            Step::JoinContainer { .. } => "join container",
            Step::NewSession => "new session",
            Step::NewCgroupNamespace => "new cgroup namespace",
            Step::NewTimeNamespace { .. } => "new time namespace",
            Step::LoopbackUp => "loopback up",
            Step::Hostname(_) => "hostname",
            Step::Domainname(_) => "domainname",
            Step::PrivateMounts => "private mounts",
            Step::RuntimeHooks => "runtime hooks",
            Step::Hook(_) => "hook",
            Step::SessionKeyring(_) => "session keyring",
            Step::Sysctl { .. } => "sysctl",
            Step::LimitProcesses { .. } => "limit processes",
            Step::Scheduler(_) => "scheduler",
            Step::IoPriority(_) => "io priority",
            Step::CpuAffinity(_) => "cpu affinity",
            Step::Personality(_) => "personality",
            Step::MemoryPolicy { .. } => "memory policy",
            Step::Label { .. } => "label",
            Step::AttachRoot { .. } => "attach root",
            Step::AdoptRoot { .. } => "adopt root",
            Step::OverlayRoot { .. } => "overlay root",
            Step::MountFilesystem { .. } => "mount file system",
            Step::MountTree { .. } => "bind mount",
            Step::Remount { .. } => "remount",
            Step::Device { .. } => "device",
            Step::Symlink { .. } => "symlink",
            Step::PivotRoot => "pivot root",
            Step::MoveRoot => "move root",
            Step::CoverRoot => "cover root",
            Step::ChangeRoot => "change root",
            Step::RootPropagation(_) => "root propagation",
            Step::MakeWorkingDirectory(_) => "make working directory",
            Step::ReadonlyRoot => "read-only root",
            Step::ReadonlyPath(_) => "read-only path",
            Step::MaskPath(_) => "mask path",
            Step::Umask(_) => "umask",
            Step::OomScoreAdj(_) => "oom score",
            Step::Rlimit(_) => "rlimit",
            Step::Stdio { .. } => "stdio",
            Step::Terminal { .. } => "terminal",
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
            Step::JoinNamespace(Namespace { kind, .. }) => format!("{kind:?}").to_lowercase(),
            Step::Hostname(name) | Step::Domainname(name) => text(name),
            Step::MountFilesystem { index, target, fstype, .. } => {
                format!("mounts[{index}] {} ({})", text(&target.path), text(fstype))
            }
            Step::MountTree { index: u16::MAX, target, .. } => text(&target.path),
            Step::MountTree { index, target, .. } | Step::Remount { index, target, .. } => {
                format!("mounts[{index}] {}", text(&target.path))
            }
            Step::Device { path, .. } | Step::Symlink { path, .. } => text(path),
            Step::MaskPath(hidden) | Step::ReadonlyPath(hidden) => text(&hidden.path),
            Step::MakeWorkingDirectory(path) | Step::WorkingDirectory(path) => format!("process.cwd {}", text(path)),
            Step::OomScoreAdj(value) => format!("process.oomScoreAdj {value}"),
            Step::Rlimit(Rlimit { resource, soft, hard }) => {
                format!("process.rlimits {resource} soft {soft} hard {hard}")
            }
            Step::Hook(Hook { kind, index, path, .. }) => {
                let list = match kind {
                    HookKind::CreateContainer => "createContainer",
                    HookKind::StartContainer => "startContainer",
                };
                format!("error running {list} hook #{index}: {}", text(path))
            }
            Step::Sysctl { path, .. } => format!("linux.sysctl {}", text(path).replace('/', ".")),
            Step::Scheduler(Scheduler { policy, .. }) => format!("process.scheduler policy {policy}"),
            Step::LimitProcesses { limit, .. } => format!("linux.resources.pids.limit {}", text(limit)),
            Step::IoPriority(_) => "process.ioPriority".to_owned(),
            Step::CpuAffinity(_) => "process.execCPUAffinity".to_owned(),
            Step::Personality(_) => "linux.personality".to_owned(),
            Step::MemoryPolicy { .. } => "linux.memoryPolicy".to_owned(),
            Step::Label { module: SecurityModule::AppArmor, text: label } => {
                format!("process.apparmorProfile {}", text(label))
            }
            Step::Label { module: SecurityModule::Selinux, text: label } => {
                format!("process.selinuxLabel {}", text(label))
            }
            Step::Terminal { .. } => "process.terminal".to_owned(),
            Step::RootPropagation(_) => "linux.rootfsPropagation".to_owned(),
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
            Step::AwaitParent
            | Step::JoinCgroup { .. }
            | Step::EnterUserNamespace
            | Step::JoinContainer { .. }
            | Step::NewSession
            | Step::NewCgroupNamespace
            | Step::NewTimeNamespace { .. }
            | Step::LoopbackUp
            | Step::PrivateMounts
            | Step::RuntimeHooks
            | Step::SessionKeyring(_)
            | Step::AttachRoot { .. }
            | Step::AdoptRoot { .. }
            | Step::OverlayRoot { .. }
            | Step::PivotRoot
            | Step::MoveRoot
            | Step::CoverRoot
            | Step::ChangeRoot
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
