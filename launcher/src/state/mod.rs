//! What is on disk about a container, the same for the supervisor and for the daemonless `brood-oci`:
//!
//! ```text
//! <root>/<id>/state.json            what recovery and `state` need; written before the clone
//! <root>/<id>/kept.json             what of config.json is needed later: the seccomp profile, hooks ...; if anything is
//! <root>/<id>/early.sock            while it is set up; then it is
//! <root>/<id>/start.sock            until `start`
//! <root>/<id>/removal.json          the removal has begun and its hooks have not all run; whoever finds it goes on with it
//! <root>/<id>/init/process.json     the OCI process
//! <root>/<id>/init/pid              pid, start time, inode of its handle; written right after the clone
//! <root>/<id>/init/exit             exit record; written once
//! <root>/<id>/<exec>/               the same for an exec of that name, with a start.sock of its own
//! ```
//!
//! The directory itself is the reservation of the name: it appears by a rename that refuses to replace, with its
//! `state.json` inside, so there is never a folder without one. Files appear by rename too, so a reader sees a whole one
//! or none. Nothing is synced: the root is a tmpfs that has to survive a kill, not a reboot.

mod exit;
mod folder;
mod kept;
mod process;
mod start;
mod status;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;
use crate::host_root::HostRoot;
use crate::resctrl::Group;

pub use exit::{ExitRecord, PressureTotals, Rusage};
pub use folder::{Ordered, PidFile, ProcessDir};
pub use kept::Kept;
pub use process::{
    ProcStat, exit_of_stranger, is_namespace_init, open_process, open_remains, pidfs_inode, start_time,
    state_and_start_time,
};
pub use start::StartSocket;
pub use status::Status;

/// Folder of the init process below the container's.
pub const INIT: &str = "init";
/// Beginning of the names of reservations that are not complete; no ID begins with a dot.
const NEW_PREFIX: &str = ".new.";
/// What of config.json is needed later, if anything is.
const KEPT: &str = "kept.json";
/// Says that a removal with hooks has begun.
const REMOVAL: &str = "removal.json";
/// Locked by the daemon of the directory, as long as it lives.
pub const LOCK: &str = "lock";

/// Whether an exec cannot have this name: its folder would be taken for something else in the container's.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name == INIT || name.ends_with(".json") || name.ends_with(".sock") || name.starts_with('.')
}

/// A failed access to the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// mkdir found the name taken.
    #[error("container with given ID already exists: {0}")]
    InUse(String),
    /// No such directory.
    #[error("container does not exist: {0}")]
    NotFound(String),
    /// A file that is not what we wrote.
    #[error("{}: damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// Any other error of the file system.
    #[error("{}: {}", path.display(), io_text(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error; its text is part of ours.
        source: std::io::Error,
    },
}

impl StateError {
    /// Whether what was looked for is not there, as opposed to: cannot be had now.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, StateError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

pub(crate) fn io_text(error: &std::io::Error) -> String {
    crate::report::plain_text(&error.to_string())
}

type Result<T> = std::result::Result<T, StateError>;

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> StateError + '_ {
    move |source| StateError::Io { path: path.to_owned(), source }
}

/// `state.json`: the OCI state's fixed part and what recovery needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerState {
    /// Of the configuration.
    pub oci_version: String,
    /// Container ID.
    pub id: String,
    /// Absolute path of the bundle; empty for a default bundle.
    pub bundle: PathBuf,
    /// Absolute path of the configuration, when it is not the bundle's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// Of the configuration.
    pub annotations: BTreeMap<String, String>,
    /// Given at creation.
    pub labels: BTreeMap<String, String>,
    /// RFC 3339, UTC.
    pub created: String,
    /// Its cgroups.
    pub cgroups: Cgroups,
    /// The mount that it has in the host's mount namespace, for want of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_root: Option<HostRoot>,
    /// Its group of resctrl, if it asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<Group>,
    /// Delete it when its init process ends.
    pub auto_remove: bool,
    /// The process that looks after an embedded container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded_in: Option<PidRecord>,
    /// The process that makes it, when that is its caller's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creator: Option<PidRecord>,
    /// User who created it.
    pub owner: u32,
    /// Who looks after it: only its own supervisor takes a container over after a restart.
    pub manager: Manager,
}

impl ContainerState {
    /// Where its configuration came from, if it has a bundle.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.bundle.join(crate::config::FILE_NAME))
    }
}

/// Who looks after a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// `brood daemon`.
    Daemon,
    /// `brood run` without a daemon, for as long as that command lives.
    Embedded,
    /// Whoever calls `brood-oci`.
    #[default]
    Caller,
}

/// `pid`: names one process for good, since a start time tells a re-used pid apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PidRecord {
    /// In the supervisor's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_time: u64,
}

/// The directory that holds one folder per container.
#[derive(Clone, Debug)]
pub struct StateRoot(PathBuf);

