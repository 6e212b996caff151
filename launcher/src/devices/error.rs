//! Why device rules are refused, or cannot be put in force.

use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;

/// A rule that cannot be honoured, in one line.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field}: {reason}")]
pub struct RuleError {
    /// The field's path, e.g. `linux.resources.devices[2].access`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Rules that could not be put in force.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The caller may not do this: in a user namespace no device rules can be set, and a cgroup cannot allow more than the
    /// one above it. In a user namespace the kernel keeps devices away all the same: none can be made there.
    #[error("{what}")]
    NotPermitted {
        /// What was tried, on which object.
        what: String,
        /// EPERM or EACCES.
        #[source]
        source: Errno,
    },
    /// Something else that the system refused.
    #[error("{what}")]
    System {
        /// What was tried, on which object.
        what: String,
        /// What the system said.
        #[source]
        source: Errno,
    },
    /// The kernel's verifier did not like the program.
    #[error("load the device program: {log}")]
    Verifier {
        /// Its reason.
        log: String,
        /// EINVAL or EACCES, mostly.
        #[source]
        source: Errno,
    },
    /// The devices controller has something else in force than it was told.
    #[error("{}: not what was asked for", list.display())]
    Mismatch {
        /// The file that tells.
        list: PathBuf,
    },
    /// There would be a moment in which processes may open everything.
    #[error("{}: from a list of allowed devices to one of denied devices while processes run", directory.display())]
    Exposes {
        /// The cgroup.
        directory: PathBuf,
    },
}

impl DeviceError {
    pub(super) fn system(what: impl Into<String>, source: Errno) -> Self {
        let what = what.into();
        match source {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted { what, source },
            _ => Self::System { what, source },
        }
    }
}
