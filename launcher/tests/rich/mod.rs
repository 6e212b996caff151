//! Configurations with every kind of step that works outside of a zygote.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use brood_launcher::cgroup::Entrance;
use brood_launcher::plan::{BuildOptions, Io, Launch, Stdio, build};
use brood_launcher::state::ContainerState;
use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

/// The socket of `linux.seccomp.listenerPath`, in the bundle.
const AGENT: &str = "agent.sock";

/// Makes the bundle's root; the listener is for the receivers of seccomp.
pub fn bundle(path: &Path) -> UnixListener {
    let rootfs = path.join("rootfs");
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
    std::os::unix::net::UnixListener::bind(path.join(AGENT)).unwrap()
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
            {"destination": "/job/deep", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "rsync"]},
            {"destination": "/dangling/file", "type": "bind", "source": "rootfs/program", "options": ["ro", "private"]},
            {"destination": "/out/of/here", "type": "bind", "source": "rootfs", "options": ["rbind", "rro"]},
            {"destination": "/job/deep", "type": "none", "options": ["remount", "noexec"]},
            {"destination": "/again", "type": "bind", "source": "rootfs/job/deep", "options": ["rbind", "ro"]},
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

/// A user namespace of its own, every other namespace new, and a terminal.
pub fn user_namespace() -> Value {
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

/// No user namespace, some namespaces that exist already, and no terminal.
pub fn joined_namespaces() -> Value {
    let mut namespaces = new(&["mount", "pid", "uts"]);
    namespaces.extend(["ipc", "network", "cgroup"].map(|kind| {
        let file = if kind == "network" { "net" } else { kind };
        json!({"type": kind, "path": format!("/proc/self/ns/{file}")})
    }));
    mapped(config(&namespaces, json!({"sysctl": {"kernel.domainname": "example.net"}})))
}

/// With a mount whose ids are mapped once it is made: by the child, or in a user namespace by us, whom it asks.
pub fn mapped(mut config: Value) -> Value {
    let map = json!([{"containerID": 0, "hostID": 1, "size": 65536}]);
    let mount = json!({"destination": "/mapped", "type": "tmpfs", "uidMappings": map, "gidMappings": map});
    config["mounts"].as_array_mut().unwrap().push(mount);
    config
}

/// The configuration in its last form.
pub fn spec(bundle: &Path, mut config: Value) -> Spec {
    config["linux"]["seccomp"]["listenerPath"] = json!(bundle.join(AGENT));
    serde_json::from_value(config).unwrap()
}

/// A launch, and our ends of its conversations.
pub struct Rich {
    pub launch: Launch,
    pub status: OwnedFd,
    pub console: OwnedFd,
}

impl Rich {
    /// With everything that a launch can have, by a zygote or not; `park` is where it waits for its start.
    pub fn build(
        from_zygote: bool,
        spec: &Spec,
        bundle: &Path,
        container: ContainerState,
        park: Option<OwnedFd>,
    ) -> Rich {
        let (status, childs_status) = pair();
        let (console, io) = io(spec.process().as_ref().unwrap());
        let options = BuildOptions {
            bundle: bundle.to_owned(),
            host_overlay: false,
            container,
            io,
            preserve: vec![stdio().stdin],
            status: childs_status,
            no_pivot: park.is_some(),
            new_keyring: true,
            park,
            cgroups: Entrance { birth: None, tasks: vec![nothing()] },
            few_processes: Some((nothing(), "1".to_owned())),
            from_zygote,
            die_with_parent: Some(9),
        };
        Rich { launch: build(spec, options).unwrap(), status, console }
    }
}

/// A file that takes whatever is written.
fn nothing() -> OwnedFd {
    std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap().into()
}

pub fn stdio() -> Stdio {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let copy: OwnedFd = write.try_clone().unwrap();
    Stdio { stdin: read, stdout: write, stderr: copy }
}

/// What the process has as 0, 1 and 2, and where its terminal would arrive.
pub fn io(process: &Process) -> (OwnedFd, Io) {
    let (console, childs_console) = pair();
    let terminal = process.terminal().unwrap_or(false);
    (console, if terminal { Io::Terminal(childs_console) } else { Io::Descriptors(stdio()) })
}

fn pair() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}
