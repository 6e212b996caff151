//! Checkpoint and restore, by CRIU (criu.org): what it is told is what runc tells it, so that a container that runc can
//! checkpoint or restore is one that we can.
//!
//! ```text
//! we ── criu swrk 3 ── SOCK_SEQPACKET, protobuf (`rpc`)
//! │     VERSION, FEATURE_CHECK (keep_open), then one of DUMP, PRE_DUMP, RESTORE
//! └──── NOTIFY: "setup-namespaces" (hooks), "orphan-pts-master" (a terminal), "post-restore" (the pid), "status-ready", "post-dump"
//! ```
//!
//! Reading order: `dump`, `restore`, `external` (what a container has from outside), `mount_table` (which mount a path lies on),
//! `images` (directories that somebody else may have filled), `criu` (the process and the conversation), `rpc` (the messages),
//! `log` (why it failed).
//!
//! Images hold whole processes with their privileges: whoever restores them trusts whoever made them, as with every
//! runtime. What is kept from them is the host: CRIU reads and writes no file but those of the directories that were named,
//! and no name in them decides what of the host is mounted.

mod cgroups;
mod criu;
mod dump;
mod external;
mod images;
mod log;
mod mount_points;
mod mount_table;
pub mod named;
mod restore;
mod rpc;
mod spawn;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::cgroup::CgroupError;
use crate::config::one_line;
use crate::hooks::HookError;
use crate::plan::PlanError;
use crate::resctrl::ResctrlError;
use crate::state::StateError;

pub use dump::{CRIU_CONFIG_ANNOTATION, dump};
pub use restore::{Restored, restore};

/// Oldest CRIU that is asked for anything: 3.15 knows external pid namespaces and the v2 freezer.
pub const OLDEST_CRIU: CriuVersion = CriuVersion(3, 15, 0);

/// Major, minor and sublevel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CriuVersion(pub i32, pub i32, pub i32);

impl std::fmt::Display for CriuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CriuVersion(major, minor, 0) => write!(f, "{major}.{minor}"),
            CriuVersion(major, minor, sublevel) => write!(f, "{major}.{minor}.{sublevel}"),
        }
    }
}

/// Why a container could not be checkpointed (it goes on as before) or restored (nothing of it is left).
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The program is not there.
    #[error("criu: not found along PATH: checkpoint and restore need CRIU {OLDEST_CRIU} or newer")]
    NoCriu,
    /// The program could not be started.
    #[error("criu: {}", crate::state::io_text(.0))]
    Start(std::io::Error),
    /// The program is older than what is asked of it.
    #[error("criu {found} is too old: {what} needs {needed} or newer")]
    TooOld {
        /// Its version.
        found: CriuVersion,
        /// The version that would do.
        needed: CriuVersion,
        /// What needs it.
        what: &'static str,
    },
    /// The container's group of resctrl.
    #[error("config.json: {0}")]
    Resctrl(#[from] ResctrlError),
    /// CRIU or the kernel has not what an option needs.
    #[error("criu lacks {0} on this machine")]
    Lacks(&'static str),
    /// A directory or file that an option names, or that is in there.
    #[error("{option} {}: {problem}", one_line(&path.to_string_lossy()))]
    Path {
        /// The option's name.
        option: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something of config.json.
    #[error("config.json: {field}: {problem}")]
    Config {
        /// The field.
        field: String,
        /// Why it is in the way.
        problem: String,
    },
    /// A mount of config.json.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// CRIU did not keep to its protocol.
    #[error("criu: unexpected answer: {0}")]
    Protocol(String),
    /// CRIU gave up.
    #[error("criu failed: type {operation}{reason}{said} (log file {})", log.display())]
    Failed {
        /// `dump`, `pre-dump` or `restore`.
        operation: &'static str,
        /// Its error code in words, after `: `, if it gave one.
        reason: String,
        /// The last lines of its log that say so, each after `: `.
        said: String,
        /// Where the whole log is.
        log: PathBuf,
    },
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Anything else that the kernel refused.
    #[error("{what}: {}", crate::report::errno_text(*.errno))]
    Kernel {
        /// The operation, in words.
        what: &'static str,
        /// The kernel's reason.
        errno: rustix::io::Errno,
    },
}

impl CheckpointError {
    fn path(option: &'static str, path: &Path, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::Path { option, path: path.to_owned(), problem: problem.into() }
    }

    fn config(field: impl Into<String>, problem: impl AsRef<str>) -> CheckpointError {
        CheckpointError::Config { field: field.into(), problem: one_line(problem.as_ref()).into_owned() }
    }
}

type Result<T> = std::result::Result<T, CheckpointError>;

fn kernel(what: &'static str) -> impl Fn(rustix::io::Errno) -> CheckpointError {
    move |errno| CheckpointError::Kernel { what, errno }
}

/// What a checkpoint and a restore have in common; the names are those of runc's and CRIU's options.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Directory of the images.
    pub images: PathBuf,
    /// Directory of CRIU's log and sockets, in place of that of the images.
    pub work: Option<PathBuf>,
    /// TCP connections too.
    pub tcp_established: bool,
    /// Unix sockets whose other end is outside too.
    pub ext_unix_sk: bool,
    /// Sessions and terminals from outside too.
    pub shell_job: bool,
    /// File locks too.
    pub file_locks: bool,
    /// Memory goes over a socket, when it is asked for.
    pub lazy_pages: bool,
    /// Memory that is in an older image is punched out of it.
    pub auto_dedup: bool,
    /// What CRIU does about cgroups.
    pub cgroups_mode: CgroupsMode,
    /// How connections are kept still meanwhile; CRIU's own choice without it.
    pub network_lock: Option<NetworkLock>,
}

/// What a checkpoint takes beside [`Options`].
#[derive(Debug, Default)]
pub struct DumpOptions {
    /// The rest.
    pub common: Options,
    /// The container goes on afterwards.
    pub leave_running: bool,
    /// Memory only, to have less to do later; the container goes on.
    pub pre_dump: bool,
    /// Directory of an earlier pre-dump, relative to that of the images.
    pub parent: Option<PathBuf>,
    /// Address and port of the server that takes the memory.
    pub page_server: Option<(String, u16)>,
    /// Connections that are not established yet are left out.
    pub tcp_skip_in_flight: bool,
    /// Files that were unlinked get a name again.
    pub link_remap: bool,
    /// Gets a NUL byte once the server of lazy pages listens.
    pub status_fd: Option<OwnedFd>,
}

/// What a restore takes beside [`Options`].
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// The rest.
    pub common: Options,
    /// TCP connections come back closed.
    pub tcp_close: bool,
    /// `TYPE:NAME` of a profile in place of that of the images.
    pub lsm_profile: Option<String>,
    /// Context of new mounts in place of that of the images.
    pub lsm_mount_context: Option<String>,
}

/// What CRIU does about cgroups (criu(8), `--manage-cgroups`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum CgroupsMode {
    /// Nothing.
    Ignore = 0,
    /// Properties of cgroups that it makes.
    Soft = 3,
    /// Properties of all.
    Full = 4,
    /// As full, and none may be there before.
    Strict = 5,
    /// CRIU's default.
    #[default]
    Default = 6,
}

/// How CRIU keeps connections still (criu(8), `--network-lock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum NetworkLock {
    /// By rules of iptables(8).
    Iptables = 1,
    /// By rules of nft(8).
    Nftables = 2,
    /// Not at all.
    Skip = 3,
}
