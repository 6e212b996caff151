//! One directory of one hierarchy: made, asked, and removed again.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::{CgroupError, failed};

/// A container's cgroup, open for its birth.
#[derive(Debug)]
pub struct Made {
    /// For `CLONE_INTO_CGROUP`.
    pub fd: OwnedFd,
    /// The topmost directory that did not exist before: what removal may remove. `None` when all of them did.
    pub top: Option<PathBuf>,
}

/// Makes the directory (parents too) and opens it. One that is there already must have neither processes nor children
/// of its own: whatever lives below it would be killed together with the container.
///
/// # Errors
/// It cannot be made, or is in use.
pub fn create(path: &Path) -> Result<Made, CgroupError> {
    let mut top = None;
    for ancestor in path.ancestors() {
        match std::fs::create_dir(ancestor) {
            Ok(()) => top = Some(ancestor.to_owned()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => break,
            // Its parent is missing as well: made on the way back.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(path, "make directory")(error)),
        }
        break;
    }
    if let Some(lowest) = top.clone().filter(|lowest| lowest != path) {
        std::fs::create_dir_all(path).map_err(|error| {
            remove_upwards(path, &lowest);
            failed(path, "make directory")(error)
        })?;
    }
    if top.is_none() && in_use(path)? {
        return Err(failed(path, "use")(std::io::Error::other(
            "container's cgroup is not empty: processes or other cgroups live in it",
        )));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(path, "open")(errno.into()))?;
    Ok(Made { fd, top })
}

fn in_use(path: &Path) -> Result<bool, CgroupError> {
    let events = std::fs::read_to_string(path.join("cgroup.events")).map_err(failed(path, "read cgroup.events"))?;
    let mut entries = std::fs::read_dir(path).map_err(failed(path, "list"))?.flatten();
    let has_children = entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(has_children || !events.lines().any(|line| line == "populated 0"))
}

/// Removes the directory and its parents, up to and including `top`, as far as they are empty.
fn remove_upwards(path: &Path, top: &Path) {
    for ancestor in path.ancestors().take_while(|ancestor| ancestor.starts_with(top)) {
        // One that others use by now stays.
        if std::fs::remove_dir(ancestor).is_err() {
            return;
        }
    }
}

/// Kills every process in the cgroup and below (`cgroup.kill`, Linux 5.14). A cgroup that is gone has none.
///
/// # Errors
/// The kernel refuses.
pub fn kill(path: &Path) -> Result<(), CgroupError> {
    match std::fs::write(path.join("cgroup.kill"), "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, "write cgroup.kill")(error)),
        _ => Ok(()),
    }
}

/// The processes in the cgroup and below, in our pid namespace.
///
/// # Errors
/// The cgroup is gone.
pub fn processes(path: &Path) -> Result<Vec<i32>, CgroupError> {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).map_err(failed(path, "read cgroup.procs"))?;
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let entries = std::fs::read_dir(path).map_err(failed(path, "list"))?.flatten();
    for child in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        // One that is removed meanwhile has none.
        pids.extend(processes(&child.path()).unwrap_or_default());
    }
    Ok(pids)
}

/// Whether a process is in this cgroup v2 directory, or was when it ended: a zombie keeps its membership, though it is
/// not listed (cgroups(7)).
#[must_use]
pub fn is_member(path: &Path, pid: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let relative = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    !relative.is_empty() && path.ends_with(relative)
}

/// Removes the directory and what the container made below it. False: processes still live there.
///
/// # Errors
/// Any reason but that.
pub fn try_remove(path: &Path) -> Result<bool, CgroupError> {
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => {}
        Err(error) => return Err(failed(path, "remove")(error)),
    }
    let entries = std::fs::read_dir(path).map_err(failed(path, "list"))?;
    for child in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if !try_remove(&child.path())? {
            return Ok(false);
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(false),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, "remove")(error)),
        _ => Ok(true),
    }
}

/// Kills what is left, waits for `populated 0` (the kernel's event, not a sleep) and removes what was made: the
/// directory and its parents up to `top`. Without `top` nothing was made, and nothing is removed.
///
/// # Errors
/// The deadline passed, or the kernel refuses.
pub fn kill_and_remove(path: &Path, top: Option<&Path>, patience: Duration) -> Result<(), CgroupError> {
    let deadline = Instant::now() + patience;
    let removed = |path: &Path| match top {
        Some(_) => try_remove(path),
        None => Ok(true),
    };
    if top.is_none() || !try_remove(path)? {
        kill(path)?;
        let Some(events) = Events::open(path)? else { return Ok(()) };
        while !(events.say("populated 0")? && removed(path)?) {
            if !events.wait(deadline)? {
                return Err(failed(path, "remove")(ErrorKind::ResourceBusy.into()));
            }
        }
    }
    if let (Some(top), Some(parent)) = (top, path.parent()) {
        remove_upwards(parent, top);
    }
    Ok(())
}

/// Freezes every process in the cgroup and below (cgroup-v2.rst, "cgroup.freeze"), and returns when none of them runs.
/// When that does not come about, they go on.
///
/// # Errors
/// The deadline passed, or the kernel refuses.
pub fn freeze(path: &Path, patience: Duration) -> Result<(), CgroupError> {
    set_frozen(path, true, patience).inspect_err(|_| {
        let _ = std::fs::write(path.join("cgroup.freeze"), "0");
    })
}

