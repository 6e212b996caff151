//! Facts about the machine without which figures cannot be compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

/// What the JSON file says about where the figures come from.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// `uname -r`
    pub kernel: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// The first processor's model, where /proc/cpuinfo has one.
    pub cpu_model: Option<String>,
    /// `unified`, `hybrid`, `legacy` or `none`.
    pub cgroups: &'static str,
    /// Whether cgroup2 is mounted with `favordynmods`, which makes moving processes cheap and forking dear.
    pub favordynmods: bool,
    /// `/sys/kernel/rcu_expedited`, which makes moving processes and unmounting cheap.
    pub rcu_expedited: Option<String>,
    /// Mounts in our namespace; a naive launch copies them all.
    pub mounts: usize,
    /// `/proc/loadavg` at the start.
    pub load: String,
    /// `git describe` of the current directory, when it is in a repository.
    pub revision: Option<String>,
}

impl Machine {
    /// Looks around.
    pub fn survey() -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let v2 = mountinfo.lines().find(|line| line.contains(" - cgroup2 "));
        let v1 = mountinfo.lines().any(|line| line.contains(" - cgroup "));
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: cpu_model(),
            cgroups: match (v2, v1) {
                (Some(_), false) => "unified",
                (Some(_), true) => "hybrid",
                (None, true) => "legacy",
                (None, false) => "none",
            },
            favordynmods: v2.is_some_and(|line| line.contains("favordynmods")),
            rcu_expedited: trimmed("/sys/kernel/rcu_expedited"),
            mounts: mountinfo.lines().count(),
            load: trimmed("/proc/loadavg").unwrap_or_default(),
            revision: revision(),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let cpu = self.cpu_model.as_deref().unwrap_or("CPU");
        format!("Linux {}, {} x {cpu}, {} cgroups, {} mounts", self.kernel, self.cpus, self.cgroups, self.mounts)
    }
}

/// The directory of our own cgroup in the v2 hierarchy, wherever that is mounted.
pub fn own_v2_cgroup() -> Option<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    let mount_point = line.split(' ').nth(4)?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount_point).join(own))
}

fn trimmed(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
