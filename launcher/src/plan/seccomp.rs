//! The seccomp filter of a process: compiled, and connected to whoever decides about `SCMP_ACT_NOTIFY`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use oci_spec::runtime::LinuxSeccomp;
use rustix::net::SocketType;

use super::build::PlanError;
use super::{Launch, SeccompListener, StateText, Step};
use crate::config::one_line;
use crate::report::errno_text;
use crate::state::{ContainerState, Status};
use crate::{seccomp, socket};

/// The step that puts a process under a profile; the filter comes from the cache of filters. `init_pid` is given for an
/// exec: its container has a pid of its own.
pub(super) fn filter(
    profile: &LinuxSeccomp,
    container: &ContainerState,
    init_pid: Option<i32>,
    launch: &mut Launch,
) -> Result<Step, PlanError> {
    static FILTERS: LazyLock<Mutex<seccomp::Cache>> = LazyLock::new(Mutex::default);
    // A panic of another thread in there leaves at worst a cache without the newest entry.
    let mut filters = FILTERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let filter = filters.get(profile).map_err(|error| {
        let text = error.to_string();
        let (field, problem) = text.split_once(": ").unwrap_or(("linux.seccomp", &text));
        PlanError::new(field, problem)
    })?;
    drop(filters);
    // Names of system calls are the profile's, whatever they hold.
    launch.details.extend(filter.notes.iter().map(|note| one_line(note).into_owned()));
    let listener = if filter.needs_listener {
        Some(SeccompListener {
            socket: launch.add_fd(connect(profile.listener_path().as_deref().unwrap_or(Path::new("")))?),
            state: state(profile, container, init_pid),
        })
    } else {
        None
    };
    launch.details.push(format!("seccomp filter flags: {}", filter.flags));
    Ok(Step::Seccomp { program: filter.program.clone(), flags: filter.flags, listener })
}

/// What the listener's receiver reads.
fn state(profile: &LinuxSeccomp, container: &ContainerState, init_pid: Option<i32>) -> StateText {
    let state = match init_pid {
        None => StateText::of(container, Status::Creating),
        Some(pid) => StateText { parts: vec![StateText::of(container, Status::Running).with_pid(pid)] },
    };
    StateText::of_process(container, profile.listener_metadata().as_deref().unwrap_or_default(), state)
}

fn connect(path: &Path) -> Result<OwnedFd, PlanError> {
    socket::connect(path, SocketType::STREAM).map_err(|errno| {
        let problem = format!("{}: failed to connect with seccomp agent: {}", path.display(), errno_text(errno));
        PlanError::new("linux.seccomp.listenerPath", problem)
    })
}
