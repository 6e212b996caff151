//! Every way that a child can fail before its execve: between any two steps, and in each kind of step by its own means.
//!
//! Nothing may be left of it: no process (orphans come to this one), mount, descriptor, or file in the state directory.

#![expect(clippy::print_stdout, reason = "a test program without a harness")]

mod faults;
mod rich;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;

use brood_launcher::cgroup::Entrance;
use brood_launcher::plan::{
    CapabilitySets, ExecOptions, FdIndex, HiddenPath, Hook, HookKind, IdMap, Launch, MountAttrs, Namespace,
    NamespaceKind, Plan, Rlimit, Scheduler, SecurityModule, StateText, Step, Target, TargetKind, TreeSource,
    build_exec,
};
use brood_launcher::report::Report;
use brood_launcher::spawn::{Host, Spawned};
use brood_launcher::state::{ContainerDir, ContainerState, Kept, StateRoot};
use oci_spec::runtime::Spec;
use rustix::net::Shutdown;

use crate::faults::{FAILED, Traces, assert_failed, no_namespace, own_mounts, read, reap, reap_killed};
use crate::rich::{Rich, bundle, joined_namespaces, spec, stdio, user_namespace};

/// No plan has as many descriptors.
const MISSING: FdIndex = FdIndex(u16::MAX);

/// A word of the message, and what makes the cloning process fail.
type Fault = (&'static str, fn(&mut Plan));

/// Where a step that is sure to fail goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Before the root is there.
    Early,
    /// Right before the root becomes the root.
    Mounted,
    /// With the container's user and its few capabilities.
    Late,
}

/// Kinds of steps that no test of this file makes fail, and why.
const NEVER: [(&str, &str); 5] = [
    ("await parent", "fails with the parent's half only, which kills the child and reports for it: `parents_half`"),
    ("personality", "the kernel takes any number"),
    ("umask", "umask(2) cannot fail"),
    ("no new privileges", "prctl(2) refuses nobody"),
    ("exec", "the program is an empty file, so this is how every plan ends that nothing else ends"),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("nothing_is_left_of_a_failed_child: test");
        }
        return;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    own_mounts();
    let temp = tempfile::tempdir().unwrap();
    let _agent = bundle(temp.path());
    let state = StateRoot::open(&temp.path().join("state")).unwrap();
    let container = ContainerState { id: "faults".into(), ..ContainerState::default() };
    let dir = state.reserve(&container).unwrap();
    let mut failures = 0;
    for (config, park) in [(user_namespace(), false), (user_namespace(), true), (joined_namespaces(), true)] {
        let world = World { bundle: temp.path(), dir: &dir, spec: spec(temp.path(), config), park };
        failures += world.between_any_two_steps(&container) + world.each_kind_by_its_own_means(&container);
        world.hooks_that_are_never_answered(&container);
        failures += if park { world.execs(&container) } else { world.parents_half(&container) };
    }
    println!("{failures} failures left nothing behind");
    println!("test result: ok. 1 passed; 0 failed");
}

/// A configuration and where it is tried.
struct World<'a> {
    bundle: &'a Path,
    dir: &'a ContainerDir,
    spec: Spec,
    park: bool,
}

