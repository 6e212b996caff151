//! The child between clone3 and execve: an ordered list of steps, executed.
//!
//! # After-clone contract
//! Nothing in this folder allocates, locks, panics, logs, reads the environment or decides. Memory is the stack and
//! what the plan holds; indexing is by `get`; every failure is a value that ends in one 8-byte report
//! ([`crate::report`]). The contract is checked by a test that runs every step under an allocator that refuses
//! (`launcher/tests/after_clone.rs`).
//!
//! Reading order: [`run`] here; `namespace`; `mount`, `copy_up` and `target` for the file system; `hide` for masked and read-only
//! paths; `device`; `terminal`; `attribute`, `identity` and `seccomp` for the process; `hook`; `exec`.

mod attribute;
mod copy_up;
mod device;
mod exec;
mod hide;
mod hook;
mod identity;
mod mount;
mod namespace;
mod seccomp;
mod target;
mod terminal;

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::plan::{FdIndex, Plan, Step};
use crate::report::{Op, Question, Report};
use crate::sys::{self, CStrArray};

pub(crate) use mount::new_filesystem;
pub(crate) use target::open_or_make_path;

/// Why a step failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    op: Op,
    errno: Errno,
}

impl Failure {
    /// The kernel's reason.
    pub(crate) fn errno(self) -> Errno {
        self.errno
    }
}

type Done = Result<(), Failure>;

/// Names the operation that a system call's error belongs to.
trait During<T> {
    fn during(self, op: Op) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, op: Op) -> Result<T, Failure> {
        self.map_err(|errno| Failure { op, errno })
    }
}

/// First descriptor that is not standard input, output or error.
pub(crate) const FIRST_OTHER_FD: i32 = 3;

/// What the child was born with. All of it was made before the clone.
pub(crate) struct Birth<'a> {
    pub plan: &'a Plan,
    pub fds: &'a [OwnedFd],
    /// Numbers of the descriptors that are kept, in order; all others are closed.
    pub keep: &'a [RawFd],
    /// Room for the mounts that later steps ask for; the plan's [`crate::plan::Slot`]s count from 1.
    pub remembered: &'a mut [Option<OwnedFd>],
    /// argv and envp of the plan's hooks, in their order, and last of its `Exec`.
    pub programs: &'a [ProgramArrays<'a>],
    /// `/proc` of the pid namespace that cloned us, opened as a directory. The container's own is not to be trusted
    /// (CVE-2019-16884, CVE-2025-52881).
    pub proc: BorrowedFd<'a>,
    /// Read end of the pipe on which the parent says that its half is done.
    pub parent_done: Option<BorrowedFd<'a>>,
    /// To be reset: an ignored signal would stay ignored in the program. SIGPIPE stays ignored on the way there: whoever
    /// reads the reports may have been killed, which is no reason to stop.
    pub ignored_signals: u64,
}

/// What an execve(2) takes beside the path.
pub(crate) struct ProgramArrays<'a> {
    pub argv: CStrArray<'a>,
    pub env: CStrArray<'a>,
}

/// The child's state while it walks the list.
struct Child<'a> {
    birth: Birth<'a>,
    /// The coming (later: the) root directory.
    root: Option<BorrowedFd<'a>>,
    /// Holder of the root when it was made here and not received.
    made_root: Option<OwnedFd>,
    /// The empty read-only directory that masks directories, once there is one.
    empty: Option<OwnedFd>,
    /// What FindExecutable found.
    program: Option<&'a CStr>,
    /// How many of [`Birth::programs`] have run.
    programs_run: usize,
    /// Where reports go; replaced at `Park` by the connection of whoever starts us.
    report_to: Option<BorrowedFd<'a>>,
    connection: Option<OwnedFd>,
    /// Our pid as whoever launches sees it, in decimal, and its length; for a seccomp listener.
    host_pid: ([u8; 32], usize),
}

/// Executes the plan. Never returns: the process ends in execve or in `_exit` after a report.
pub(crate) fn run(birth: Birth<'_>) -> ! {
    sys::reset_signals(birth.ignored_signals);
    let plan = birth.plan;
    let report_to = plan.status.and_then(|index| birth.fds.get(usize::from(index.0))).map(AsFd::as_fd);
    // Device nodes and mount points get the modes they ask for; the plan sets the container's umask later.
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut child = Child {
        birth,
        root: None,
        made_root: None,
        empty: None,
        program: None,
        programs_run: 0,
        report_to,
        connection: None,
        host_pid: ([0; 32], 0),
    };
    close_all_but(child.birth.keep);
    // Before anything else is opened: their numbers are taken from here on.
    for (index, number) in plan.preserve.iter().zip(FIRST_OTHER_FD..) {
        if let Err(Failure { op, errno }) =
            child.fd(*index).and_then(|fd| sys::dup_to(fd, number).during(Op::Duplicate))
        {
            child.report(Report::Failed { step: 0, op, errno });
            sys::exit_now(125);
        }
    }
    for (position, step) in plan.steps.iter().enumerate() {
        if let Err(Failure { op, errno }) = child.execute(step) {
            child.report(Report::Failed { step: position as u16, op, errno });
            break;
        }
    }
    sys::exit_now(125)
}