impl StateRoot {
    /// Makes the directory (mode 0700) when it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> Result<StateRoot> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let path = std::fs::canonicalize(path).map_err(at(path))?;
        let metadata = std::fs::metadata(&path).map_err(at(&path))?;
        let (owner, mode) = (std::os::unix::fs::MetadataExt::uid(&metadata), metadata.permissions().mode());
        if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
            let reason = "must belong to the user who runs this, and be writable by nobody else";
            return Err(at(&path)(std::io::Error::other(reason)));
        }
        Ok(StateRoot(path))
    }

    /// The directory, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the name `state.id`, which must have passed [`crate::config::check_id`].
    ///
    /// # Errors
    /// [`StateError::InUse`] when somebody has it.
    pub fn reserve(&self, state: &ContainerState) -> Result<ContainerDir> {
        let path = self.0.join(&state.id);
        let new = ContainerDir(temporary(&self.0));
        std::fs::DirBuilder::new().mode(0o700).create(&new.0).map_err(at(&new.0))?;
        let taken = new.write_state(state).and_then(|()| {
            match rustix::fs::renameat_with(CWD, &new.0, CWD, &path, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(ContainerDir(path.clone())),
                Err(Errno::EXIST) => Err(StateError::InUse(state.id.clone())),
                Err(errno) => Err(StateError::Io { path: path.clone(), source: errno.into() }),
            }
        });
        if taken.is_err() {
            let _ = new.remove_files();
        }
        taken
    }

    /// Whether a daemon runs on this directory: it holds the lock.
    #[must_use]
    pub fn has_daemon(&self) -> bool {
        let Ok(lock) = std::fs::File::open(self.0.join(LOCK)) else { return false };
        let shared = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared);
        shared == Err(Errno::WOULDBLOCK)
    }

    /// Removes reservations that were never completed, because whoever made them was killed.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let maker =
                name.to_str().and_then(|name| name.strip_prefix(NEW_PREFIX)).and_then(|rest| rest.split('.').next());
            if maker.and_then(|pid| pid.parse().ok()).is_some_and(|pid| ProcStat::read(pid).is_none()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Finds a container by name.
    ///
    /// # Errors
    /// [`StateError::NotFound`].
    pub fn find(&self, id: &str) -> Result<ContainerDir> {
        let path = self.0.join(id);
        if !id.is_empty() && !id.contains('/') && !id.starts_with('.') && path.is_dir() {
            Ok(ContainerDir(path))
        } else {
            Err(StateError::NotFound(id.to_owned()))
        }
    }

    /// The names, sorted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0).map_err(at(&self.0))?;
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        Ok(names)
    }
}

/// One container's folder.
#[derive(Clone, Debug)]
pub struct ContainerDir(PathBuf);

impl ContainerDir {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of one process of the container.
    #[must_use]
    pub fn process(&self, name: &str) -> ProcessDir {
        ProcessDir::at(self.0.join(name))
    }

    /// Writes `state.json`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_state(&self, state: &ContainerState) -> Result<()> {
        write_json(&self.0.join("state.json"), state)
    }

    /// Reads `state.json`.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn read_state(&self) -> Result<ContainerState> {
        read_json(&self.0.join("state.json"))
    }

    /// Writes `kept.json`, unless there is nothing to keep.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_kept(&self, kept: &Kept) -> Result<()> {
        if *kept == Kept::default() { Ok(()) } else { write_json(&self.0.join(KEPT), kept) }
    }

    /// Reads `kept.json`; without one nothing is kept.
    ///
    /// # Errors
    /// It is damaged or cannot be read: then nothing may run without it.
    pub fn read_kept(&self) -> Result<Kept> {
        match read_json(&self.0.join(KEPT)) {
            Err(StateError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Kept::default()),
            read => read,
        }
    }

    /// Notes that the removal has begun: whoever finds the folder without its remover is to go on.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn note_removal(&self) -> Result<()> {
        write_json(&self.0.join(REMOVAL), &serde_json::json!({ "began": now_ns() }))
    }

    /// Whether somebody has noted that the removal has begun.
    #[must_use]
    pub fn removal_has_begun(&self) -> bool {
        self.0.join(REMOVAL).exists()
    }

    /// Locks the folder, for whoever removes what a dead process has left: of several, one does it. `None` when somebody
    /// else has it.
    #[must_use]
    pub fn claim(&self) -> Option<OwnedFd> {
        let folder = self.open().ok()?;
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).ok()?;
        // The folder may be gone, and the lock on nothing.
        self.0.join("state.json").exists().then_some(folder)
    }

    /// The same, in turn with others who remove it; `None` when one of them has done so.
    #[must_use]
    pub fn claim_in_turn(&self) -> Option<OwnedFd> {
        let folder = self.open().ok()?;
        while let Err(errno) = rustix::fs::flock(&folder, FlockOperation::LockExclusive) {
            if errno != Errno::INTR {
                return None;
            }
        }
        self.path().exists().then_some(folder)
    }

    fn open(&self) -> rustix::io::Result<OwnedFd> {
        rustix::fs::open(&self.0, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Where the init process waits for `start`.
    #[must_use]
    pub fn start_socket(&self) -> StartSocket {
        StartSocket::in_folder(&self.0)
    }

    /// Names of the execs that have a folder, whether they live or not.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn execs(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(at(&self.0))? {
            let entry = entry.map_err(at(&self.0))?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if !is_reserved(&name) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes the folder: the name is free again. It goes at once, or whoever comes after a crash in between finds all of it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(&self) -> Result<()> {
        let Some(root) = self.0.parent() else { return remove_tree(&self.0) };
        let doomed = ContainerDir(temporary(root));
        match std::fs::rename(&self.0, &doomed.0) {
            Ok(()) => doomed.remove_files(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at(&self.0)(error)),
        }
    }

    fn remove_files(&self) -> Result<()> {
        // The names that nearly always are all, without listing the directories first.
        self.process(INIT).remove_known();
        for name in [KEPT, REMOVAL, "state.json"] {
            let _ = std::fs::remove_file(self.0.join(name));
        }
        if std::fs::remove_dir(&self.0).is_ok() { Ok(()) } else { remove_tree(&self.0) }
    }
}

/// A name in a state root for what is not there yet, or not any more; [`StateRoot::sweep`] finds it when we die.
fn temporary(root: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    root.join(format!("{NEW_PREFIX}{}.{number}", std::process::id()))
}

fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| at(path)(error.into()))?;
    replace_file(path, &bytes, 0o600)
}

