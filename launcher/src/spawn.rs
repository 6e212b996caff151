//! The parent's half of a launch: clone3, identity maps, and nothing else.
//!
//! | parent (zygote, or brood-oci itself) | child |
//! | --- | --- |
//! | `setns` into a pid namespace, if one is joined | |
//! | `clone3` | `run`: signals, umask, steps |
//! | write `uid_map`, `setgroups`, `gid_map`; one byte on the pipe | `EnterUserNamespace` reads that byte |
//! | return pid and pidfd at once | ... the remaining steps, reports, execve |

#![expect(unsafe_code, reason = "clone3: the child continues on a copy of this stack")]

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::child::{self, Birth};
use crate::plan::{FdIndex, Plan, Step};
use crate::sys::{self, CStrArray, CloneArgs, Cloned};

/// What a cloning process keeps open for all its launches.
#[derive(Debug)]
pub struct Host {
    proc: OwnedFd,
    pid_namespace: OwnedFd,
    clone_parent: bool,
    ignored_signals: u64,
}

/// A new child.
#[derive(Debug)]
pub struct Spawned {
    /// In the cloning process's pid namespace; for display and for the state files.
    pub pid: i32,
    /// The handle by which it is watched, signalled and reaped.
    pub pidfd: OwnedFd,
}

/// A launch that failed in the parent's half; no running child is left.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .what, crate::report::errno_text(*.errno))]
pub struct SpawnError {
    /// The operation, in words.
    pub what: String,
    /// The kernel's reason.
    pub errno: Errno,
    /// The child when there was one already: killed, and to be reaped by whoever is its parent.
    pub killed: Option<OwnedFd>,
}

fn failed(what: &'static str) -> impl Fn(Errno) -> SpawnError {
    move |errno| SpawnError { what: what.to_owned(), errno, killed: None }
}

impl Host {
    /// Opens what launches need. With `clone_parent` the children become children of OUR parent: a zygote's
    /// supervisor reaps them itself.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn open(clone_parent: bool) -> Result<Host, SpawnError> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open(c"/proc", directory, Mode::empty()).map_err(failed("open /proc"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let pid_namespace = rustix::fs::openat(&proc, c"self/ns/pid", flags, Mode::empty())
            .map_err(failed("open /proc/self/ns/pid"))?;
        Ok(Host { proc, pid_namespace, clone_parent, ignored_signals: sys::ignored_signals() })
    }

    /// Starts the child of a plan. The process must have a single thread.
    ///
    /// # Errors
    /// The clone, the pid namespace to join, or the identity maps were refused.
    pub fn spawn(&self, plan: &Plan, fds: &[OwnedFd]) -> Result<Spawned, SpawnError> {
        let Some(Step::Exec { argv, env }) = plan.steps.last() else {
            return Err(failed("plan without a program")(Errno::INVAL));
        };
        let argv = CStrArray::new(argv.iter().map(AsRef::as_ref));
        let env = CStrArray::new(env.iter().map(AsRef::as_ref));
        let fd = |index: FdIndex| fds.get(usize::from(index.0)).map(AsFd::as_fd);
        let maps = match &plan.id_maps {
            Some(maps) => Some((maps, rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe"))?)),
            None => None,
        };
        let joined = plan.pid_namespace.and_then(fd);
        if let Some(namespace) = joined {
            sys::setns(namespace, libc::CLONE_NEWPID).map_err(failed("join pid namespace"))?;
        }
        let parent_flag = if self.clone_parent { libc::CLONE_PARENT as u64 } else { 0 };
        let args = CloneArgs {
            flags: plan.clone_flags | parent_flag,
            exit_signal: if self.clone_parent { 0 } else { libc::SIGCHLD as u64 },
            cgroup: plan.cgroup.and_then(fd),
        };
        // SAFETY: this process has one thread (the caller's promise), and `child::run` keeps the after-clone contract.
        let cloned = unsafe { sys::clone3(args) };
        if let Ok(Cloned::Child) = cloned {
            let maps_written = maps.as_ref().map(|(_, (read, _))| read.as_fd());
            let (proc, ignored_signals) = (self.proc.as_fd(), self.ignored_signals);
            child::run(Birth { plan, fds, argv: &argv, env: &env, proc, maps_written, ignored_signals })
        }
        if joined.is_some() {
            sys::setns(self.pid_namespace.as_fd(), libc::CLONE_NEWPID)
                .map_err(failed("return to own pid namespace"))?;
        }
        let spawned = match cloned.map_err(failed("clone3"))? {
            Cloned::Parent { pid, pidfd } => Spawned { pid, pidfd },
            Cloned::Child => return Err(failed("clone3")(Errno::INVAL)),
        };
        if let Some((maps, (_, write))) = &maps
            && let Err(error) = self
                .write_maps(spawned.pid, maps)
                .and_then(|()| rustix::io::write(write, &[1]).map(drop).map_err(failed("release the child")))
        {
            // The child ends by itself at the pipe's end of file; kill makes that certain and soon.
            let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL);
            return Err(SpawnError { killed: Some(spawned.pidfd), ..error });
        }
        Ok(spawned)
    }

    fn write_maps(&self, pid: i32, maps: &crate::plan::IdMaps) -> Result<(), SpawnError> {
        let write = |file: &str, bytes: &[u8], what| -> Result<(), SpawnError> {
            let path = format!("{pid}/{file}");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.proc, path, flags, Mode::empty()).map_err(failed(what))?;
            rustix::io::write(&file, bytes).map(drop).map_err(failed(what))
        };
        write("uid_map", &maps.uid_map, "linux.uidMappings: write uid_map")?;
        write("gid_map", &maps.gid_map, "linux.gidMappings: write gid_map")
    }
}
