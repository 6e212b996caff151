//! `spec`, `features` and `version`: documents about the runtime, not about a container.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::list::print;

/// The newest runtime-spec this runtime follows.
const OCI_VERSION: &str = "1.2.1";

#[derive(Args)]
pub struct SpecArgs {
    /// Directory to write config.json into
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// For an ordinary user: with a user namespace
    #[arg(long)]
    rootless: bool,
}

pub fn spec(args: &SpecArgs) -> anyhow::Result<ExitCode> {
    let path = args.bundle.join("config.json");
    let mut document = template();
    if args.rootless {
        make_rootless(&mut document);
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = file.with_context(|| path.display().to_string())?;
    std::io::Write::write_all(&mut file, format!("{document:#}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What runc writes, the terminal too, which this version refuses to run with.
fn template() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "brood",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn make_rootless(document: &mut Value) {
    let mapping = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
    let linux = &mut document["linux"];
    linux["uidMappings"] = mapping(rustix::process::getuid().as_raw());
    linux["gidMappings"] = mapping(rustix::process::getgid().as_raw());
    linux["resources"] = Value::Null;
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        // A network namespace could not be configured, and without one sysfs cannot be mounted anew.
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    if let Some(mounts) = document["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "cgroup");
        for mount in mounts {
            match mount["destination"].as_str() {
                Some("/sys") => {
                    *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
                }
                Some("/dev/pts") => {
                    if let Some(options) = mount["options"].as_array_mut() {
                        options.retain(|option| option != "gid=5");
                    }
                }
                _ => {}
            }
        }
    }
}

/// Mount options that mean something here; any other word goes to the file system.
const MOUNT_OPTIONS: &str = "\
    async atime bind defaults dev diratime dirsync exec lazytime loud noatime nodev nodiratime noexec \
    nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime \
    relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid \
    rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable \
    rw shared silent slave strictatime suid symfollow sync unbindable";

/// The document of `features`, as runtime-spec's features.md describes it. It says what works, and no more.
pub fn features() -> anyhow::Result<ExitCode> {
    let options = MOUNT_OPTIONS.split_ascii_whitespace().collect::<Vec<_>>();
    let capabilities: Vec<String> =
        rustix::thread::CapabilitySet::all().iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    let document = json!({
        "ociVersionMin": "0.4.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [],
        "mountOptions": options,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": false, "v2": false, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64", "SCMP_ARCH_X32", "SCMP_ARCH_X86",
                    "SCMP_ARCH_X86_64"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_TSYNC"],
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
        "annotations": {"org.opencontainers.brood.version": env!("CARGO_PKG_VERSION")},
    });
    print(&format!("{document:#}\n"))
}

pub fn version() -> anyhow::Result<ExitCode> {
    print(&format!("brood-oci version {}\nspec: {OCI_VERSION}\n", env!("CARGO_PKG_VERSION")))
}
