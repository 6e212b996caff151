//! A systemd of the test's own: the first process of its namespaces, which sees one cgroup of the machine's hierarchies as
//! the root of all, and has nothing to start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cgroups::Layout;
use crate::command::Cmd;
use crate::sandbox::Sandbox;
use crate::{binaries, cgroups, waiting};

/// What makes the host into one that systemd has booted, and then is systemd. Hierarchies of cgroup v1 are given as
/// `NAME OPTIONS`, cgroup v2's as the one that is called `unified`; without any, it is the only one.
const BOOT: &str = r"
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
if [ $# = 0 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for hierarchy do
        mkdir /sys/fs/cgroup/${hierarchy% *}
        case $hierarchy in
            unified*) mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
            *) mount -t cgroup -o ${hierarchy#* } cgroup /sys/fs/cgroup/${hierarchy% *} ;;
        esac
    done
fi
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
mount -t tmpfs tmpfs /lib/systemd/system-generators
mount -t tmpfs tmpfs /lib/systemd/system
mount -t tmpfs tmpfs /etc/systemd
mkdir /etc/systemd/system
printf '[Unit]\nDefaultDependencies=no\n' > /etc/systemd/system/quiet.target
# In a container its own arguments are the kernel's.
legacy=; [ -d /sys/fs/cgroup/unified ] || legacy=systemd.legacy_systemd_cgroup_controller=1
exec env -i container=test PATH=$PATH /lib/systemd/systemd --system --unit=quiet.target --log-target=console --show-status=no $legacy
";

/// What makes a systemd of the user's own, as a login does. Its units are those of the machine, and what starts is nothing.
const LOG_IN: &str = r"
set -e
runtime=/run/user/$1
mkdir -p $runtime/units
printf '[Unit]\nDefaultDependencies=no\n' > $runtime/units/quiet.target
chmod 700 $runtime
chown -R $1:$1 $runtime
# It has to know the user.
(cat /etc/passwd; echo user-$1:x:$1:$1::$runtime:/bin/sh) > /run/passwd
mount --bind /run/passwd /etc/passwd
systemd-run --unit=manager-$1.service --slice=user.slice --uid=$1 -p Type=notify -p Delegate=yes -p DefaultDependencies=no \
    -E XDG_RUNTIME_DIR=$runtime -E HOME=$runtime -E SYSTEMD_UNIT_PATH=$runtime/units:/usr/lib/systemd/user \
    /lib/systemd/systemd --user --unit=quiet.target || { systemctl status manager-$1.service; exit 1; }
";

/// Ended, with all that it has started, when it is dropped.
pub struct Systemd {
    unshare: Child,
    pid: i32,
    /// Its cgroup of v2, which it need not know of: by that it is ended.
    cgroup: PathBuf,
    /// Those of v1 by the names of their hierarchies.
    v1: Vec<(String, PathBuf)>,
}

impl Systemd {
    /// Starts it on cgroup v2 alone, and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(sandbox: &Sandbox) -> Systemd {
        Systemd::start_on(sandbox, Layout::V2)
    }

    /// The same on a layout of its own: on cgroup v1 with the machine's hierarchies.
    ///
    /// # Panics
    /// When it does not come up, or the machine has no cgroup v1.
    #[must_use]
    #[track_caller]
    pub fn start_on(sandbox: &Sandbox, layout: Layout) -> Systemd {
        assert!(fs::exists("/lib/systemd/systemd").unwrap_or(false), "this test needs Debian's package systemd");
        let unified = if cgroups::is_v2_only() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
        let name = format!("systemd-{}", sandbox.token());
        let cgroup = PathBuf::from(unified).join(&name);
        // Whoever calls is beside it: a cgroup with processes of its own hands down no controllers.
        fs::create_dir_all(cgroup.join("caller")).expect("a cgroup for systemd");
        let (mut v1, mut mounts) = (Vec::new(), Vec::new());
        if !layout.is_v2() {
            let hierarchies = cgroups::v1_hierarchies();
            assert!(!hierarchies.is_empty(), "this machine has no cgroup v1");
            for (mount_point, options) in hierarchies {
                let hierarchy = mount_point.file_name().expect("a name").to_string_lossy().into_owned();
                let directory = mount_point.join(&name);
                fs::create_dir(&directory).expect("a cgroup for systemd");
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(inherited) = fs::read(mount_point.join(file)) {
                        fs::write(directory.join(file), inherited).expect("a cpuset like the root's");
                    }
                }
                mounts.push(format!("{hierarchy} {options}"));
                v1.push((hierarchy, directory));
            }
        }
        if layout == Layout::Hybrid {
            mounts.push("unified".to_owned());
        }
        let log = fs::File::create(sandbox.path("systemd.log")).expect("a log");
        let mut unshare = Command::new("sh")
            .args(["-c", &enter(&cgroup, &v1), "sh"])
            .args(["unshare", "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL"])
            .args(["sh", "-c", BOOT, "sh"])
            .args(mounts)
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
        Systemd { unshare, pid, cgroup, v1 }
    }

    /// What runs a program where systemd is, when its words are put behind: in its namespaces.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        self.wrapper_in(&self.cgroup.join("caller"))
    }

    fn wrapper_in(&self, unified: &Path) -> Vec<String> {
        let enter = enter(unified, &self.v1);
        let pid = self.pid.to_string();
        let nsenter = ["nsenter", "--target", &pid, "--mount", "--pid", "--cgroup", "--ipc", "--uts"];
        ["sh", "-c", &enter, "sh"].into_iter().chain(nsenter).map(str::to_owned).collect()
    }

    /// A program there.
    #[must_use]
    pub fn command(&self, sandbox: &Sandbox, program: &str) -> Cmd {
        let mut words = self.wrapper().into_iter();
        sandbox.command(words.next().unwrap_or_default()).args(words).arg(program)
    }

    /// Starts a systemd of this user's own. Returns what a program is to be put behind to run as that user, in a cgroup of
    /// theirs.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn log_in(&self, sandbox: &Sandbox, uid: u32) -> Vec<String> {
        let user = uid.to_string();
        self.command(sandbox, "sh").args(["-c", LOG_IN, "sh", &user]).run().ok();
        let caller = self.cgroup.join(format!("user.slice/manager-{uid}.service/caller"));
        fs::create_dir(&caller).expect("a cgroup for the user's calls");
        for path in [caller.clone(), caller.join("cgroup.procs")] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).expect("it is the user's");
        }
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{uid}");
        let become_user = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "env", &runtime];
        self.wrapper_in(&caller).into_iter().chain(become_user.map(str::to_owned)).collect()
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

    /// A directory of cgroup v2 that it knows under this name.
    #[must_use]
    pub fn cgroup(&self, path: &str) -> PathBuf {
        self.cgroup.join(path)
    }

    /// The same in a hierarchy of cgroup v1.
    ///
    /// # Panics
    /// When it has none of that name.
    #[must_use]
    #[track_caller]
    pub fn v1_cgroup(&self, hierarchy: &str, path: &str) -> PathBuf {
        let (_, cgroup) = self.v1.iter().find(|(name, _)| name == hierarchy).expect("a hierarchy of this name");
        cgroup.join(path)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.unshare.wait();
        // The kernel takes a moment to let go of what was killed.
        for cgroup in self.v1.iter().map(|(_, cgroup)| cgroup).chain([&self.cgroup]) {
            waiting::holds_within(waiting::PATIENCE, || remove(cgroup));
        }
    }
}

/// A shell's words that move it into these cgroups before it is what comes behind them.
fn enter(unified: &Path, v1: &[(String, PathBuf)]) -> String {
    let all = v1.iter().map(|(_, directory)| directory.as_path()).chain([unified]);
    let lines: String = all.map(|directory| format!("echo $$ > {}/cgroup.procs; ", directory.display())).collect();
    lines + "exec \"$@\""
}

fn remove(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok()
}