/// Whatever fails here is a number that nobody has.
fn close_all_but(keep: &[RawFd]) {
    let mut next = FIRST_OTHER_FD;
    for number in keep {
        if *number > next {
            sys::close_forgotten_range(next, *number - 1);
        }
        next = next.max(*number + 1);
    }
    sys::close_forgotten_range(next, RawFd::MAX);
}

impl<'a> Child<'a> {
    /// Everything of the host's goes, once the working directory, the last of the container's paths, is entered: from here
    /// on the container's user may look at us (a parked process, its startContainer hooks).
    fn let_go(&mut self) -> Done {
        let plan = self.birth.plan;
        let lasting = |step: &Step| match step {
            Step::Park { socket } => Some(*socket),
            Step::Seccomp { listener: Some(listener), .. } => Some(listener.socket),
            _ => None,
        };
        if plan.steps.iter().any(|step| matches!(step, Step::Seccomp { listener: Some(_), .. })) {
            let length = sys::read_link(self.birth.proc, c"self", &mut self.host_pid.0).during(Op::ProcRead)?;
            self.host_pid.1 = length;
        }
        (self.root, self.made_root, self.empty) = (None, None, None);
        self.birth.remembered.fill_with(|| None);
        for (index, fd) in self.birth.fds.iter().enumerate() {
            let is_this = |other: FdIndex| usize::from(other.0) == index;
            let stays = plan.status.is_some_and(is_this) || plan.steps.iter().filter_map(lasting).any(is_this);
            if !stays {
                sys::close_forgotten(fd.as_raw_fd());
            }
        }
        sys::close_forgotten(self.birth.proc.as_raw_fd());
        Ok(())
    }

