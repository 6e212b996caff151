//! The parent's half of a launch: clone3, identity maps, and nothing else.
//!
//! | parent (zygote, or brood-oci itself) | child |
//! | --- | --- |
//! | `setns` into the namespaces that the child is born in | |
//! | `clone3` | `run`: signals, umask, steps |
//! | `setns` back; its half: identity maps, limits; one byte on the pipe | `AwaitParent` reads that byte |
//! | return pid and pidfd at once | ... the remaining steps, reports, execve |

#![expect(unsafe_code, reason = "clone3: the child continues on a copy of this stack")]

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::child::{self, Birth, FIRST_OTHER_FD, ProgramArrays};
use crate::plan::{FdIndex, NamespaceKind, Plan, Step};
use crate::sys::{self, CStrArray, CloneArgs, Cloned};
use crate::{middle, parent};

/// What a cloning process keeps open for all its launches.
#[derive(Debug)]
pub struct Host {
    proc: OwnedFd,
    clone_parent: bool,
    ignored_signals: u64,
    astray: Cell<bool>,
}

/// A new child.
#[derive(Debug)]
pub struct Spawned {
    /// In the cloning process's pid namespace; for display and for the state files.
    pub pid: i32,
    /// The handle by which it is watched, signalled and reaped.
    pub pidfd: OwnedFd,
    /// A process that was needed on the way and has ended ([`crate::middle`]): to be reaped by whoever is the child's
    /// parent, when that is not the cloning process.
    pub helper: Option<OwnedFd>,
}

/// A launch that failed in the parent's half; no running child is left.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .what, crate::report::errno_text(*.errno))]
pub struct SpawnError {
    /// The operation, in words.
    pub what: String,
    /// The kernel's reason.
    pub errno: Errno,
    /// What was cloned already: killed, and to be reaped by whoever is its parent.
    pub killed: Vec<OwnedFd>,
}

impl SpawnError {
    pub(crate) fn new(what: impl Into<String>, errno: Errno) -> SpawnError {
        SpawnError { what: what.into(), errno, killed: Vec::new() }
    }
}