impl World<'_> {
    fn build(&self, container: &ContainerState) -> Rich {
        // That of the launch before.
        self.dir.start_socket().remove();
        let socket = self.park.then(|| self.dir.start_socket().listen().unwrap());
        Rich::build(false, &self.spec, self.bundle, container.clone(), socket)
    }

    fn between_any_two_steps(&self, container: &ContainerState) -> usize {
        let count = self.build(container).launch.plan.steps.len();
        for position in 0..=count {
            self.fails_at(container, position, (position < count).then(no_namespace), position.min(count - 1));
        }
        count + 1
    }

    fn each_kind_by_its_own_means(&self, container: &ContainerState) -> usize {
        let table = spoiled();
        let kinds: BTreeMap<_, _> = table.iter().map(|(place, step)| (step.name(), place)).collect();
        // Runtime hooks have a test of their own.
        assert_eq!(kinds.len() + NEVER.len() + 1, Step::KINDS, "kinds that fail: {kinds:?}");
        let steps = self.build(container).launch.plan.steps;
        let at = |names: &[&str]| steps.iter().position(|step| names.contains(&step.name())).unwrap();
        for (place, step) in &table {
            let position = match place {
                // Only then is the child allowed to do anything in its user namespace.
                Place::Early => at(&["new session"]) + 1,
                Place::Mounted => at(&["runtime hooks"]),
                Place::Late => at(&["find executable"]),
            };
            self.fails_at(container, position, Some(step.clone()), position);
        }
        table.len()
    }

    /// Inserts the step, runs the plan, and expects the report of a failure at that position.
    fn fails_at(&self, container: &ContainerState, position: usize, step: Option<Step>, expected: usize) {
        let before = Traces::look(self.dir);
        let what = format!("{step:?} at {position}");
        {
            let mut rich = self.build(container);
            if let Some(step) = step {
                rich.launch.plan.steps.insert(position, step);
            }
            let Launch { plan, fds, .. } = rich.launch;
            match Host::open(false).unwrap().spawn(&plan, &fds) {
                Ok(spawned) => {
                    drop(fds);
                    let mut report = read(&rich.status);
                    if report == Some(Report::Ready) {
                        self.dir.start_socket().announce().unwrap();
                        report = read(&self.dir.start_socket().connect().unwrap());
                    }
                    drop(rich.console);
                    assert_failed(report, expected, &what);
                    assert_eq!(reap(&spawned), Some(FAILED), "{what}");
                }
                // A child that is gone before its parent's half leaves nobody to write maps for.
                Err(error) => {
                    assert_eq!((position, plan.steps.get(1)), (0, Some(&Step::AwaitParent)), "{what}: {error}");
                    reap_killed(&error);
                }
            }
        }
        before.assert_same(self.dir, &what);
    }

    /// The runtime dies while it runs the hooks for which the child waits.
    fn hooks_that_are_never_answered(&self, container: &ContainerState) {
        let before = Traces::look(self.dir);
        {
            let Rich { launch: Launch { plan, fds, .. }, status, .. } = self.build(container);
            let expected = plan.steps.iter().position(|step| *step == Step::RuntimeHooks).unwrap();
            let spawned = Host::open(false).unwrap().spawn(&plan, &fds).unwrap();
            drop(fds);
            rustix::net::shutdown(&status, Shutdown::Write).unwrap();
            assert_failed(read(&status), expected, "hooks");
            assert_eq!(reap(&spawned), Some(FAILED));
        }
        before.assert_same(self.dir, "hooks");
    }

    /// The cloning process cannot do its half: the child, which waits for it, is killed.
    fn parents_half(&self, container: &ContainerState) -> usize {
        let faults: [Fault; 4] = [
            ("uid_map", |plan| plan.id_maps.as_mut().unwrap().uid_map = b"no map".to_vec()),
            ("gid_map", |plan| plan.id_maps.as_mut().unwrap().gid_map = b"0 0 0".to_vec()),
            ("oomScoreAdj", |plan| plan.oom_score_adj = Some(5000)),
            ("rlimits", |plan| plan.rlimits.push(Rlimit { resource: 999, soft: 1, hard: 1 })),
        ];
        for (what, spoil) in faults {
            let before = Traces::look(self.dir);
            {
                let mut rich = self.build(container);
                spoil(&mut rich.launch.plan);
                let error = Host::open(false).unwrap().spawn(&rich.launch.plan, &rich.launch.fds).unwrap_err();
                assert!(error.what.contains(what), "{what}: {error}");
                assert_eq!(error.killed.len(), 1, "{what}");
                reap_killed(&error);
            }
            before.assert_same(self.dir, what);
        }
        faults.len()
    }

    /// Between any two steps of an exec into a container that waits for its start.
    fn execs(&self, container: &ContainerState) -> usize {
        let Rich { launch: Launch { plan, fds, .. }, status, console: _console } = self.build(container);
        let init = Host::open(false).unwrap().spawn(&plan, &fds).unwrap();
        drop(fds);
        assert_eq!(read(&status), Some(Report::Ready));
        let mut position = 0;
        loop {
            let before = Traces::look(self.dir);
            let last = self.exec_fails_at(container, &init, position);
            before.assert_same(self.dir, &format!("exec at {position}"));
            position += 1;
            if last {
                break;
            }
        }
        rustix::process::pidfd_send_signal(&init.pidfd, rustix::process::Signal::KILL).unwrap();
        reap(&init);
        position
    }

    /// Whether that was the last position.
    fn exec_fails_at(&self, container: &ContainerState, init: &Spawned, position: usize) -> bool {
        let (status, status_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let process = self.spec.process().as_ref().unwrap();
        let (_console, io) = rich::io(process);
        let options = ExecOptions {
            from_zygote: false,
            init: init.pidfd.try_clone().unwrap(),
            init_pid: init.pid,
            io,
            preserve: vec![stdio().stdin],
            status: status_write,
            cgroups: Entrance::default(),
            kept: Kept::of(&self.spec),
            container: container.clone(),
            park: None,
        };
        let Launch { mut plan, fds, .. } = build_exec(process, options).unwrap();
        plan.steps.insert(position, no_namespace());
        let spawned = Host::open(false).unwrap().spawn(&plan, &fds).unwrap();
        drop(fds);
        assert_failed(read(&status), position, "exec");
        assert_eq!(reap(&spawned), Some(FAILED), "exec at {position}");
        position + 2 == plan.steps.len()
    }
}

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn target(path: &str) -> Target {
    Target { path: text(path), kind: TargetKind::Directory, no_symlinks: false, no_follow: false }
}

fn hidden(path: &str) -> HiddenPath {
    HiddenPath { path: text(path), slot: None, below: text("") }
}

