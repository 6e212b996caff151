//! The plan of an exec: one more process in a running container.
//!
//! | step | why here |
//! | --- | --- |
//! | oom score | the file in /proc belongs to the host's root |
//! | join container | all namespaces but the pid namespace, which the clone is born in |
//! | process, park, program | as for an init process |

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxSeccomp, Process};

use super::build::{PlanError, Stdio};
use super::mounts::RootFs;
use super::{Launch, Plan, Step, process};

/// What an exec needs beside its process.
#[derive(Debug)]
pub struct ExecOptions {
    /// The container's init process. It must have been checked to be that, after this was opened.
    pub init: OwnedFd,
    /// Its pid, for looking at its namespaces and its root.
    pub init_pid: i32,
    /// Descriptors 0, 1 and 2.
    pub stdio: Stdio,
    /// Write end of the status pipe.
    pub status: OwnedFd,
    /// The container's cgroup v2 directory, to be born in.
    pub cgroup: Option<OwnedFd>,
    /// The container's seccomp profile, which holds for every process in it.
    pub seccomp: Option<LinuxSeccomp>,
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

/// Builds the launch of an exec.
///
/// # Errors
/// The container is gone, or a string has a NUL byte.
pub fn build_exec(process: &Process, options: ExecOptions) -> Result<Launch, PlanError> {
    let gone = |errno| PlanError::new("container", format!("its init process: {}", crate::report::errno_text(errno)));
    let root = RootFs::of_process(options.init_pid).map_err(gone)?;
    let namespaces = other_namespaces(options.init_pid).map_err(gone)?;
    let mut launch = Launch { plan: Plan::default(), fds: Vec::new(), details: Vec::new() };
    launch.plan.status = Some(launch.add_fd(options.status));
    launch.plan.cgroup = options.cgroup.map(|cgroup| launch.add_fd(cgroup));
    let init = launch.add_fd(options.init);
    if namespaces & libc::CLONE_NEWPID != 0 {
        launch.plan.pid_namespace = Some(init);
    }
    let mut steps = Vec::with_capacity(16);
    if let Some(value) = process.oom_score_adj() {
        steps.push(Step::OomScoreAdj(value));
    }
    let namespaces = (namespaces & !libc::CLONE_NEWPID) as u32;
    steps.push(Step::JoinContainer { pidfd: init, namespaces });
    steps.push(Step::NewSession);
    let seccomp = options.seccomp.as_ref();
    let last = process::steps(process, seccomp, &root, options.stdio, None, &mut launch, &mut steps)?;
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
