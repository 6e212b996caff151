//! A keeper that takes over from another one: the new binary of an upgrade, by execve in the same process, so that it stays
//! the parent of what it has inherited; or the replacement that a supervisor starts for a keeper that died.
//!
//! What is handed over are descriptors, which stay open across the execve; [`VARIABLE`] says which is which. Exits that no
//! supervisor has recorded yet are in a memory file.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use brood_launcher::seal::SealedExe;
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::message::KeptExit;
use crate::exe::Role;

/// What is handed over: [`Numbers`] as JSON.
const VARIABLE: &str = "BROOD_KEEPER_STATE";
/// The path of the binary that `brood daemon` was started from: an upgrade takes what is there by then.
pub const BINARY_VARIABLE: &str = "BROOD_BINARY";

/// Numbers of descriptors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbers {
    rpc: RawFd,
    stdio: RawFd,
    lock: RawFd,
    /// A JSON list of [`KeptExit`].
    kept: RawFd,
    /// Of a supervisor that lives: its pid, its pidfd, and our end of the socket to it.
    supervisor: Option<(i32, RawFd, RawFd)>,
}

/// What a keeper gives away.
pub(super) struct HandOver<'a> {
    pub(super) rpc: BorrowedFd<'a>,
    pub(super) stdio: BorrowedFd<'a>,
    pub(super) lock: BorrowedFd<'a>,
    pub(super) kept: Vec<&'a KeptExit>,
    /// The pid of a supervisor that lives, its pidfd, and the keeper's end of the socket to it.
    pub(super) supervisor: Option<(i32, BorrowedFd<'a>, BorrowedFd<'a>)>,
}

/// What a keeper takes over.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) rpc: OwnedFd,
    pub(super) stdio: OwnedFd,
    pub(super) lock: OwnedFd,
    pub(super) kept: Vec<KeptExit>,
    pub(super) supervisor: Option<(i32, OwnedFd, OwnedFd)>,
}

