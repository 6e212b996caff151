//! A systemd of the test's own: the first process of its namespaces, which sees one cgroup of the machine's cgroup v2 as
//! the root of all, and has nothing to start.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::command::Cmd;
use crate::sandbox::Sandbox;
use crate::{binaries, cgroups, waiting};

/// What makes the host into one that systemd has booted, and then is systemd.
const BOOT: &str = "
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
mount -t tmpfs tmpfs /lib/systemd/system-generators
mount -t tmpfs tmpfs /lib/systemd/system
mount -t tmpfs tmpfs /etc/systemd
mkdir /etc/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' > /etc/systemd/system/quiet.target
exec env -i container=test PATH=\"$PATH\" /lib/systemd/systemd --system --unit=quiet.target --log-target=console --show-status=no
";

/// Ended, with all that it has started, when it is dropped.
pub struct Systemd {
    unshare: Child,
    pid: i32,
    cgroup: PathBuf,
}

impl Systemd {
    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(sandbox: &Sandbox) -> Systemd {
        assert!(fs::exists("/lib/systemd/systemd").unwrap_or(false), "this test needs Debian's package systemd");
        let unified = if cgroups::is_v2_only() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
        let cgroup = PathBuf::from(unified).join(format!("systemd-{}", sandbox.token()));
        // Whoever calls is beside it: a cgroup with processes of its own hands down no controllers.
        fs::create_dir_all(cgroup.join("caller")).expect("a cgroup for systemd");
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", cgroup.display());
        let log = fs::File::create(sandbox.path("systemd.log")).expect("a log");
        let mut unshare = Command::new("sh")
            .args(["-c", &enter, "sh", "unshare", "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork"])
            .args(["--kill-child=SIGKILL", "sh", "-c", BOOT])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("unshare");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let pid = waiting::until("systemd to listen", || {
            assert_eq!(
                unshare.try_wait().expect("wait"),
                None,
                "systemd has ended: see {:?}",
                sandbox.path("systemd.log")
            );
            let pid: i32 = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            fs::exists(format!("/proc/{pid}/root/run/systemd/private")).ok()?.then_some(pid)
        });
        fs::write(cgroup.join("caller/cgroup.procs"), unshare.id().to_string()).expect("unshare moves");
        Systemd { unshare, pid, cgroup }
    }

    /// A program where systemd is: in its namespaces.
    #[must_use]
    pub fn command(&self, sandbox: &Sandbox, program: &str) -> Cmd {
        let enter = format!("echo $$ > {}/caller/cgroup.procs; exec \"$@\"", self.cgroup.display());
        let pid = self.pid.to_string();
        let nsenter = ["nsenter", "--target", &pid, "--mount", "--pid", "--cgroup", "--ipc", "--uts", program];
        sandbox.command("sh").args(["-c", &enter, "sh"]).args(nsenter)
    }

    /// `brood-oci --root ROOT --systemd-cgroup` there.
    #[must_use]
    pub fn oci(&self, sandbox: &Sandbox) -> Cmd {
        let program = binaries::oci();
        self.command(sandbox, &program.to_string_lossy()).arg("--root").arg(sandbox.root()).arg("--systemd-cgroup")
    }

    /// A property of a unit, as `systemctl show` has it.
    #[must_use]
    #[track_caller]
    pub fn property(&self, sandbox: &Sandbox, unit: &str, name: &str) -> String {
        let shown = self.command(sandbox, "systemctl").args(["show", "--value", "--property", name, unit]).run();
        shown.ok().trim_end().to_owned()
    }

    /// A directory that it knows under this name.
    #[must_use]
    pub fn cgroup(&self, path: &str) -> PathBuf {
        self.cgroup.join(path)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.unshare.wait();
        // The kernel takes a moment to let go of what was killed.
        waiting::holds_within(waiting::PATIENCE, || remove(&self.cgroup));
    }
}

fn remove(cgroup: &std::path::Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok()
}
