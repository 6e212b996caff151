//! `exit`: how a process ended, and what it took.

use serde::{Deserialize, Serialize};

use super::now_ns;
use crate::sys::EndedChild;

/// How a process ended. What an older version wrote lacks the later fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// 0 to 255; 128 + N for death by signal N; 255 when unknown.
    pub status: u8,
    /// The signal, for death by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// Why the status is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// Of an init process: the kernel has killed one of the container's processes for memory. Of an exec: so it has, and
    /// the exec died of SIGKILL.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// It ended before its program began: seen by whoever inherits it, since nobody heard its reports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_ran: bool,
    /// Of the process and those of its children that it waited for; unknown of one that was not seen as a zombie by its
    /// parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rusage: Option<Rusage>,
    /// Of an init process: most memory that the container has had in use, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// Of an init process: processor time of all that ran in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_total_ns: Option<u64>,
    /// Of an init process: how long the container's processes waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureTotals>,
}

/// getrusage(2) of a process that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rusage {
    /// Processor time in the program's own code.
    pub user_ns: u64,
    /// Processor time in the kernel.
    pub system_ns: u64,
    /// Most memory resident at a time, of the largest process.
    pub max_rss_bytes: u64,
}

/// Pressure stall information (psi.rst): microseconds that at least one process (`some`), or all (`full`), waited for a
/// resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "resource and kind, as above")]
pub struct PressureTotals {
    pub cpu_some_us: u64,
    pub cpu_full_us: u64,
    pub memory_some_us: u64,
    pub memory_full_us: u64,
    pub io_some_us: u64,
    pub io_full_us: u64,
}

impl ExitRecord {
    /// The record of a child that was seen as a zombie just now.
    #[must_use]
    pub fn of(child: &EndedChild) -> ExitRecord {
        ExitRecord { rusage: Some(child.usage), ..ExitRecord::new(child.code, child.signal, now_ns()) }
    }

    /// The record of an exit code, or of death by a signal.
    #[must_use]
    pub fn new(code: Option<u8>, signal: Option<u8>, time_ns: u64) -> ExitRecord {
        match (code, signal) {
            (Some(status), _) => ExitRecord { status, time_ns, ..ExitRecord::default() },
            (None, Some(signal)) => {
                let status = 128u8.saturating_add(signal);
                ExitRecord { status, signal: Some(signal), time_ns, ..ExitRecord::default() }
            }
            (None, None) => ExitRecord::unknown("the kernel reported neither exit nor signal", time_ns),
        }
    }

    /// The record of a process whose status nobody can tell any more.
    #[must_use]
    pub fn unknown(reason: &str, time_ns: u64) -> ExitRecord {
        ExitRecord { status: 255, reason: Some(reason.to_owned()), time_ns, ..ExitRecord::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let old: ExitRecord = serde_json::from_str(r#"{"status":137,"signal":9,"timeNs":5}"#).unwrap();
        assert_eq!(old, ExitRecord::new(None, Some(9), 5));
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"status":137,"signal":9,"timeNs":5}"#);
    }
}
