//! The after-clone contract: between clone3 and execve nothing allocates and nothing frees.
//!
//! The allocator of this test program ends any process but the first with status 99. Plans with every kind of step
//! that works outside of a zygote are run under it; the program at their end is an empty file, so that the child's last
//! report is a failed execve: proof that it came that far.

#![expect(unsafe_code, reason = "a global allocator")]
#![expect(clippy::print_stdout, reason = "a test program without a harness")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use brood_launcher::plan::{BuildOptions, ExecOptions, Io, Launch, Stdio, Step, build, build_exec};
use brood_launcher::report::{Outcome, ReportReader};
use brood_launcher::spawn::{Host, Spawned};
use brood_launcher::state::{ContainerState, Kept, StateRoot};
use rustix::process::{WaitId, WaitIdOptions};
use serde_json::{Value, json};

/// Exit status of a child that allocated.
const ALLOCATED: i32 = 99;

/// The socket of `linux.seccomp.listenerPath`, in the bundle.
const AGENT: &str = "agent.sock";

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
    let rootfs = temp.path().join("rootfs");
    std::fs::create_dir(&rootfs).unwrap();
    // An image that makes the resolver work: a link that leads nowhere yet, and one that leads out.
    std::os::unix::fs::symlink("made/by/us", rootfs.join("dangling")).unwrap();
    std::os::unix::fs::symlink("/../../../../..", rootfs.join("out")).unwrap();
    std::fs::write(rootfs.join("program"), "").unwrap();
    std::fs::set_permissions(rootfs.join("program"), PermissionsExt::from_mode(0o755)).unwrap();

    std::fs::copy("/bin/busybox", rootfs.join("busybox")).unwrap();
    // What is copied up: every kind of entry but devices, which a user namespace does not let us make.
    std::fs::create_dir_all(rootfs.join("filled/deep/er")).unwrap();
    std::fs::write(rootfs.join("filled/deep/file"), [1; 10_000]).unwrap();
    std::os::unix::fs::symlink("file", rootfs.join("filled/deep/link")).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, rootfs.join("filled/fifo"), kind, mode, 0).unwrap();

    // The container's root makes the mount points, and in a user namespace that is this user.
    std::os::unix::fs::chown(&rootfs, Some(100_000), Some(100_000)).unwrap();

    // Seccomp listeners are sent there; what they would be asked for is not called.
    let _agent = std::os::unix::net::UnixListener::bind(temp.path().join(AGENT)).unwrap();
    let mut seen = BTreeSet::new();
    seen.extend(run(temp.path(), user_namespace(), false));
    seen.extend(run(temp.path(), joined_namespaces(), true));
    // The zygote's own: `/lower` and `/scratch` are there only. `tests/run.rs` runs it in every embedded container.
    // Labels need a security module that most machines do not have.
    let elsewhere = ["overlay root", "label"];
    println!("{} kinds of steps ran without the allocator", seen.len());
    assert_eq!(seen.len() + elsewhere.len(), Step::KINDS, "steps that ran: {seen:?}");
    println!("test result: ok. 2 passed; 0 failed");
}

fn config(namespaces: &[Value], linux: Value) -> Value {
    let mut config = json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 7, "gid": 8, "umask": 0o27, "additionalGids": [9, 10]},
            "args": ["program"], "env": ["PATH=/nowhere:/:/bin", "HOME=/"], "cwd": "/job/deep",
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}],
            "noNewPrivileges": true, "oomScoreAdj": 500,
            "scheduler": {"policy": "SCHED_OTHER", "nice": 1},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "execCPUAffinity": {"initial": "0", "final": "0"},
            "consoleSize": {"height": 20, "width": 30},
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "after-clone", "domainname": "example.org",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "rnoexec"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "ro", "strictatime"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            {"destination": "/job/deep", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
            {"destination": "/dangling/file", "type": "bind", "source": "rootfs/program", "options": ["ro", "private"]},
            {"destination": "/out/of/here", "type": "bind", "source": "rootfs", "options": ["rbind", "rro"]},
            {"destination": "/job/deep", "type": "none", "options": ["remount", "noexec"]},
            {"destination": "/filled", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]},
        ],
        "hooks": {
            "createRuntime": [{"path": "/bin/true"}],
            "createContainer": [{"path": "/bin/true", "args": ["true"], "timeout": 100}],
            "startContainer": [{"path": "/busybox", "args": ["true"], "env": ["A=b"]}],
        },
        "linux": {
            "personality": {"domain": "LINUX"},
            "memoryPolicy": {"mode": "MPOL_DEFAULT"},
            "rootfsPropagation": "rprivate",
            "maskedPaths": ["/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/proc/missing"],
            "readonlyPaths": ["/proc/sys", "/proc/missing"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"},
                    {"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"},
                ],
            },
        },
    });
    config["linux"]["namespaces"] = namespaces.into();
    for (key, value) in linux.as_object().unwrap() {
        config["linux"][key] = value.clone();
    }
    config
}

