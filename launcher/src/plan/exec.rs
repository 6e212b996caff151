//! The plan of an exec: one more process in a running container.
//!
//! | step | why here |
//! | --- | --- |
//! | join cgroup | cgroup v1 only: the clone is born in v2's |
//! | oom score | the file in /proc belongs to the host's root |
//! | cpu affinity | `initial` holds while namespaces are joined, `final` from then on |
//! | await parent | the parent's half: the oom score |
//! | join container | all namespaces but the pid namespace, which the clone is born in |
//! | process, park, program | as for an init process |

use std::os::fd::OwnedFd;

use oci_spec::runtime::{ExecCPUAffinity, Process};

use super::build::{Io, PlanError};
use super::mounts::RootFs;
use super::process::ProcessOptions;
use super::{Launch, Namespace, NamespaceKind, Step, attributes, process};
use crate::cgroup::Entrance;
use crate::rootless;
use crate::state::{ContainerState, Kept};

/// What an exec needs beside its process.
#[derive(Debug)]
pub struct ExecOptions {
    /// The container's init process. It must have been checked to be that, after this was opened.
    pub init: OwnedFd,
    /// Its pid, for looking at its namespaces and its root.
    pub init_pid: i32,
    /// Descriptors 0, 1 and 2.
    pub io: Io,
    /// Descriptors that the program gets after those.
    pub preserve: Vec<OwnedFd>,
    /// Write end of the status pipe.
    pub status: OwnedFd,
    /// The container's cgroups.
    pub cgroups: Entrance,
    /// What of the container's configuration holds for every process in it.
    pub kept: Kept,
    /// Whether the cloning process is a zygote.
    pub from_zygote: bool,
    /// The container as the receiver of a seccomp listener gets to see it.
    pub container: ContainerState,
    /// The listening socket at which it waits for its start; `None` to run at once.
    pub park: Option<OwnedFd>,
}

/// Namespaces that an exec joins: the file below `/proc/PID/ns` and the bit.
const NAMESPACES: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", libc::CLONE_NEWTIME),
];

/// Namespaces that an exec can be born in, the mount namespace last: until then our own files are there.
const BORN: [NamespaceKind; 6] = [
    NamespaceKind::Network,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::Cgroup,
    NamespaceKind::Time,
    NamespaceKind::Mount,
];

/// Builds the launch of an exec.
///
/// # Errors
/// The container is gone, or a string has a NUL byte.
pub fn build_exec(process: &Process, options: ExecOptions) -> Result<Launch, PlanError> {
    let gone = |errno| PlanError::new("container", format!("its init process: {}", crate::report::errno_text(errno)));
    let root = RootFs::of_process(options.init_pid).map_err(gone)?;
    let namespaces = other_namespaces(options.init_pid).map_err(gone)?;
    let mut launch = Launch::default();
    launch.plan.status = Some(launch.add_fd(options.status));
    let init = launch.add_fd(options.init);
    if namespaces & libc::CLONE_NEWPID != 0 {
        launch.plan.born.push(Namespace { kind: NamespaceKind::Pid, fd: init });
    }
    let mut steps = Vec::with_capacity(16);
    launch.enter_cgroups(options.cgroups, &mut steps);
    let affinity = process.exec_cpu_affinity().as_ref();
    let (initial, last) = (affinity.map(ExecCPUAffinity::initial), affinity.map(ExecCPUAffinity::cpu_affinity_final));
    let initial = attributes::affinity("initial", initial.and_then(Option::as_ref))?;
    if let Some(Step::CpuAffinity(mask)) = &initial {
        let digits: String = mask.iter().rev().map(|word| format!("{word:016x}")).collect();
        launch.details.push(format!("nsexec: affinity: 0x{}", digits.trim_start_matches('0')));
    }
    steps.extend(initial.or_else(attributes::every_cpu));
    let mut namespaces = namespaces & !libc::CLONE_NEWPID;
    // From outside an ordinary user has no right but that of the user namespace's owner, so it comes first.
    let owner = rootless::needed() && namespaces & libc::CLONE_NEWUSER != 0;
    // The same user namespace as ours: then the container's processes may look at any process in their pid namespace, if
    // they have CAP_SYS_PTRACE, so the exec must have nothing of the host's from its birth on. With a user namespace it has
    // privileges that they lack until it has joined.
    let exposed = namespaces & libc::CLONE_NEWUSER == 0;
    match process.oom_score_adj() {
        Some(_) if owner => {
            launch.details.push("process.oomScoreAdj: not for an exec of an ordinary user's; left as it is".to_owned());
        }
        Some(value) if exposed => {
            launch.plan.oom_score_adj = Some(value);
            steps.push(Step::AwaitParent);
        }
        value => steps.extend(value.map(Step::OomScoreAdj)),
    }
    if exposed {
        let joined = BORN.into_iter().filter(|kind| namespaces & kind.flag() != 0);
        launch.plan.born.extend(joined.map(|kind| Namespace { kind, fd: init }));
        namespaces = 0;
    }
    if owner {
        launch.plan.user_namespace = Some(init);
        namespaces &= !libc::CLONE_NEWUSER;
    }
    steps.push(Step::JoinContainer { pidfd: init, namespaces: namespaces as u32 });
    if owner {
        steps.push(Step::EnterUserNamespace);
    }
    if options.container.host_root.is_some() {
        // It has the host's mount namespace, whose root is not the container's.
        let directory = root.directory().map_err(|error| PlanError::new("container", format!("its root: {error}")))?;
        steps.extend([Step::AdoptRoot { root: launch.add_fd(directory) }, Step::ChangeRoot]);
    }
    steps.push(Step::NewSession);
    if !options.kept.callers_keyring {
        steps.push(attributes::session_keyring(&options.container.id, options.from_zygote)?);
    }
    steps.extend(attributes::affinity("final", last.and_then(Option::as_ref))?);
    launch.plan.preserve = options.preserve.into_iter().map(|fd| launch.add_fd(fd)).collect();
    let own = ProcessOptions {
        kept: &options.kept,
        container: &options.container,
        init_pid: Some(options.init_pid),
        root: &root,
        io: options.io,
        console: false,
        own_users: false,
        groups_like: &options.init_pid.to_string(),
        die_with_parent: None,
    };
    let last = process::steps(process, own, &mut launch, &mut steps)?;
    if let Some(socket) = options.park {
        steps.push(Step::Park { socket: launch.add_fd(socket) });
    }
    steps.extend(last);
    launch.plan.steps = steps;
    Ok(launch)
}

/// The namespaces in which the process is and we are not: joining one's own user namespace, for one, is refused.
fn other_namespaces(pid: i32) -> Result<i32, rustix::io::Errno> {
    let mut bits = 0;
    for (file, bit) in NAMESPACES {
        let identity = |path: String| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
        match (identity(format!("/proc/{pid}/ns/{file}")), identity(format!("/proc/self/ns/{file}"))) {
            (Ok(theirs), Ok(ours)) if theirs != ours => bits |= bit,
            // A kernel without this kind of namespace.
            (_, Err(rustix::io::Errno::NOENT)) | (Ok(_), Ok(_)) => {}
            (Err(errno), _) | (_, Err(errno)) => return Err(errno),
        }
    }
    Ok(bits)
}