    fn execute(&mut self, step: &'a Step) -> Done {
        match step {
            Step::AwaitParent => self.await_parent(),
            Step::JoinCgroup { tasks } => self.write_cgroup_file(*tasks, b"0"),
            Step::EnterUserNamespace => namespace::become_root(),
            Step::JoinNamespace(namespace) => self.join_namespace(*namespace),
            Step::JoinContainer { pidfd, namespaces } => self.join_container(*pidfd, *namespaces),
            Step::NewSession => rustix::process::setsid().map(drop).during(Op::Call),
            Step::NewCgroupNamespace => sys::unshare(libc::CLONE_NEWCGROUP).during(Op::Call),
            Step::NewTimeNamespace { offsets } => self.new_time_namespace(offsets),
            Step::LoopbackUp => sys::loopback_up().during(Op::Call),
            Step::Hostname(name) => rustix::system::sethostname(name.to_bytes()).during(Op::Call),
            Step::Domainname(name) => rustix::system::setdomainname(name.to_bytes()).during(Op::Call),
            Step::PrivateMounts => mount::make_private(),
            Step::RuntimeHooks => self.runtime_hooks(),
            Step::Hook(hook) => self.hook(hook),
            Step::SessionKeyring(name) => attribute::session_keyring(name),
            Step::Sysctl { path, value } => self.sysctl(path, value),
            Step::LimitProcesses { file, limit } => self.write_cgroup_file(*file, limit.to_bytes()),
            Step::Scheduler(scheduler) => sys::set_scheduler(scheduler).during(Op::Call),
            Step::IoPriority(value) => sys::set_io_priority(*value).during(Op::Call),
            Step::CpuAffinity(mask) => sys::set_affinity(mask).during(Op::Call),
            Step::Personality(value) => sys::set_personality(*value).during(Op::Call),
            Step::MemoryPolicy { mode, nodes } => sys::set_memory_policy(*mode, nodes).during(Op::Call),
            Step::Label { module, text } => self.label(*module, text),
            Step::AttachRoot { tree, place } => self.attach_root(*tree, place),
            Step::AdoptRoot { root } => self.adopt_root(*root),
            Step::OverlayRoot { lower, upper_size } => self.overlay_root(*lower, upper_size),
            Step::MountFilesystem { target, fstype, source, parameters, attrs, copy_up, slot, .. } => self
                .mount_filesystem(target, fstype, source, parameters, attrs, *copy_up)
                .and_then(|mount| self.remember(*slot, mount.as_fd())),
            Step::MountTree { target, source, attrs, slot, .. } => self.mount_tree(target, source, attrs, *slot),
            Step::Remount { target, attrs, .. } => self.remount(target, attrs),
            Step::Device { path, mode, major, minor, uid, gid } => {
                self.device(path, *mode, rustix::fs::makedev(*major, *minor), (*uid, *gid))
            }
            Step::Symlink { path, to } => self.symlink(path, to),
            Step::PivotRoot => self.pivot_root(),
            Step::MoveRoot => self.move_root(),
            Step::CoverRoot => self.cover_root(),
            Step::ChangeRoot => self.change_root(),
            Step::RootPropagation(flags) => self.root_propagation(*flags),
            Step::MakeWorkingDirectory(path) => self.make_working_directory(path),
            Step::ReadonlyRoot => self.readonly_root(),
            Step::ReadonlyPath(path) => self.readonly_path(path),
            Step::MaskPath(path) => self.mask_path(path),
            Step::Umask(mask) => {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(*mask));
                Ok(())
            }
            Step::OomScoreAdj(value) => self.oom_score_adj(*value),
            Step::Rlimit(limit) => sys::set_rlimit(limit).during(Op::Call),
            Step::Terminal { socket, rows, columns, uid, console, keep_line_ends } => {
                self.terminal(*socket, (*rows, *columns), *uid, *console, *keep_line_ends)
            }
            Step::Stdio { stdin, stdout, stderr, uid } => self.stdio([*stdin, *stdout, *stderr], *uid),
            Step::WorkingDirectory(path) => self.working_directory(path).and_then(|()| self.let_go()),
            Step::BoundingSet(keep) => identity::bounding_set(*keep),
            Step::Identity { uid, gid, groups, set_groups } => identity::become_user(*uid, *gid, groups, *set_groups),
            Step::Capabilities(sets) => identity::capabilities(sets),
            Step::NoNewPrivileges => sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop).during(Op::Call),
            Step::Seccomp { program, flags, listener } => {
                // The profile may forbid it later.
                sys::heed_broken_pipes();
                self.seccomp(program, *flags, listener.as_ref())
            }
            Step::DieWithParent(signal) => {
                sys::prctl(libc::PR_SET_PDEATHSIG, u64::from(*signal), 0).map(drop).during(Op::Call)
            }
            Step::FindExecutable { candidates } => self.find_executable(candidates),
            Step::Park { socket } => self.park(*socket),
            Step::Exec { .. } => self.exec(),
        }
    }

    fn fd(&self, index: FdIndex) -> Result<BorrowedFd<'a>, Failure> {
        let fds: &'a [OwnedFd] = self.birth.fds;
        fds.get(usize::from(index.0)).map(AsFd::as_fd).ok_or(Failure { op: Op::MissingFd, errno: Errno::BADF })
    }

    /// All descriptors but the standard and the preserved ones end with the exec, which is when the program sees none of
    /// ours (CVE-2024-21626). Done early: a seccomp filter may forbid close_range(2).
    fn close_the_rest_on_exec(&self) -> Done {
        sys::close_range_cloexec(FIRST_OTHER_FD + self.birth.plan.preserve.len() as i32).during(Op::Call)
    }

    /// The root directory as a descriptor; every path of the container is resolved below it.
    fn root(&self) -> Result<BorrowedFd<'_>, Failure> {
        match (&self.made_root, self.root) {
            (Some(made), _) => Ok(made.as_fd()),
            (None, Some(received)) => Ok(received),
            (None, None) => Err(Failure { op: Op::Resolve, errno: Errno::NOENT }),
        }
    }

    /// Asks whoever listens, and waits for the answer: [`crate::report::answer`].
    fn ask(&self, question: Question, op: Op) -> Done {
        self.report(Report::Asked(question));
        let from = self.report_to.ok_or(Failure { op, errno: Errno::NOTCONN })?;
        match namespace::await_byte(from, op)? {
            0 => Ok(()),
            errno => Err(Failure { op, errno: Errno::from_raw_os_error(i32::from(errno)) }),
        }
    }

    /// Tells whoever listens. Nobody listening is no reason to stop: they may have been killed. (Behind a seccomp profile
    /// the broken pipe ends us, and we never ran: [`crate::state::ProcStat::never_ran`].)
    fn report(&self, report: Report) {
        let to = self.connection.as_ref().map(AsFd::as_fd).or(self.report_to);
        if let Some(to) = to {
            let bytes = report.encode();
            // A socket whose peer is gone might raise SIGPIPE with write(2); a pipe refuses send(2).
            if rustix::net::send(to, &bytes, rustix::net::SendFlags::NOSIGNAL) == Err(Errno::NOTSOCK) {
                let _ = rustix::io::write(to, &bytes);
            }
        }
    }
}