fn new(kinds: &[&str]) -> Vec<Value> {
    kinds.iter().map(|kind| json!({"type": kind})).collect()
}

fn user_namespace() -> Value {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let namespaces = new(&["mount", "pid", "ipc", "uts", "network", "cgroup", "time", "user"]);
    let offsets = json!({"monotonic": {"secs": 5, "nanosecs": 6}, "boottime": {"secs": 7}});
    let mut config = config(
        &namespaces,
        json!({"uidMappings": mapping, "gidMappings": mapping, "timeOffsets": offsets, "sysctl": {"net.ipv4.ip_forward": "0"}}),
    );
    config["process"]["terminal"] = true.into();
    config
}

fn joined_namespaces() -> Value {
    let mut namespaces = new(&["mount", "pid", "uts"]);
    namespaces.extend(["ipc", "network", "cgroup"].map(|kind| {
        let file = if kind == "network" { "net" } else { kind };
        json!({"type": kind, "path": format!("/proc/self/ns/{file}")})
    }));
    let mut config = config(&namespaces, json!({"sysctl": {"kernel.domainname": "example.net"}}));
    let map = json!([{"containerID": 0, "hostID": 1, "size": 65536}]);
    let mapped = json!({"destination": "/mapped", "type": "tmpfs", "uidMappings": map, "gidMappings": map});
    config["mounts"].as_array_mut().unwrap().push(mapped);
    config
}

/// Runs a configuration to its execve and returns the names of its steps.
fn run(bundle: &Path, mut config: Value, park: bool) -> Vec<&'static str> {
    config["linux"]["seccomp"]["listenerPath"] = json!(bundle.join(AGENT));
    let spec = serde_json::from_value(config).unwrap();
    let state = ContainerState { id: if park { "parked" } else { "run" }.into(), ..ContainerState::default() };
    let dir = StateRoot::open(&bundle.join("state")).unwrap().reserve(&state).unwrap();
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socketpair = || rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let ((status, childs_status), (console, childs_console)) = (socketpair().unwrap(), socketpair().unwrap());
    let terminal = spec_terminal(&spec);
    let Launch { mut plan, fds, .. } = build(
        &spec,
        BuildOptions {
            bundle: bundle.to_owned(),
            host_overlay: false,
            container: state,
            io: if terminal { Io::Terminal(childs_console) } else { Io::Descriptors(stdio()) },
            preserve: vec![stdio().stdin],
            status: childs_status,
            no_pivot: park,
            new_keyring: true,
            park: park.then(|| dir.start_socket().listen().unwrap()),
            cgroup: None,
            from_zygote: false,
            die_with_parent: Some(9),
        },
    )
    .unwrap();
    let spawned = Host::open(false).unwrap().spawn(&plan, &fds).unwrap();
    drop(fds);
    let mut reader = ReportReader::default();
    reader.read_to_end(&status).unwrap();
    if reader.awaits_hooks() {
        rustix::net::send(&status, &[1], rustix::net::SendFlags::NOSIGNAL).unwrap();
        reader.read_to_end(&status).unwrap();
    }
    drop(console);
    let mut outcome = reader.finish(&plan);
    let mut names: Vec<&'static str> = plan.steps.drain(..).map(|step| step.name()).collect();
    if park {
        assert_eq!(outcome, Outcome::Parked);
        names.extend(exec_into(&spec, &spawned));
        let mut reader = ReportReader::default();
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
        init,
        init_pid: container.pid,
        io: Io::Descriptors(stdio()),
        preserve: Vec::new(),
        status: status_write,
        cgroup: None,
        kept: Kept::of(spec),
        container: ContainerState { id: "parked".into(), ..ContainerState::default() },
        park: None,
    };
    let Launch { plan, fds, .. } = build_exec(spec.process().as_ref().unwrap(), options).unwrap();
    let spawned = Host::open(false).unwrap().spawn(&plan, &fds).unwrap();
    drop(fds);
    let mut reader = ReportReader::default();
    reader.read_to_end(&status).unwrap();
    rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    let Outcome::Failed(error) = reader.finish(&plan) else { panic!("{:?}", reader.finish(&plan)) };
    assert_eq!(error.step, "exec", "{error}");
    plan.steps.iter().map(Step::name).collect()
}

fn spec_terminal(spec: &oci_spec::runtime::Spec) -> bool {
    spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false)
}

fn stdio() -> Stdio {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let copy: OwnedFd = write.try_clone().unwrap();
    Stdio { stdin: read, stdout: write, stderr: copy }
}