impl HandOver<'_> {
    /// Runs `start`, with all of this open to whatever it executes and named in the environment of the command.
    pub(super) fn through<T>(
        &self,
        command: &mut Command,
        start: impl FnOnce(&mut Command) -> std::io::Result<T>,
    ) -> anyhow::Result<T> {
        let mut kept = File::from(rustix::fs::memfd_create(c"brood-exits", MemfdFlags::CLOEXEC)?);
        kept.write_all(&serde_json::to_vec(&self.kept)?)?;
        kept.rewind()?;
        let (rpc, stdio, lock) = (self.rpc, self.stdio, self.lock);
        let numbers = Numbers {
            rpc: rpc.as_raw_fd(),
            stdio: stdio.as_raw_fd(),
            lock: lock.as_raw_fd(),
            kept: kept.as_raw_fd(),
            supervisor: self.supervisor.map(|(pid, pidfd, socket)| (pid, pidfd.as_raw_fd(), socket.as_raw_fd())),
        };
        let supervisor = self.supervisor.into_iter().flat_map(|(_, pidfd, socket)| [pidfd, socket]);
        let all: Vec<BorrowedFd<'_>> = [rpc, stdio, lock, kept.as_fd()].into_iter().chain(supervisor).collect();
        for fd in &all {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        let started = start(command.env(VARIABLE, serde_json::to_string(&numbers)?));
        for fd in &all {
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
        Ok(started?)
    }
}

impl Handed {
    /// What another keeper, or a supervisor, has handed over; `None` for the first keeper of a daemon. Must be called once,
    /// before any descriptor is opened.
    ///
    /// # Errors
    /// The variable names something else.
    pub(super) fn take() -> anyhow::Result<Option<Handed>> {
        let Ok(text) = std::env::var(VARIABLE) else { return Ok(None) };
        let numbers: Numbers = serde_json::from_str(&text).context(VARIABLE)?;
        let take = |number| take(VARIABLE, number);
        let mut kept = String::new();
        File::from(take(numbers.kept)?).read_to_string(&mut kept).context("read the exits that are kept")?;
        let supervisor = match numbers.supervisor {
            Some((pid, pidfd, socket)) => Some((pid, take(pidfd)?, take(socket)?)),
            None => None,
        };
        Ok(Some(Handed {
            rpc: take(numbers.rpc)?,
            stdio: take(numbers.stdio)?,
            lock: take(numbers.lock)?,
            kept: serde_json::from_str(&kept).context("the exits that are kept")?,
            supervisor,
        }))
    }

    /// Keeps what was handed over to this process from those that it starts.
    pub(super) fn hide_from(command: &mut Command) {
        command.env_remove(VARIABLE);
    }
}

/// The descriptor of this number, which a variable of the environment names.
#[expect(unsafe_code, reason = "descriptor numbers from the environment become owned descriptors")]
pub(super) fn take(variable: &'static str, number: RawFd) -> anyhow::Result<OwnedFd> {
    ensure!(number > 2, "{variable}: {number} is a standard descriptor");
    // SAFETY: whoever started us opened this number for us and nobody else in this fresh process owns it; it is checked to
    // be open right below.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).context(variable)?;
    Ok(fd)
}

/// The binary that is at the daemon's path by now, in a sealed copy that has shown that it runs.
///
/// # Errors
/// It is missing, or does not run.
pub(super) fn next_binary() -> anyhow::Result<SealedExe> {
    let path = PathBuf::from(std::env::var_os(BINARY_VARIABLE).context("the daemon does not know its binary's path")?);
    check_binary(&path)
}

/// A sealed copy of a binary that says its version.
///
/// # Errors
/// It is missing, or does not run.
pub fn check_binary(path: &Path) -> anyhow::Result<SealedExe> {
    let copy = SealedExe::of(path).with_context(|| path.display().to_string())?;
    let mut command = Command::new(copy.path());
    Handed::hide_from(&mut command);
    let output = command.arg("--version").output().with_context(|| path.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.starts_with("brood "), "{}: it does not say its version", path.display());
    tracing::info!(binary = %path.display(), version = said.trim(), "upgrade");
    Ok(copy)
}

/// The path of a daemon's binary, from the environment of its keeper (proc_pid_environ(5)).
#[must_use]
pub fn binary_in(environment: &[u8]) -> Option<PathBuf> {
    let prefix = format!("{BINARY_VARIABLE}=");
    let path = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

/// What a supervisor needs to start another keeper when its own has died.
#[derive(Debug)]
pub struct Spare {
    rpc: OwnedFd,
    stdio: OwnedFd,
    lock: OwnedFd,
}

impl Spare {
    /// Second descriptors of what the supervisor has inherited.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn of(inherited: &super::Inherited) -> std::io::Result<Spare> {
        let (rpc, stdio, lock) = (&inherited.rpc, &inherited.stdio, &inherited.lock);
        Ok(Spare { rpc: rpc.try_clone()?, stdio: stdio.try_clone()?, lock: lock.try_clone()? })
    }

    /// Starts a keeper for this supervisor, and returns the socket to it. It cannot become the parent of the containers
    /// that there are: should this supervisor die, their exits are known as far as the kernel tells others (Linux 6.15).
    ///
    /// # Errors
    /// No process or descriptor is left.
    pub fn start_keeper(&self) -> anyhow::Result<OwnedFd> {
        let own = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(own, PidfdFlags::empty())?;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        rustix::io::ioctl_fionbio(&theirs, true)?;
        let mut command = Command::new(SealedExe::lasting()?.path());
        command.arg0(Role::Keeper.argv0()).args(std::env::args_os().skip(1)).env_remove(super::FDS_VARIABLE);
        let hand_over = HandOver {
            rpc: self.rpc.as_fd(),
            stdio: self.stdio.as_fd(),
            lock: self.lock.as_fd(),
            kept: Vec::new(),
            supervisor: Some((Pid::as_raw(Some(own)), pidfd.as_fd(), theirs.as_fd())),
        };
        // Never waited for: it ends after us, or the daemon has ended.
        hand_over.through(&mut command, Command::spawn).map(drop).context("start a keeper")?;
        Ok(ours)
    }
}
