//! What tests of failing launches have in common: how a failure shows, and what it could leave behind.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use brood_launcher::plan::{FdIndex, Namespace, NamespaceKind, Step};
use brood_launcher::report::{self, Question, REPORT_LEN, Report};
use brood_launcher::spawn::{SpawnError, Spawned};
use brood_launcher::state::ContainerDir;
use brood_launcher::sys;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

/// What a child ends with that did not come to its execve.
pub const FAILED: i32 = 125;

/// Made by the launching process, not by the child: where that waits for its start, under either name.
const SOCKETS: [&str; 2] = ["early.sock", "start.sock"];

/// A mount namespace in which nobody else mounts anything, and to which whatever a child mounts would spread that forgot to
/// cut itself off.
pub fn own_mounts() {
    sys::unshare(libc::CLONE_NEWNS).unwrap();
    let root = fs::File::open("/").unwrap();
    for propagation in [libc::MS_PRIVATE, libc::MS_SHARED] {
        sys::mount_setattr(root.as_fd(), true, 0, 0, propagation).unwrap();
    }
}

/// The child's last record; its hooks are answered on the way, and it may map nothing.
pub fn read(status: &OwnedFd) -> Option<Report> {
    let (mut last, mut bytes) = (None, [0; REPORT_LEN]);
    loop {
        match rustix::io::read(status, &mut bytes) {
            Ok(0) | Err(Errno::CONNRESET) => return last,
            Ok(length) => assert_eq!(length, REPORT_LEN),
            Err(errno) => panic!("{errno}"),
        }
        last = Report::decode(bytes);
        // Either is refused where the answer is that there will be none.
        match last {
            Some(Report::Asked(Question::RuntimeHooks)) => report::answer(status, Ok(())),
            Some(Report::Asked(Question::MapIds { .. })) => report::answer(status, Err(Errno::PERM)),
            _ => {}
        }
    }
}

pub fn assert_failed(report: Option<Report>, expected: usize, what: &str) {
    let Some(Report::Failed { step, .. }) = report else { panic!("{what}: {report:?}") };
    assert_eq!(usize::from(step), expected, "{what}: {report:?}");
}

pub fn reap(spawned: &Spawned) -> Option<i32> {
    let ended = rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    ended.unwrap().exit_status()
}

pub fn reap_killed(error: &SpawnError) {
    for killed in &error.killed {
        rustix::process::waitid(WaitId::PidFd(killed.as_fd()), WaitIdOptions::EXITED).unwrap();
    }
}

/// What a launch could leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    mounts: String,
    descriptors: usize,
    files: Vec<String>,
    children: String,
}

impl Traces {
    pub fn look(dir: &ContainerDir) -> Traces {
        let mut files: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !SOCKETS.contains(&name.as_str()))
            .collect();
        files.sort();
        Traces {
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap(),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            files,
            // With those that ended and were not reaped; a container that execs go into is the same before and after.
            children: fs::read_to_string("/proc/thread-self/children").unwrap(),
        }
    }

    pub fn assert_same(&self, dir: &ContainerDir, what: &str) {
        let found = Traces::look(dir);
        let more: Vec<&str> = found.mounts.lines().filter(|line| !self.mounts.contains(line)).collect();
        assert_eq!(more, Vec::<&str>::new(), "{what}: mounts");
        assert_eq!(found.children, self.children, "{what}: processes");
        assert_eq!(found, *self, "{what}");
    }
}

pub fn no_namespace() -> Step {
    // The first descriptor of every plan is where its reports go.
    Step::JoinNamespace(Namespace { kind: NamespaceKind::Uts, fd: FdIndex(0) })
}
