//! The bundle that everybody launches: a static busybox, and a config.json such as container engines write.
//!
//! The tables here are the only description of the container. config.json is written from them and the floor executes
//! them, so that both do the same by construction.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The container's host name; the probe asks for it.
pub const HOSTNAME: &CStr = c"brood-bench";

/// What the probe bundle prints inside a real container: it is pid 1 of its own pid namespace, in its own uts namespace.
pub const PROBE_OUTPUT: &str = "pid 1 on brood-bench";

/// One entry of config.json's `mounts`.
pub struct Mount {
    /// Where, absolute.
    pub destination: &'static CStr,
    /// File system type.
    pub fstype: &'static CStr,
    /// What mountinfo shows as the source.
    pub source: &'static CStr,
    /// Mount flags by their names, comma-separated.
    pub flags: &'static str,
    /// File system options, comma-separated.
    pub data: &'static CStr,
}

/// The mounts, in order.
#[rustfmt::skip]
pub const MOUNTS: [Mount; 6] = [
    Mount { destination: c"/proc", fstype: c"proc", source: c"proc", flags: "", data: c"" },
    Mount { destination: c"/dev", fstype: c"tmpfs", source: c"tmpfs", flags: "nosuid,strictatime", data: c"mode=755,size=65536k" },
    Mount { destination: c"/dev/pts", fstype: c"devpts", source: c"devpts", flags: "nosuid,noexec", data: c"newinstance,ptmxmode=0666,mode=0620,gid=5" },
    Mount { destination: c"/dev/shm", fstype: c"tmpfs", source: c"shm", flags: "nosuid,noexec,nodev", data: c"mode=1777,size=65536k" },
    Mount { destination: c"/dev/mqueue", fstype: c"mqueue", source: c"mqueue", flags: "nosuid,noexec,nodev", data: c"" },
    Mount { destination: c"/sys", fstype: c"sysfs", source: c"sysfs", flags: "nosuid,noexec,nodev,ro", data: c"" },
];

/// The devices that the runtime specification promises: path, major and minor number.
pub const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

/// The links that it promises: path and content.
pub const LINKS: [(&CStr, &CStr); 5] = [
    (c"/dev/fd", c"/proc/self/fd"),
    (c"/dev/stdin", c"/proc/self/fd/0"),
    (c"/dev/stdout", c"/proc/self/fd/1"),
    (c"/dev/stderr", c"/proc/self/fd/2"),
    (c"/dev/ptmx", c"pts/ptmx"),
];

/// `linux.maskedPaths`; some exist on few machines only.
pub const MASKED: [&CStr; 11] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/sys/firmware",
    c"/sys/devices/virtual/powercap",
];

/// `linux.readonlyPaths`
pub const READONLY: [&CStr; 5] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// The bundle on disk, in a temporary directory that goes with this value.
pub struct Bundle {
    directory: TempDir,
    /// Whether the container gets a network namespace of its own.
    pub netns: bool,
    seccomp: Option<LinuxSeccomp>,
    limits: bool,
}

impl Bundle {
    /// Writes the root file system and the bundles.
    pub fn create(netns: bool) -> Result<Self> {
        Self::create_with(netns, None, false)
    }

    /// The same with a seccomp profile, or with limits.
    pub fn create_with(netns: bool, seccomp: Option<LinuxSeccomp>, limits: bool) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("brood-bench-").tempdir().context("cannot make a temporary directory")?;
        let bundle = Self { directory, netns, seccomp, limits };
        bundle.write_rootfs().context("cannot make the root file system")?;
        bundle.write_config(&bundle.path(), &["/bin/true"])?;
        bundle.write_config(&bundle.probe_path(), &["/bin/sh", "-c", "echo pid $$ on $(hostname)"])?;
        bundle.write_config(&bundle.idle_path(), &["/bin/sleep", "100000"])?;
        Ok(bundle)
    }

    /// The bundle that is measured: `/bin/true`.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    /// The same with a program that prints [`PROBE_OUTPUT`].
    pub fn probe_path(&self) -> PathBuf {
        self.directory.path().join("probe")
    }

    /// The same with a program that sleeps for a day.
    pub fn idle_path(&self) -> PathBuf {
        self.directory.path().join("idle")
    }

    /// The root directory of all.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// A directory for a contender's own files (state, logs); it goes with the bundle.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    fn write_rootfs(&self) -> Result<()> {
        let rootfs = self.rootfs();
        for directory in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(rootfs.join(directory))?;
        }
        fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o755))?;
        let busybox = BUSYBOX
            .iter()
            .find(|path| Path::new(path).exists())
            .context("no busybox found: apt-get install busybox-static")?;
        fs::copy(busybox, rootfs.join("bin/busybox"))?;
        // Hard links: an absolute symbolic link would mean the host's busybox to whoever resolves it outside.
        for applet in ["true", "sh", "hostname", "sleep"] {
            fs::hard_link(rootfs.join("bin/busybox"), rootfs.join("bin").join(applet))?;
        }
        Ok(())
    }

    fn write_config(&self, bundle: &Path, args: &[&str]) -> Result<()> {
        fs::create_dir_all(bundle).with_context(|| format!("cannot make {}", bundle.display()))?;
        let path = bundle.join("config.json");
        let text = serde_json::to_vec_pretty(&self.config(args))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn config(&self, args: &[&str]) -> Value {
        let text = |s: &CStr| s.to_string_lossy().into_owned();
        let mut namespaces = vec!["pid", "mount", "uts", "ipc"];
        if self.netns {
            namespaces.push("network");
        }
        let mounts: Vec<Value> = MOUNTS
            .iter()
            .map(|mount| {
                let data = text(mount.data);
                let options: Vec<&str> =
                    mount.flags.split(',').chain(data.split(',')).filter(|o| !o.is_empty()).collect();
                json!({
                    "destination": text(mount.destination),
                    "type": text(mount.fstype),
                    "source": text(mount.source),
                    "options": options,
                })
            })
            .collect();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
                "noNewPrivileges": true,
            },
            "root": { "path": self.rootfs(), "readonly": true },
            "hostname": text(HOSTNAME),
            "mounts": mounts,
            "linux": {
                "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
                "maskedPaths": MASKED.map(text),
                "readonlyPaths": READONLY.map(text),
            },
        });
        if let Some(profile) = &self.seccomp {
            config["linux"]["seccomp"] = json!(profile);
        }
        if self.limits {
            config["linux"]["resources"] = json!({
                "memory": { "limit": 256 << 20 },
                "cpu": { "quota": 200_000, "period": 100_000 },
                "pids": { "limit": 100 },
            });
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::Bundle;

    #[test]
    fn the_network_namespace_is_the_only_difference_that_netns_makes() {
        let kinds = |netns| {
            let bundle = Bundle::create(netns).expect("a bundle can be written");
            let namespaces = bundle.config(&["/bin/true"])["linux"]["namespaces"].clone();
            namespaces.as_array().expect("namespaces is a list").len()
        };
        assert_eq!((kinds(false), kinds(true)), (4, 5));
    }

    #[test]
    fn the_bundle_goes_with_its_value() {
        let bundle = Bundle::create(false).expect("a bundle can be written");
        let path = bundle.path();
        assert!(path.join("config.json").exists());
        drop(bundle);
        assert!(!path.exists());
    }
}
