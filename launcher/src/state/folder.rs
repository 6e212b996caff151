//! The folder of one process, init or exec, below its container's.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    ExitRecord, PidRecord, ProcStat, Result, StartSocket, StateError, at, pidfs_inode, read_json, remove_tree,
    write_json,
};

/// `pid`: the process, and what its next supervisor should know of its order. What an older version wrote lacks the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PidFile {
    /// Which process.
    #[serde(flatten)]
    pub record: PidRecord,
    /// [`pidfs_inode`], where the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// What the order says.
    #[serde(flatten)]
    pub ordered: Ordered,
}

/// What is written down of the order of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ordered {
    /// An exec is to be removed when it ends; of a container that is in `state.json`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_remove: bool,
    /// Its program runs without waiting for a start: until it does, nobody is told that there is such a process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
}

/// The `pid` file of a process whose creation failed.
const STRUCK_OFF: &str = "struck-off";

/// The folder of one process.
#[derive(Clone, Debug)]
pub struct ProcessDir(PathBuf);

impl ProcessDir {
    pub(super) fn at(path: PathBuf) -> ProcessDir {
        ProcessDir(path)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder and writes `process.json`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn create(&self, process: &oci_spec::runtime::Process) -> Result<()> {
        std::fs::DirBuilder::new().mode(0o700).create(&self.0).map_err(at(&self.0))?;
        // Plainly, not by rename: nobody reads it before the container is there.
        let path = self.0.join("process.json");
        let bytes = serde_json::to_vec(process).map_err(|error| at(&path)(error.into()))?;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(&bytes)).map_err(at(&path))
    }

    /// An error that has to do with this process.
    #[must_use]
    pub fn error(&self, source: std::io::Error) -> StateError {
        at(&self.0)(source)
    }

    /// Reads `process.json`, as it was written.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn read_process(&self) -> Result<serde_json::Value> {
        read_json(&self.0.join("process.json"))
    }

    /// Writes `pid`, for the process that has just been cloned; with its handle, if that is at hand.
    ///
    /// # Errors
    /// The file system refuses, or /proc cannot be read.
    pub fn record_pid(&self, pid: i32, pidfd: Option<BorrowedFd<'_>>, ordered: Ordered) -> Result<PidRecord> {
        // A child of ours is there, if only as a zombie.
        let stat = ProcStat::find(pid).and_then(|stat| stat.ok_or(std::io::ErrorKind::NotFound.into()));
        let start_time = stat.map_err(at(Path::new(&format!("/proc/{pid}/stat"))))?.start_time;
        let record = PidRecord { pid, start_time };
        self.write_pid(&PidFile { record, inode: pidfd.and_then(pidfs_inode), ordered })?;
        Ok(record)
    }

    /// Writes `pid`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_pid(&self, file: &PidFile) -> Result<()> {
        write_json(&self.0.join("pid"), file)
    }

    /// Reads `pid`.
    ///
    /// # Errors
    /// It is missing (not cloned yet) or damaged.
    pub fn read_pid(&self) -> Result<PidRecord> {
        read_json(&self.0.join("pid"))
    }

    /// Reads `pid`, with what it says of the order.
    ///
    /// # Errors
    /// As [`ProcessDir::read_pid`].
    pub fn read_pid_file(&self) -> Result<PidFile> {
        read_json(&self.0.join("pid"))
    }

    /// Puts `pid` aside: from here on the process counts as half made, though it was cloned.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn strike_off(&self) -> Result<()> {
        let path = self.0.join("pid");
        std::fs::rename(&path, self.0.join(STRUCK_OFF)).map_err(at(&path))
    }

    /// Whether there ever was a process.
    #[must_use]
    pub fn was_cloned(&self) -> bool {
        ["pid", STRUCK_OFF].iter().any(|name| self.0.join(name).exists())
    }

    /// Writes `exit`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_exit(&self, record: &ExitRecord) -> Result<()> {
        write_json(&self.0.join("exit"), record)
    }

    /// Reads `exit`.
    ///
    /// # Errors
    /// It is missing (not ended yet) or damaged.
    pub fn read_exit(&self) -> Result<ExitRecord> {
        read_json(&self.0.join("exit"))
    }

    /// Where an exec waits for its start.
    #[must_use]
    pub fn start_socket(&self) -> StartSocket {
        StartSocket::in_folder(&self.0)
    }

    /// Removes the folder: the name is free again.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(&self) -> Result<()> {
        self.start_socket().remove();
        if self.remove_known() { Ok(()) } else { remove_tree(&self.0) }
    }

    /// Removes the files that nearly always are all, without listing the folder first. True when it is gone.
    pub(super) fn remove_known(&self) -> bool {
        for name in ["process.json", "pid", STRUCK_OFF, "exit", "stdout", "stderr"] {
            let _ = std::fs::remove_file(self.0.join(name));
        }
        std::fs::remove_dir(&self.0).is_ok()
    }
}