/// Each kind of step in a form, or at a place, that makes it fail.
fn spoiled() -> Vec<(Place, Step)> {
    use Place::{Early, Late, Mounted};
    let attrs = MountAttrs::default();
    let asked = MountAttrs { id_map: IdMap::Asked(0), ..attrs };
    let of_container = |path| TreeSource::Container { path: text(path), recursive: true, no_follow: false };
    let (missing, nowhere, everything) = (TreeSource::Opened(MISSING), of_container("/nowhere"), of_container("/"));
    let state = StateText { parts: vec![b"{}".to_vec()] };
    let hook = Hook {
        kind: HookKind::CreateContainer,
        index: 0,
        path: text("/nowhere/hook"),
        argv: vec![text("hook")],
        env: Vec::new(),
        timeout: 0,
        state,
    };
    vec![
        (Early, Step::JoinNamespace(Namespace { kind: NamespaceKind::Network, fd: MISSING })),
        (Early, Step::JoinContainer { pidfd: MISSING, namespaces: 0 }),
        (Early, Step::NewSession),
        (Early, Step::Hostname(text(&"x".repeat(65)))),
        (Early, Step::Domainname(text(&"x".repeat(65)))),
        (Early, Step::Sysctl { path: text("net/nowhere"), value: b"1".to_vec() }),
        (Early, Step::SessionKeyring(text(&"x".repeat(5000)))),
        (Early, Step::Scheduler(Scheduler { policy: 77, ..Scheduler::default() })),
        (Early, Step::IoPriority(7 << 13)),
        (Early, Step::CpuAffinity(vec![0])),
        (Early, Step::MemoryPolicy { mode: 99, nodes: Vec::new() }),
        (Early, Step::Label { module: SecurityModule::Selinux, text: text("no:such:label") }),
        (Early, Step::AttachRoot { tree: MISSING, place: text("/") }),
        (Early, Step::OverlayRoot { lower: MISSING, upper_size: text("") }),
        (Early, Step::PivotRoot),
        (Early, Step::MoveRoot),
        (Early, Step::CoverRoot),
        (Early, Step::AdoptRoot { root: MISSING }),
        (Early, Step::ChangeRoot),
        (Early, Step::ReadonlyRoot),
        (Early, Step::ReadonlyPath(hidden("/proc"))),
        (Early, Step::MaskPath(hidden("/proc"))),
        (Early, Step::JoinCgroup { tasks: MISSING }),
        (Early, Step::LimitProcesses { file: MISSING, limit: text("1") }),
        (Early, Step::OomScoreAdj(5000)),
        (Early, Step::Rlimit(Rlimit { resource: 999, soft: 1, hard: 1 })),
        (Early, Step::Terminal { socket: MISSING, rows: 0, columns: 0, uid: 0, keep_line_ends: false, console: true }),
        (Early, Step::DieWithParent(1000)),
        (Early, Step::FindExecutable { candidates: Vec::new() }),
        (Early, Step::Park { socket: MISSING }),
        (Mounted, Step::Hook(hook)),
        (
            Mounted,
            Step::MountFilesystem {
                index: 0,
                target: target("/job"),
                fstype: text("nonesuch"),
                source: text("none"),
                parameters: Vec::new(),
                attrs,
                copy_up: false,
                slot: None,
            },
        ),
        (Mounted, Step::MountTree { index: 0, target: target("/job"), source: missing, attrs, slot: None }),
        (Mounted, Step::MountTree { index: 0, target: target("/job"), source: nowhere, attrs, slot: None }),
        (
            Mounted,
            Step::MountTree { index: 0, target: target("/job"), source: everything.clone(), attrs: asked, slot: None },
        ),
        (Mounted, Step::MountTree { index: 0, target: target("/"), source: everything, attrs, slot: None }),
        (Mounted, Step::Remount { index: 0, target: target("/nowhere"), attrs }),
        (
            Mounted,
            Step::Device { path: text("/program"), mode: libc::S_IFCHR | 0o600, major: 1, minor: 3, uid: 0, gid: 0 },
        ),
        (Mounted, Step::Symlink { path: text("/program/link"), to: text("x") }),
        (Mounted, Step::RootPropagation(7)),
        (Mounted, Step::MakeWorkingDirectory(text("/program/below"))),
        (Mounted, Step::WorkingDirectory(text("/nowhere"))),
        (Mounted, Step::Stdio { stdin: MISSING, stdout: MISSING, stderr: MISSING, uid: 0 }),
        (Mounted, Step::Seccomp { program: Vec::new(), flags: 0, listener: None }),
        (Late, Step::EnterUserNamespace),
        (Late, Step::NewCgroupNamespace),
        (Late, Step::NewTimeNamespace { offsets: Vec::new() }),
        (Late, Step::LoopbackUp),
        (Late, Step::PrivateMounts),
        (Late, Step::BoundingSet(0)),
        (Late, Step::Identity { uid: 1, gid: 1, groups: Vec::new(), set_groups: true }),
        (Late, Step::Capabilities(CapabilitySets { permitted: 1 << 21, ..CapabilitySets::default() })),
    ]
}