/// Writes a file so that a reader sees the old content or the new, never a part.
///
/// # Errors
/// The file system refuses.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut name = std::ffi::OsString::from(".new.");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    let create = || std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
    let file = create().or_else(|error| match error.kind() {
        // What a killed predecessor left; or a link that somebody put there, which is never followed.
        std::io::ErrorKind::AlreadyExists => std::fs::remove_file(&temporary).and_then(|()| create()),
        _ => Err(error),
    });
    let written = file.and_then(|mut file| file.write_all(bytes)).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        at(path)(error)
    })
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(at(path))?;
    let damaged = |error: serde_json::Error| StateError::Damaged { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_slice(&bytes).map_err(damaged)
}

/// Nanoseconds since the epoch, now.
#[must_use]
pub fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_taken_once() {
        let temp = tempfile::tempdir().unwrap();
        let root = StateRoot::open(&temp.path().join("deep/er")).unwrap();
        let dir = root.reserve(&named("a")).unwrap();
        assert_eq!(root.reserve(&named("a")).unwrap_err().to_string(), "container with given ID already exists: a");
        assert_eq!(root.find("b").unwrap_err().to_string(), "container does not exist: b");
        assert_eq!(root.find("../deep").unwrap_err().to_string(), "container does not exist: ../deep");
        assert_eq!(dir.status(), Status::Creating);
        dir.remove().unwrap();
        assert!(root.list().unwrap().is_empty());
        root.reserve(&named("a")).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "a refused reservation leaves nothing");
    }

    #[test]
    fn a_reservation_that_was_never_completed_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let root = StateRoot::open(temp.path()).unwrap();
        // Beyond the largest pid that Linux gives.
        let dead = temp.path().join(".new.4194305.0");
        let alive = temp.path().join(format!(".new.{}.0", std::process::id()));
        for path in [&dead, &alive] {
            std::fs::create_dir(path).unwrap();
        }
        root.sweep();
        assert!(!dead.exists() && alive.exists());
        assert!(root.list().unwrap().is_empty());
    }

    #[test]
    fn a_pid_file_says_whether_to_remove_and_a_removal_can_be_repeated() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateRoot::open(temp.path()).unwrap().reserve(&named("a")).unwrap();
        for (name, auto_remove) in [("kept", false), ("going", true)] {
            let ordered = Ordered { auto_remove, at_once: !auto_remove };
            let exec = dir.process(name);
            std::fs::create_dir(exec.path()).unwrap();
            let record = exec.record_pid(std::process::id() as i32, None, ordered).unwrap();
            assert_eq!(exec.read_pid().unwrap(), record);
            assert_eq!(exec.read_pid_file().unwrap(), PidFile { record, inode: None, ordered });
            exec.strike_off().unwrap();
            exec.read_pid().unwrap_err();
            assert!(exec.was_cloned());
        }
        dir.remove().unwrap();
        dir.remove().unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    fn named(id: &str) -> ContainerState {
        ContainerState { id: id.into(), ..ContainerState::default() }
    }

    #[test]
    fn files_come_back_as_written_and_damage_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateRoot::open(temp.path()).unwrap().reserve(&named("a")).unwrap();
        let state = ContainerState { id: "a".into(), bundle: "/b".into(), ..ContainerState::default() };
        dir.write_state(&state).unwrap();
        assert_eq!(dir.read_state().unwrap(), state);
        std::fs::write(dir.path().join("state.json"), "{\"id\":").unwrap();
        assert!(dir.read_state().unwrap_err().to_string().contains("state.json: damaged: EOF"));
    }
}