pub(crate) fn failed(what: &'static str) -> impl Fn(Errno) -> SpawnError {
    move |errno| SpawnError::new(what, errno)
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
        Ok(Host { proc, clone_parent, ignored_signals: sys::ignored_signals(), astray: Cell::new(false) })
    }

    /// Whether we are still in a namespace that was joined for a clone: then nobody else is to be cloned from here.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        self.astray.get()
    }

    fn back(&self, journey: &Journey) -> Result<(), SpawnError> {
        journey.back().inspect_err(|_| self.astray.set(true))
    }

    /// Starts the child of a plan. The process must have a single thread.
    ///
    /// # Errors
    /// The clone, the pid namespace to join, or the identity maps were refused.
    pub fn spawn(&self, plan: &Plan, fds: &[OwnedFd]) -> Result<Spawned, SpawnError> {
        let programs = programs(plan);
        if !matches!(plan.steps.last(), Some(Step::Exec { .. })) {
            return Err(failed("plan without a program")(Errno::INVAL));
        }
        let room = Room::make(plan, fds, &self.proc).map_err(failed("move descriptors out of the way"))?;
        let fds = room.as_ref().map_or(fds, |room| &room.fds[..]);
        let proc = room.as_ref().map_or(self.proc.as_fd(), |room| room.proc.as_fd());
        let fd = |index: FdIndex| fds.get(usize::from(index.0)).map(AsFd::as_fd);
        let awaited = plan.steps.iter().any(|step| matches!(step, Step::AwaitParent));
        let pipe = || {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            Ok((out_of_the_way(read.as_fd(), plan)?, write))
        };
        let done = if awaited { Some(pipe().map_err(failed("pipe"))?) } else { None };
        let parent_done = done.as_ref().map(|(read, _)| read.as_fd());
        let ignored_signals = self.ignored_signals;
        let keep = kept_numbers(plan, fds, proc, parent_done);
        let mut mounts = room_for_mounts(plan);
        let remembered = &mut mounts[..];
        let birth =
            Birth { plan, fds, keep: &keep, programs: &programs, proc, parent_done, ignored_signals, remembered };
        let (spawned, returned) = match plan.user_namespace {
            Some(user) => {
                let user = fd(user).ok_or(Errno::BADF).map_err(failed("user namespace"))?;
                (middle::spawn(birth, user, self.clone_parent)?, Ok(()))
            }
            None => {
                let journey = self.join(plan, fd)?;
                let cloned = clone_child(birth, self.clone_parent);
                let returned = self.back(&journey);
                let (pid, pidfd) = cloned.map_err(failed("clone3"))?;
                (Spawned { pid, pidfd, helper: None }, returned)
            }
        };
        let finish = || {
            returned?;
            parent::half(&self.proc, spawned.pid, plan)?;
            match &done {
                Some((_, write)) => rustix::io::write(write, &[1]).map(drop).map_err(failed("release the child")),
                None => Ok(()),
            }
        };
        if let Err(error) = finish() {
            // The child ends by itself at the pipe's end of file; kill makes that certain and soon.
            let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL);
            let killed = std::iter::once(spawned.pidfd).chain(spawned.helper).collect();
            return Err(SpawnError { killed, ..error });
        }
        Ok(spawned)
    }

    /// Joins the namespaces that the child is to be born in. When one of them cannot be joined, we are back already.
    fn join<'fd>(&self, plan: &Plan, fd: impl Fn(FdIndex) -> Option<BorrowedFd<'fd>>) -> Result<Journey, SpawnError> {
        let mut journey = Journey::default();
        match self.join_each(plan, fd, &mut journey) {
            Ok(()) => Ok(journey),
            Err(error) => self.back(&journey).and(Err(error)),
        }
    }

    fn join_each<'fd>(
        &self,
        plan: &Plan,
        fd: impl Fn(FdIndex) -> Option<BorrowedFd<'fd>>,
        journey: &mut Journey,
    ) -> Result<(), SpawnError> {
        for namespace in &plan.born {
            let target = fd(namespace.fd).ok_or(Errno::BADF).map_err(failed("namespace"))?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let own = format!("self/ns/{}", namespace.kind.file());
            let own =
                rustix::fs::openat(&self.proc, own, flags, Mode::empty()).map_err(failed("open own namespace"))?;
            if namespace.kind == NamespaceKind::Mount {
                // Both are the other namespace's afterwards (setns(2)).
                let here =
                    |path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
                journey.place = Some((here(c"/").map_err(failed("open /"))?, here(c".").map_err(failed("open ."))?));
            }
            sys::setns(target, namespace.kind.flag()).map_err(failed("join namespace"))?;
            journey.joined.push((namespace.kind, own));
        }
        Ok(())
    }
}

/// The namespaces that were left for the clone, and the root and working directory that go with the mount namespace.
#[derive(Default)]
struct Journey {
    joined: Vec<(NamespaceKind, OwnedFd)>,
    place: Option<(OwnedFd, OwnedFd)>,
}

impl Journey {
    fn back(&self) -> Result<(), SpawnError> {
        for (kind, own) in self.joined.iter().rev() {
            sys::setns(own.as_fd(), kind.flag()).map_err(failed("return to own namespace"))?;
        }
        let Some((root, directory)) = &self.place else { return Ok(()) };
        let returned = rustix::process::fchdir(root)
            .and_then(|()| rustix::process::chroot(c"."))
            .and_then(|()| rustix::process::fchdir(directory));
        returned.map_err(failed("return to own directory"))
    }
}

