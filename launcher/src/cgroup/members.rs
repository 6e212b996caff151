//! What happens to all processes of a container at once: listed, killed, frozen.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::directory::processes;
use super::events::Events;
use super::membership;
use super::{CgroupError, Cgroups, Directory, Version, failed};

/// How often processes are listed anew and killed where nothing stops them from forking meanwhile.
const ROUNDS: usize = 100;

/// How long a v1 freezer may take before its processes are killed as they are.
const FREEZE_TO_KILL: Duration = Duration::from_millis(500);

impl Cgroups {
    /// The directory that lists the container's processes, freezes and kills them.
    fn main(&self) -> Option<&Directory> {
        let main = self.unified().or_else(|| self.with("freezer")).or_else(|| self.directories.first());
        main.filter(|main| main.is_the_same())
    }

    /// The container's processes, in our pid namespace.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        self.main().map_or(Ok(Vec::new()), |main| processes(&main.path))
    }

    /// Whether a process is in the container's cgroup, or was when it ended: a zombie keeps its membership, though it is
    /// not listed (cgroups(7)).
    #[must_use]
    pub fn has_member(&self, pid: i32) -> bool {
        self.main().is_some_and(|main| main.is_named_in(&membership::of(pid)))
    }

    /// Sends a signal to every process of the container, `SIGKILL` by [`Cgroups::kill`]. How many there were; none when the
    /// cgroup is gone.
    ///
    /// # Errors
    /// The kernel refuses to kill.
    pub fn signal(&self, signal: Signal) -> Result<usize, CgroupError> {
        let pids = self.processes().unwrap_or_default();
        if signal == Signal::KILL {
            self.kill()?;
        } else {
            for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                // Processes come and go while we send.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
        Ok(pids.len())
    }

    /// Kills every process of the container: `cgroup.kill` (Linux 5.14), or on v1 one by one while they are frozen. A
    /// cgroup that is gone has none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let Some(main) = self.main() else { return Ok(()) };
        if main.version == Version::V2 {
            return match fs::write(main.path.join("cgroup.kill"), "1") {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(failed(&main.path, "write cgroup.kill")(error))
                }
                _ => Ok(()),
            };
        }
        if !main.path.exists() {
            return Ok(());
        }
        // Best effort: it only keeps them from forking while they are counted.
        let frozen = main.has("freezer") && main.set_frozen(true, FREEZE_TO_KILL).is_ok();
        let mut killed = Ok(());
        for _ in 0..if frozen { 1 } else { ROUNDS } {
            let pids = processes(&main.path).unwrap_or_default();
            if pids.is_empty() {
                break;
            }
            for pid in pids.into_iter().filter_map(Pid::from_raw) {
                match rustix::process::kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(errno) => killed = Err(failed(&main.path, "kill")(errno.into())),
                }
            }
        }
        if main.has("freezer") {
            fs::write(main.path.join("freezer.state"), "THAWED").map_err(failed(&main.path, "write freezer.state"))?;
        }
        killed
    }

    /// Freezes every process of the container (cgroup-v2.rst, "cgroup.freeze"; freezer-subsystem.rst), and returns when
    /// none of them runs. When that does not come about, they go on.
    ///
    /// # Errors
    /// The deadline passed, the kernel refuses, or there is nothing to freeze it by.
    pub fn freeze(&self, patience: Duration) -> Result<(), CgroupError> {
        let freezer = self.freezer()?;
        freezer.set_frozen(true, patience).inspect_err(|_| {
            let _ = freezer.order_freeze(false);
        })
    }

    /// Lets what [`Cgroups::freeze`] froze go on, and returns when it does.
    ///
    /// # Errors
    /// The deadline passed (a cgroup above is frozen too), or the kernel refuses.
    pub fn thaw(&self, patience: Duration) -> Result<(), CgroupError> {
        self.freezer()?.set_frozen(false, patience)
    }

    /// A v1 freezer keeps a killed process from dying; v2's does not. This lets it die.
    pub fn thaw_killed(&self) {
        let freezer = self.freezer().ok().filter(|freezer| freezer.version == Version::V1 && freezer.is_frozen());
        // Best effort: whoever waits for the death finds out.
        let _ = freezer.map(|freezer| freezer.order_freeze(false));
    }

    /// Whether every process of the container is frozen, on its own account or on that of a cgroup above.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.freezer().is_ok_and(Directory::is_frozen)
    }

    /// Whether [`Cgroups::freeze`] was ordered, for this container and not for a cgroup above, and is still in force.
    #[must_use]
    pub fn is_to_be_frozen(&self) -> bool {
        self.freezer().is_ok_and(|freezer| {
            let file = if freezer.version == Version::V2 { "cgroup.freeze" } else { "freezer.self_freezing" };
            fs::read_to_string(freezer.path.join(file)).is_ok_and(|text| text.trim_end() == "1")
        })
    }

    fn freezer(&self) -> Result<&Directory, CgroupError> {
        let freezer = self.unified().or_else(|| self.with("freezer"));
        freezer.ok_or_else(|| failed(Path::new("freezer"), "find")(ErrorKind::Unsupported.into()))
    }
}

impl Directory {
    /// From the text of `/proc/PID/cgroup`.
    pub(super) fn is_named_in(&self, text: &str) -> bool {
        self.place_in(text).is_some_and(|place| !place.is_empty() && self.path.ends_with(place))
    }

    fn order_freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let (file, value) = match (self.version, frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
        };
        fs::write(self.path.join(file), value).map_err(failed(&self.path, &format!("write {file}")))
    }

    pub(super) fn is_frozen(&self) -> bool {
        let (file, line) = match self.version {
            Version::V2 => ("cgroup.events", "frozen 1"),
            Version::V1 => ("freezer.state", "FROZEN"),
        };
        fs::read_to_string(self.path.join(file)).is_ok_and(|text| text.lines().any(|known| known == line))
    }

    fn set_frozen(&self, frozen: bool, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        let operation = if frozen { "freeze" } else { "thaw" };
        let late = || failed(&self.path, operation)(ErrorKind::TimedOut.into());
        if self.version == Version::V2 {
            // Opened before the order is given, so that no change is missed.
            let gone = || failed(&self.path, "open cgroup.events")(ErrorKind::NotFound.into());
            let events = Events::open(&self.path)?.ok_or_else(gone)?;
            self.order_freeze(frozen)?;
            while !events.say(if frozen { "frozen 1" } else { "frozen 0" })? {
                if !events.wait(deadline)? {
                    return Err(late());
                }
            }
            return Ok(());
        }
        // v1 tells nothing, and a freezer that meets a fork may stay half-way until it is told once more.
        let mut pause = Duration::from_micros(100);
        loop {
            self.order_freeze(frozen)?;
            if self.is_frozen() == frozen {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(late());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}
