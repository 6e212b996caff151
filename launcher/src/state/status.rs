//! What a container is doing, told by its files and by the kernel.

use serde::{Deserialize, Serialize};

use super::{ContainerDir, INIT, open_process};

/// The statuses of the OCI runtime specification, and the `paused` that runc added to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The environment is being made.
    Creating,
    /// Set up, waiting for `start`.
    Created,
    /// The program runs.
    Running,
    /// The program, or what waits for `start`, is frozen with all processes of the container.
    Paused,
    /// The program is gone.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl ContainerDir {
    /// The status, from the files and from the kernel.
    #[must_use]
    pub fn status(&self) -> Status {
        let init = self.process(INIT);
        if init.read_exit().is_ok() {
            return Status::Stopped;
        }
        match init.read_pid() {
            Err(_) if self.creator_is_gone() => Status::Stopped,
            Err(_) => Status::Creating,
            Ok(record) if open_process(record).is_none() => Status::Stopped,
            Ok(_) if self.start_socket().is_early() => Status::Creating,
            Ok(_) if self.is_frozen() => Status::Paused,
            Ok(_) if self.start_socket().exists() => Status::Created,
            Ok(_) => Status::Running,
        }
    }

    /// Whoever began to make it was killed before there was a process.
    fn creator_is_gone(&self) -> bool {
        let creator = self.read_state().ok().and_then(|state| state.creator);
        creator.is_some_and(|creator| open_process(creator).is_none())
    }

    fn is_frozen(&self) -> bool {
        self.read_state().is_ok_and(|state| state.cgroups.is_frozen())
    }
}
