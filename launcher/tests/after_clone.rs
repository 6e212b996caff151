//! The after-clone contract: between clone3 and execve nothing allocates and nothing frees.
//!
//! The allocator of this test program ends any process but the first with status 99. Plans with every kind of step
//! that works outside of a zygote are run under it; the program at their end is an empty file, so that the child's last
//! report is a failed execve: proof that it came that far.

#![expect(unsafe_code, reason = "a global allocator")]
#![expect(clippy::print_stdout, reason = "a test program without a harness")]

mod rich;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use brood_launcher::plan::{ExecOptions, Io, Launch, NamespaceKind, Step, build_exec};
use brood_launcher::report::{self, Outcome, Question, ReportReader};
use brood_launcher::spawn::{Host, Spawned};
use brood_launcher::state::{ContainerState, Kept, StateRoot};
use rustix::process::{WaitId, WaitIdOptions};
use serde_json::Value;

use crate::rich::{Rich, bundle, joined_namespaces, mapped, spec, stdio, user_namespace};

/// Exit status of a child that allocated.
const ALLOCATED: i32 = 99;

struct FirstProcessOnly;

static FIRST: AtomicI32 = AtomicI32::new(0);

impl FirstProcessOnly {
    fn check() {
        let first = FIRST.load(Ordering::Relaxed);
        // In a new pid namespace the child is pid 1, which the first process is not.
        if first != 0 && rustix::process::getpid().as_raw_nonzero().get() != first {
            brood_launcher::sys::exit_now(ALLOCATED);
        }
    }
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for FirstProcessOnly {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        FirstProcessOnly::check();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        FirstProcessOnly::check();
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: FirstProcessOnly = FirstProcessOnly;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        // The protocol by which nextest asks for a program's tests: https://nexte.st/docs/design/custom-test-harnesses
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("nothing_allocates_after_the_clone: test");
        }
        return;
    }
    FIRST.store(rustix::process::getpid().as_raw_nonzero().get(), Ordering::Relaxed);
    let temp = tempfile::tempdir().unwrap();
    let _agent = bundle(temp.path());
    let mut seen = BTreeSet::new();
    seen.extend(run(temp.path(), mapped(user_namespace()), false));
    seen.extend(run(temp.path(), joined_namespaces(), true));
    // The zygote's own: only it has `/lower` and `/scratch`, and a root that may be covered. `tests/run.rs` runs them in
    // every embedded container. Labels need a security module that most machines do not have.
    // A root in the host's mount namespace would be a mount of the host's: `tests/host_mounts.rs`.
    let elsewhere = ["overlay root", "cover root", "label", "adopt root", "change root"];
    println!("{} kinds of steps ran without the allocator", seen.len());
    assert_eq!(seen.len() + elsewhere.len(), Step::KINDS, "steps that ran: {seen:?}");
    println!("test result: ok. 2 passed; 0 failed");
}

/// Runs a configuration to its execve and returns the names of its steps.
fn run(bundle: &Path, config: Value, park: bool) -> Vec<&'static str> {
    let spec = spec(bundle, config);
    let state = ContainerState { id: if park { "parked" } else { "run" }.into(), ..ContainerState::default() };
    let dir = StateRoot::open(&bundle.join("state")).unwrap().reserve(&state).unwrap();
    let rich = Rich::build(false, &spec, bundle, state, park.then(|| dir.start_socket().listen().unwrap()));
    let Rich { launch: Launch { mut plan, fds, asked_maps, .. }, status, console } = rich;
    let spawned = Host::open(false).unwrap().spawn(&plan, &fds).unwrap();
    drop(fds);
    let mut reader = ReportReader::default();
    reader.read_to_end(&status).unwrap();
    while let Some(question) = reader.take_question() {
        let done = match question {
            Question::RuntimeHooks => Ok(()),
            Question::MapIds { number, tree } => asked_maps.set(number, spawned.pidfd.as_fd(), tree),
        };
        report::answer(&status, done);
        reader.read_to_end(&status).unwrap();
    }
    drop(console);
    let mut outcome = reader.finish(&plan);
    let mut names: Vec<&'static str> = plan.steps.drain(..).map(|step| step.name()).collect();
    if park {
        assert_eq!(outcome, Outcome::Parked);
        names.extend(exec_into(&spec, &spawned));
        let mut reader = ReportReader::default();
        dir.start_socket().announce().unwrap();
        reader.read_to_end(&dir.start_socket().connect().unwrap()).unwrap();
        outcome = reader.finish_start();
    }
    let ended = rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    let Outcome::Failed(error) = outcome else { panic!("{outcome:?}, status {:?}", ended.exit_status()) };
    assert_eq!(error.step, "exec", "{error}");
    assert_ne!(ended.exit_status(), Some(ALLOCATED));
    assert!(bundle.join("rootfs/made/by/us").is_dir(), "the dangling link was followed");
    names
}

/// Runs an exec in a parked container to its execve, which fails like the container's own.
fn exec_into(spec: &oci_spec::runtime::Spec, container: &Spawned) -> Vec<&'static str> {
    let (status, status_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let init = container.pidfd.try_clone().unwrap();
    let options = ExecOptions {
        from_zygote: false,
        init,
        init_pid: container.pid,
        io: Io::Descriptors(stdio()),
        preserve: Vec::new(),
        status: status_write,
        cgroups: brood_launcher::cgroup::Entrance::default(),
        kept: Kept::of(spec),
        container: ContainerState { id: "parked".into(), ..ContainerState::default() },
        park: None,
    };
    let Launch { plan, fds, .. } = build_exec(spec.process().as_ref().unwrap(), options).unwrap();
    // Without a user namespace of the container's own, its processes may look at the exec from its birth on.
    assert!(plan.born.iter().any(|namespace| namespace.kind == NamespaceKind::Mount), "{:?}", plan.born);
    let spawned = Host::open(false).unwrap().spawn(&plan, &fds).unwrap();
    drop(fds);
    let mut reader = ReportReader::default();
    reader.read_to_end(&status).unwrap();
    rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    let Outcome::Failed(error) = reader.finish(&plan) else { panic!("{:?}", reader.finish(&plan)) };
    assert_eq!(error.step, "exec", "{error}");
    plan.steps.iter().map(Step::name).collect()
}
