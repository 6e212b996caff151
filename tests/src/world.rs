//! What a test left on the machine.
//!
//! Tests run side by side, so nothing is compared as a whole: everything that belongs to one test carries its token
//! (in a path, a container's name, an environment) and only that is looked at.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::procfs::{self, Process};

/// What is there that belongs to one token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Mount points of this mount namespace whose mountinfo line mentions the token.
    pub mounts: Vec<String>,
    /// Cgroup directories of any hierarchy whose path mentions it, parents first.
    pub cgroups: Vec<PathBuf>,
    /// Living processes that mention it, and their descendants; never ourselves. Where this process runs one test
    /// only, all our descendants.
    pub processes: Vec<Process>,
}

impl World {
    /// Looks around.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self { mounts: mounts(token), cgroups: cgroups(token), processes: processes(token) }
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty() && self.cgroups.is_empty() && self.processes.is_empty()
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mount in &self.mounts {
            writeln!(f, "mount {mount}")?;
        }
        for cgroup in &self.cgroups {
            writeln!(f, "cgroup {}", cgroup.display())?;
        }
        for process in &self.processes {
            writeln!(f, "process {} ({}) {}", process.pid, process.state, process.cmdline)?;
        }
        Ok(())
    }
}

/// Everything below a directory: one line per entry, with size for files, sorted. A missing directory is empty.
#[must_use]
pub fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(directory, &mut |path, metadata| {
        let size = if metadata.is_file() { format!(" {}", metadata.len()) } else { String::new() };
        found.push(format!("{}{size}", path.display()));
    });
    found.sort();
    found
}

/// The containers that a state root knows: its directories, by name.
#[must_use]
pub fn containers(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn mounts(token: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter(|line| line.contains(token))
        .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
        .collect()
}

fn cgroups(token: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path, metadata| {
        if metadata.is_dir() && path.to_string_lossy().contains(token) {
            found.push(path.to_owned());
        }
    });
    found
}

fn processes(token: &str) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).expect("a pid is positive and small");
    let mut found: Vec<Process> = procfs::processes()
        .into_iter()
        .filter(|process| process.pid != own && process.state != 'Z' && procfs::mentions(process.pid, token))
        .flat_map(|process| procfs::family(process.pid))
        .collect();
    if alone() {
        found.extend(procfs::family(own).into_iter().filter(|process| process.pid != own));
    }
    found.sort_by_key(|process| process.pid);
    found.dedup_by_key(|process| process.pid);
    found
}

/// Whether this process runs one test only, as under cargo-nextest: then all that descends from it is that test's,
/// also an orphan that says nothing of the token.
fn alone() -> bool {
    std::env::var("NEXTEST_EXECUTION_MODE").is_ok_and(|mode| mode == "process-per-test")
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata)) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        visit(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, visit);
        }
    }
}
