//! `spec` and `version`: documents about the runtime, not about a container. See also `features`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use brood_launcher::rootless;
use clap::Args;
use serde_json::{Value, json};

use crate::list::print;
use crate::name;

/// The newest runtime-spec this runtime follows.
pub const OCI_VERSION: &str = "1.3.0";

#[derive(Args)]
pub struct SpecArgs {
    /// Directory to write config.json into
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// File to write, in place of config.json
    #[arg(short, long, default_value = "config.json", hide_default_value = true)]
    file: PathBuf,
    /// For an ordinary user: with a user namespace
    #[arg(long)]
    rootless: bool,
}

pub fn spec(args: &SpecArgs) -> anyhow::Result<ExitCode> {
    let path = args.bundle.join(&args.file);
    let mut document = template();
    if !is_cgroup2(Path::new("/sys/fs/cgroup"))
        && let Some(namespaces) = document["linux"]["namespaces"].as_array_mut()
    {
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    }
    if args.rootless {
        make_rootless(&mut document);
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = file.with_context(|| path.display().to_string())?;
    std::io::Write::write_all(&mut file, format!("{document:#}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the host has cgroup v2 alone. Where it has not, runc writes no cgroup namespace either.
fn is_cgroup2(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC)
}

/// What runc writes, on a host with cgroup v2 alone.
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
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/sys/devices/virtual/powercap", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn make_rootless(document: &mut Value) {
    rootless::add_user_namespace(document);
    let linux = &mut document["linux"];
    linux["resources"] = Value::Null;
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        // A network namespace could not be configured, and without one sysfs cannot be mounted anew.
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    if let Some(mounts) = document["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "cgroup");
        for mount in mounts.iter_mut().filter(|mount| mount["destination"] == "/sys") {
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        }
    }
}

/// What was built: whoever builds may say so by `BROOD_COMMIT`.
const COMMIT: &str = match option_env!("BROOD_COMMIT") {
    Some(commit) => commit,
    None => env!("CARGO_PKG_VERSION"),
};

/// Three lines, which callers take apart.
pub fn version() -> anyhow::Result<ExitCode> {
    let (name, version) = (name::own(), env!("CARGO_PKG_VERSION"));
    print(&format!("{name} version {version}\ncommit: {COMMIT}\nspec: {OCI_VERSION}\n"))
}
