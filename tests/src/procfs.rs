//! What the tests read from /proc.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

/// One line of `/proc/PID/stat`, as far as the tests need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number as we see it.
    pub pid: i32,
    /// Its parent's.
    pub ppid: i32,
    /// State letter: `R`, `S`, `Z` ...
    pub state: char,
    /// The command line, arguments separated by spaces; empty for a zombie.
    pub cmdline: String,
}

/// Every process that we see.
///
/// # Panics
/// When /proc is not mounted.
#[must_use]
pub fn processes() -> Vec<Process> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// One process; `None` when it is no more.
#[must_use]
pub fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain anything, parentheses too.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ").trim_end().to_owned();
    Some(Process { pid, ppid, state, cmdline })
}

/// A process and all that descend from it, without zombies.
#[must_use]
pub fn family(root: i32) -> Vec<Process> {
    let all = processes();
    let mut known = HashSet::from([root]);
    loop {
        let before = known.len();
        known.extend(all.iter().filter(|p| known.contains(&p.ppid)).map(|p| p.pid).collect::<Vec<_>>());
        if known.len() == before {
            break;
        }
    }
    all.into_iter().filter(|p| known.contains(&p.pid) && p.state != 'Z').collect()
}

/// Whether anything about the process mentions the token: command line, environment, directories, mounts, cgroups
/// or open files.
#[must_use]
pub fn mentions(pid: i32, token: &str) -> bool {
    let within = |name: &str| fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|bytes| contains(&bytes, token));
    let link = |name: &str| {
        fs::read_link(format!("/proc/{pid}/{name}")).is_ok_and(|path| path.to_string_lossy().contains(token))
    };
    within("cmdline")
        || within("environ")
        || within("cgroup")
        || link("cwd")
        || link("root")
        || link("exe")
        || root_mount(pid).is_some_and(|line| line.contains(token))
        || descriptors(pid).iter().any(|(_, target)| target.contains(token))
}

/// Open descriptors of a process with what they point to, by number.
#[must_use]
pub fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut found: Vec<(i32, String)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, fs::read_link(&path).ok()?.to_string_lossy().into_owned()))
        })
        .collect();
    found.sort();
    found
}

/// A field of `/proc/PID/status`, e.g. `PPid`.
#[must_use]
pub fn status(pid: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status_field(&text, field)
}

/// A field of the text of a `/proc/PID/status`.
#[must_use]
pub fn status_field(text: &str, field: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}

/// What `/proc/self/ns/<kind>` says here, on the host.
///
/// # Panics
/// When the kernel has no such namespace.
#[must_use]
pub fn namespace(kind: &str) -> String {
    let path = PathBuf::from("/proc/self/ns").join(kind);
    fs::read_link(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).to_string_lossy().into_owned()
}

/// The mount that the process has as its root: where a container's bundle shows.
fn root_mount(pid: i32) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    table.lines().find(|line| line.split(' ').nth(4) == Some("/")).map(str::to_owned)
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}