/// Lets what [`freeze`] froze go on, and returns when it does.
///
/// # Errors
/// The deadline passed (a cgroup above is frozen too), or the kernel refuses.
pub fn thaw(path: &Path, patience: Duration) -> Result<(), CgroupError> {
    set_frozen(path, false, patience)
}

fn set_frozen(path: &Path, frozen: bool, patience: Duration) -> Result<(), CgroupError> {
    let deadline = Instant::now() + patience;
    let (value, event) = if frozen { ("1", "frozen 1") } else { ("0", "frozen 0") };
    // Opened before the order is given, so that no change is missed.
    let gone = || failed(path, "open cgroup.events")(ErrorKind::NotFound.into());
    let events = Events::open(path)?.ok_or_else(gone)?;
    std::fs::write(path.join("cgroup.freeze"), value).map_err(failed(path, "write cgroup.freeze"))?;
    while !events.say(event)? {
        if !events.wait(deadline)? {
            let operation = if frozen { "freeze" } else { "thaw" };
            return Err(failed(path, operation)(ErrorKind::TimedOut.into()));
        }
    }
    Ok(())
}

/// Whether every process in the cgroup and below is frozen, on its own account or on that of a cgroup above.
#[must_use]
pub fn is_frozen(path: &Path) -> bool {
    let events = std::fs::read_to_string(path.join("cgroup.events"));
    events.is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
}

/// `cgroup.events`: what the kernel tells of a cgroup, with a notice at every change.
struct Events<'a> {
    path: &'a Path,
    file: std::fs::File,
}

impl<'a> Events<'a> {
    /// `None` when the cgroup is gone.
    fn open(path: &'a Path) -> Result<Option<Self>, CgroupError> {
        match std::fs::File::open(path.join("cgroup.events")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(|file| Some(Self { path, file })).map_err(failed(path, "open cgroup.events")),
        }
    }

    /// Whether this line is there now. Reading arms the next notice (cgroup-v2.rst, "[Un]populated Notification").
    fn say(&self, line: &str) -> Result<bool, CgroupError> {
        let (mut text, mut reader) = (String::new(), &self.file);
        std::io::Seek::rewind(&mut reader)
            .and_then(|()| std::io::Read::read_to_string(&mut reader, &mut text).map(drop))
            .map_err(failed(self.path, "read cgroup.events"))?;
        Ok(text.lines().any(|known| known == line))
    }

    /// Waits for a change. False when the deadline has passed.
    fn wait(&self, deadline: Instant) -> Result<bool, CgroupError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut poll = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::PRI)];
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => Ok(true),
            waited => waited.map(|_| true).map_err(|errno| failed(self.path, "wait")(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_and_fit_a_directory_entry() {
        let hierarchy = Hierarchy { mount_point: "/c".into(), own: "/c/own".into() };
        let place = |root: &str, id: &str| hierarchy.place(Path::new(root), id, None);
        assert_ne!(place("/a", "x"), place("/b", "x"));
        let long = "i".repeat(255);
        assert!(place("/a", &long).file_name().unwrap().len() <= 255);
        assert_ne!(place("/a", &long), place("/a", &long[1..]));
        let given = |path: &str| hierarchy.place(Path::new("/a"), "x", Some(Path::new(path)));
        assert_eq!(given("/p/q"), Path::new("/c/p/q"));
        assert_eq!(given("p/q"), Path::new("/c/own/p/q"));
    }

    #[test]
    fn only_what_was_made_is_removed_and_nothing_in_use_is_taken() {
        let Some(hierarchy) = Hierarchy::find() else { panic!("these tests need a writable cgroup v2 hierarchy") };
        let base = hierarchy.own.join(format!("brood-unit-{}", std::process::id()));
        let (leaf, patience) = (base.join("a/b"), Duration::from_secs(5));
        let made = create(&leaf).unwrap();
        assert_eq!(made.top.as_deref(), Some(base.as_path()));
        // Empty, but not ours to share: a cgroup below it would be killed along.
        assert!(create(&base).unwrap_err().to_string().contains("other cgroups live in it"));
        // An empty one that somebody else made may be used, and stays.
        assert_eq!(create(&leaf).unwrap().top, None);
        kill_and_remove(&leaf, None, patience).unwrap();
        assert!(leaf.is_dir());
        kill_and_remove(&leaf, made.top.as_deref(), patience).unwrap();
        assert!(!base.exists());
        kill_and_remove(&leaf, made.top.as_deref(), patience).unwrap();
    }
    #[test]
    fn what_is_frozen_stands_still_until_it_is_thawed() {
        let Some(hierarchy) = Hierarchy::find() else { panic!("these tests need a writable cgroup v2 hierarchy") };
        let path = hierarchy.own.join(format!("brood-unit-freeze-{}", std::process::id()));
        let (made, patience) = (create(&path).unwrap(), Duration::from_secs(5));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
        assert!(!is_frozen(&path));
        freeze(&path, patience).unwrap();
        assert!(is_frozen(&path));
        thaw(&path, patience).unwrap();
        assert!(!is_frozen(&path));
        freeze(&path, patience).unwrap();
        kill(&path).unwrap();
        child.wait().unwrap();
        kill_and_remove(&path, made.top.as_deref(), patience).unwrap();
        assert!(freeze(&path, patience).unwrap_err().to_string().contains("cgroup.events"));
    }
}