/// The numbers of all descriptors that the child keeps, in order; it closes the rest before anything else. What is the
/// parent's would keep a pipe open whose end of file somebody waits for; and whoever may look into the child
/// (CAP_SYS_PTRACE in a pid namespace that it is born in) finds nothing of the host's there that is not needed.
fn kept_numbers(plan: &Plan, fds: &[OwnedFd], proc: BorrowedFd<'_>, parent_done: Option<BorrowedFd<'_>>) -> Vec<RawFd> {
    let uses_proc = |step: &Step| {
        matches!(
            step,
            Step::OomScoreAdj(_)
                | Step::NewTimeNamespace { .. }
                | Step::Sysctl { .. }
                | Step::Label { .. }
                | Step::Seccomp { listener: Some(_), .. }
        )
    };
    let cgroup = plan.cgroup.map(|index| usize::from(index.0));
    let proc = Some(proc).filter(|_| plan.steps.iter().any(uses_proc));
    let listed = fds.iter().enumerate().filter(|(index, _)| Some(*index) != cgroup).map(|(_, fd)| fd.as_raw_fd());
    let mut numbers: Vec<RawFd> = listed.chain(proc.iter().chain(&parent_done).map(AsRawFd::as_raw_fd)).collect();
    numbers.sort_unstable();
    numbers
}

/// Clones, and has the child go its way. With `clone_parent` it becomes a child of our parent. Used between two clones
/// too, so nothing here allocates.
pub(crate) fn clone_child(birth: Birth<'_>, clone_parent: bool) -> Result<(i32, OwnedFd), Errno> {
    let plan = birth.plan;
    let args = CloneArgs {
        flags: plan.clone_flags | if clone_parent { libc::CLONE_PARENT as u64 } else { 0 },
        exit_signal: if clone_parent { 0 } else { libc::SIGCHLD as u64 },
        cgroup: plan.cgroup.and_then(|index| birth.fds.get(usize::from(index.0))).map(AsFd::as_fd),
    };
    // SAFETY: this process has one thread (the promise of `Host::spawn`'s caller), and `child::run` keeps the after-clone
    // contract.
    match unsafe { sys::clone3(args) }? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => child::run(birth),
    }
}

/// Copies of what the child holds, above the numbers at which the program finds its preserved descriptors.
struct Room {
    fds: Vec<OwnedFd>,
    proc: OwnedFd,
}

impl Room {
    /// `None` when the plan preserves nothing, and everything may stay where it is.
    fn make(plan: &Plan, fds: &[OwnedFd], proc: &OwnedFd) -> Result<Option<Room>, Errno> {
        if plan.preserve.is_empty() {
            return Ok(None);
        }
        let fds = fds.iter().map(|fd| out_of_the_way(fd.as_fd(), plan)).collect::<Result<_, _>>()?;
        Ok(Some(Room { fds, proc: out_of_the_way(proc.as_fd(), plan)? }))
    }
}

fn out_of_the_way(fd: BorrowedFd<'_>, plan: &Plan) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, FIRST_OTHER_FD + plan.preserve.len() as i32)
}

/// Empty, and as large as the plan's slots ask for.
fn room_for_mounts(plan: &Plan) -> Vec<Option<OwnedFd>> {
    let slots = plan.steps.iter().filter_map(|step| match step {
        Step::MountFilesystem { slot, .. } | Step::MountTree { slot, .. } => *slot,
        _ => None,
    });
    std::iter::repeat_with(|| None).take(slots.max().map_or(0, |slot| usize::from(slot.get()))).collect()
}

/// The arguments and environments of all programs that the child executes, in the order of its steps.
fn programs(plan: &Plan) -> Vec<ProgramArrays<'_>> {
    let programs = plan.steps.iter().filter_map(|step| match step {
        Step::Hook(hook) => Some((&hook.argv, &hook.env)),
        Step::Exec { argv, env } => Some((argv, env)),
        _ => None,
    });
    programs.map(|(argv, env)| ProgramArrays { argv: array(argv), env: array(env) }).collect()
}

fn array(strings: &[std::ffi::CString]) -> CStrArray<'_> {
    CStrArray::new(strings.iter().map(AsRef::as_ref))
}
