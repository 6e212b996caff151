//! What /proc says about processes: who belongs to a daemon, and what it takes.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::Pid;
use serde::Serialize;

/// The kernel's name of a process while it is one of Brood's own: `brood: zygote` and so on.
const OURS: &str = "brood: ";

/// One process of Brood's own, and what it takes at this moment.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// `keeper`, `supervisor` or `zygote`.
    pub role: String,
    /// Who it is.
    pub pid: i32,
    /// `VmRSS`: pages mapped, shared ones in full.
    pub rss_bytes: u64,
    /// `Pss`: shared pages divided among those who share them.
    pub pss_bytes: u64,
    /// `Private_Clean` and `Private_Dirty`: what nobody else has.
    pub private_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// A process and all that descend from it, parents first.
pub fn tree(root: Pid) -> Result<Vec<Pid>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        // One that ends while we look has no parent to tell.
        if let Some(pid) = pid
            && let Some(parent) = parent(pid)
        {
            parents.push((pid, parent));
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent.as_raw_nonzero().get()).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(tree)
}

/// The daemon's own processes: what descends from its keeper and is no container.
pub fn of_daemon(keeper: Pid) -> Result<Vec<Usage>> {
    let mut usages = Vec::new();
    for pid in tree(keeper)? {
        let pid = pid.as_raw_nonzero().get();
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let argv0 = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
        if let Some(role) = String::from_utf8_lossy(argv0).strip_prefix(OURS) {
            usages.push(usage(pid, role).with_context(|| format!("cannot look at process {pid}"))?);
        }
    }
    Ok(usages)
}

fn usage(pid: i32, role: &str) -> Result<Usage> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let number = |text: &str, name: &str| -> Result<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = value.and_then(|value| value.split_whitespace().next()).with_context(|| name.to_owned())?;
        Ok(value.parse()?)
    };
    Ok(Usage {
        role: role.to_owned(),
        pid,
        rss_bytes: number(&status, "VmRSS")? * 1024,
        pss_bytes: number(&rollup, "Pss")? * 1024,
        private_bytes: (number(&rollup, "Private_Clean")? + number(&rollup, "Private_Dirty")?) * 1024,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        threads: number(&status, "Threads")?,
    })
}

/// Field 4 of /proc/PID/stat; the name in field 2 may hold anything, so fields are counted from its end.
fn parent(pid: Pid) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{tree, usage};

    #[test]
    fn this_process_is_the_root_of_its_own_tree_and_takes_something() {
        let own = rustix::process::getpid();
        assert_eq!(tree(own).expect("/proc is mounted").first(), Some(&own));
        let usage = usage(own.as_raw_nonzero().get(), "test").expect("we may look at ourselves");
        assert!(usage.pss_bytes > 0 && usage.rss_bytes >= usage.pss_bytes, "{usage:?}");
        assert!(usage.descriptors >= 3 && usage.threads >= 1, "{usage:?}");
    }
}
