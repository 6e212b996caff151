//! Writing limits to a container's cgroups.

use std::fmt::Display;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::LinuxResources;

use super::settings::{Setting, settings};
use super::{Cgroups, Directory, Host, Version};
use crate::config::one_line;
use crate::devices::{self, Compiled, DeviceError, RuleError};
use crate::report::errno_text;
use crate::rootless;

/// A limit that makes no sense, or that the host or the kernel refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("linux.resources.{field}: {problem}")]
pub struct LimitError {
    /// Without `linux.resources.`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl LimitError {
    pub(super) fn new(field: &str, problem: impl Display) -> LimitError {
        LimitError { field: field.to_owned(), problem: problem.to_string() }
    }
}

/// A program's start takes processes of ours beside it (hooks, the deliverer of a seccomp listener): with so few, the limit
/// comes last.
const FEW_PROCESSES: u64 = 16;

/// What `linux.resources` asks for on this host.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    settings: Vec<Setting>,
    /// None where they stay as they are.
    devices: Option<Arc<Compiled>>,
    /// With `memory.checkBeforeUpdate`.
    check_memory: Bounds,
}

/// Limits in bytes, to be compared with what is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bounds {
    limit: Option<u64>,
    /// Together with memory.
    swap: Option<u64>,
}

impl Limits {
    /// Looks at everything that can be known before a cgroup is made.
    ///
    /// # Errors
    /// The first limit that has no meaning, or none on this host.
    pub fn of(resources: &LinuxResources, host: &Host) -> Result<Limits, LimitError> {
        let otherwise = if host.hierarchies().any(|hierarchy| hierarchy.version == Version::V1) {
            Version::V1
        } else {
            Version::V2
        };
        let version = |controller: &str| host.with(controller).map_or(otherwise, |hierarchy| hierarchy.version);
        let mut settings = settings(resources, &version)?;
        settings.retain(|setting| !(setting.asks_for_nothing() && host.with(&setting.controller).is_none()));
        let memory = resources.memory().as_ref().filter(|memory| memory.check_before_update() == Some(true));
        let bytes = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        let check_memory = memory.map(|memory| Bounds { limit: bytes(memory.limit()), swap: bytes(memory.swap()) });
        let check_memory = check_memory.unwrap_or_default();
        Ok(Limits { settings, devices: None, check_memory })
    }

    /// The same for a new container, which may open the devices that its rules allow, and those that every container has.
    ///
    /// # Errors
    /// As [`Limits::of`], and a device rule that cannot be honoured.
    pub fn of_new(resources: Option<&LinuxResources>, host: &Host) -> Result<Limits, LimitError> {
        let mut limits = resources.map_or_else(|| Ok(Limits::default()), |resources| Limits::of(resources, host))?;
        let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
        let refused = |error: RuleError| {
            let field = error.field.trim_start_matches("linux.resources.");
            LimitError::new(field, error.reason)
        };
        limits.devices = Some(devices::program(rules).map_err(refused)?);
        Ok(limits)
    }

    /// Takes out what the host has no hierarchy for: why each is refused.
    pub fn take_lacking(&mut self, host: &Host) -> Vec<LimitError> {
        let lacking = |setting: &mut Setting| match setting.controller.as_str() {
            "cgroup" => host.unified().is_none(),
            controller => host.with(controller).is_none(),
        };
        let refusal = |Setting { field, controller, .. }: Setting| {
            LimitError::new(
                &field,
                format!("the host has no writable cgroup hierarchy with the {controller} controller"),
            )
        };
        self.settings.extract_if(.., lacking).map(refusal).collect()
    }

    /// The controllers that it takes.
    #[must_use]
    pub fn controllers(&self) -> Vec<&str> {
        self.settings.iter().map(|setting| setting.controller.as_str()).collect()
    }

    /// Files and their values.
    #[cfg(feature = "systemd")]
    pub(super) fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter()
    }

    /// Takes out a limit on processes that would get into the way of the container's start; for the child to write, last.
    pub fn take_few_processes(&mut self) -> Option<Setting> {
        self.settings.iter().position(Setting::is_few_processes).map(|at| self.settings.remove(at))
    }

    /// Takes out what the container has anyway where nobody ever limited it.
    pub(super) fn leave_out_what_is_so(&mut self, cgroups: &Cgroups) {
        self.settings.retain(|setting| !(setting.asks_for_nothing() && cgroups.with(&setting.controller).is_none()));
    }

    /// Writes the limits.
    ///
    /// # Errors
    /// The kernel refuses one; those before it are in force.
    pub fn apply(&self, cgroups: &Cgroups) -> Result<(), LimitError> {
        self.check_memory(cgroups)?;
        self.apply_devices(cgroups)?;
        write_all(&self.settings, cgroups, |_| {})
    }

    /// As [`Limits::apply`], but all or nothing. Returns what was in force before.
    ///
    /// # Errors
    /// The kernel refuses one; what was in force before is so again.
    pub(super) fn change(&self, cgroups: &Cgroups) -> Result<Former, LimitError> {
        self.check_memory(cgroups)?;
        let mut former = Former::default();
        let written = write_all(&self.settings, cgroups, |setting| former.0.extend(setting.in_force(cgroups)));
        match written {
            Ok(()) => Ok(former),
            Err(refused) => match former.restore(cgroups) {
                Ok(()) => Err(refused),
                Err(stuck) => {
                    let problem = format!("{}; and {} {}", refused.problem, stuck.field, stuck.problem);
                    Err(LimitError::new(&refused.field, problem))
                }
            },
        }
    }

    /// By a program on cgroup v2, also where its hierarchy has no controllers: once it is loaded, that is one system call
    /// instead of a line per rule.
    fn apply_devices(&self, cgroups: &Cgroups) -> Result<(), LimitError> {
        let Some(rules) = &self.devices else { return Ok(()) };
        let applied = match (cgroups.unified(), cgroups.with("devices")) {
            (Some(unified), _) => {
                let directory = fs::File::open(&unified.path)
                    .map_err(|error| LimitError::new("devices", format!("{}: {error}", unified.path.display())))?;
                rules.apply_v2(directory.as_fd())
            }
            (None, Some(v1)) => rules.apply_v1(&v1.path),
            (None, None) => return Ok(()),
        };
        match applied {
            // Whoever has no right to set rules is in a user namespace, where no device node can be made either.
            Err(DeviceError::NotPermitted { .. }) if rootless::in_user_namespace() => Ok(()),
            applied => applied.map_err(|error| LimitError::new("devices", with_source(&error))),
        }
    }

    /// Cgroup v2 kills for a limit below what is in use (`memory.max`), where v1 refuses; `checkBeforeUpdate` asks for a
    /// refusal on both. In runc's words.
    fn check_memory(&self, cgroups: &Cgroups) -> Result<(), LimitError> {
        let Some(directory) = cgroups.with("memory").filter(|_| self.check_memory != Bounds::default()) else {
            return Ok(());
        };
        let Some(used) = memory_in_use(&directory.path, directory.version) else { return Ok(()) };
        let Bounds { limit, swap } = self.check_memory;
        for (field, name, limit) in [("memory.swap", "memory+swap", swap), ("memory.limit", "memory", limit)] {
            if let Some(limit) = limit.filter(|limit| *limit <= used) {
                return Err(LimitError::new(field, format!("rejecting {name} limit {limit} <= usage {used}")));
            }
        }
        Ok(())
    }
}

/// Values that limits had, in the order in which they go back.
#[derive(Debug, Default)]
pub(super) struct Former(Vec<Setting>);

impl Former {
    /// Writes them.
    ///
    /// # Errors
    /// The kernel refuses one: it is changed after all.
    pub(super) fn restore(&self, cgroups: &Cgroups) -> Result<(), LimitError> {
        write_all(self.0.iter().rev(), cgroups, |_| {}).map_err(|stuck| {
            LimitError::new(&stuck.field, format!("is changed, for it could not be set back: {}", stuck.problem))
        })
    }
}

/// Writes settings, each after a look at it. Which order fits may depend on what there was before (a limit on memory and swap
/// together is never below that on memory alone), so what the kernel calls invalid is tried once more after the rest.
fn write_all<'a>(
    settings: impl IntoIterator<Item = &'a Setting>,
    cgroups: &Cgroups,
    mut before: impl FnMut(&Setting),
) -> Result<(), LimitError> {
    let mut again = Vec::new();
    for setting in settings {
        before(setting);
        match setting.write(cgroups) {
            Err(Refused { errno: Some(rustix::io::Errno::INVAL), .. }) => again.push(setting),
            written => written.map_err(|refused| refused.error)?,
        }
    }
    again.into_iter().try_for_each(|setting| setting.write(cgroups).map_err(|refused| refused.error))
}

/// Why a setting was not written.
struct Refused {
    errno: Option<rustix::io::Errno>,
    error: LimitError,
}

impl Setting {
    /// Whether it would get into the way of the container's start.
    pub(super) fn is_few_processes(&self) -> bool {
        self.field == "pids.limit" && self.value.parse().is_ok_and(|limit: u64| limit < FEW_PROCESSES)
    }

    /// Opens the file for somebody else to write.
    ///
    /// # Errors
    /// The kernel has no such file.
    pub fn open(&self, cgroups: &Cgroups) -> Result<OwnedFd, LimitError> {
        let directory = self.directory(cgroups)?;
        let path = directory.path.join(&self.file);
        let file = fs::OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|error| LimitError::new(&self.field, format!("open {}: {error}", path.display())))?;
        Ok(file.into())
    }

    fn directory<'a>(&self, cgroups: &'a Cgroups) -> Result<&'a Directory, LimitError> {
        let directory = match self.controller.as_str() {
            "cgroup" => cgroups.unified(),
            controller => cgroups.with(controller),
        };
        let problem = || format!("the container has no cgroup of the {} controller", self.controller);
        directory.ok_or_else(|| LimitError::new(&self.field, problem()))
    }

    /// The same setting with the value that is in force; `None` where that cannot be read.
    fn in_force(&self, cgroups: &Cgroups) -> Option<Setting> {
        let directory = self.directory(cgroups).ok()?;
        let former = |file: &str, value: &str| {
            let text = fs::read_to_string(directory.path.join(file)).ok()?;
            let value = former_value(file, &text, value)?;
            Some(Setting { file: file.to_owned(), value, instead: None, ..self.clone() })
        };
        let instead = || self.instead.as_ref().and_then(|(file, value)| former(file, value));
        former(&self.file, &self.value).or_else(instead)
    }

    fn write(&self, cgroups: &Cgroups) -> Result<(), Refused> {
        let directory = self.directory(cgroups).map_err(|error| Refused { errno: None, error })?;
        let path = directory.path.join(&self.file);
        let mut written = write(&path, &self.value);
        if let (Err(error), Some((file, value))) = (&written, &self.instead)
            && error.kind() == ErrorKind::NotFound
        {
            written = write(&directory.path.join(file), value);
        }
        match written {
            Err(error) if error.kind() == ErrorKind::NotFound && self.optional => Ok(()),
            Err(error) => {
                let in_use = (error.kind() == ErrorKind::ResourceBusy && self.field.starts_with("memory."))
                    .then(|| memory_in_use(&directory.path, directory.version))
                    .flatten();
                let used = in_use.map(|used| format!(" ({used} bytes are in use)")).unwrap_or_default();
                let errno = rustix::io::Errno::from_io_error(&error);
                let reason = match errno {
                    // kernfs has no such file, and does not let one be made.
                    Some(rustix::io::Errno::NOENT) => "this kernel has no such limit".to_owned(),
                    Some(errno) => errno_text(errno).to_string(),
                    None => error.to_string(),
                };
                let problem = format!("write {} to {}: {reason}{used}", one_line(&self.value), path.display());
                Err(Refused { errno, error: LimitError::new(&self.field, problem) })
            }
            Ok(()) => Ok(()),
        }
    }
}

/// An error and what caused it, in one line.
fn with_source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// One write(2), which is what a cgroup's file takes for one value; the file is never made.
fn write(path: &Path, value: &str) -> Result<(), Error> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn memory_in_use(path: &Path, version: Version) -> Option<u64> {
    let file = match version {
        Version::V1 => "memory.usage_in_bytes",
        Version::V2 => "memory.current",
    };
    fs::read_to_string(path.join(file)).ok()?.trim().parse().ok()
}

/// What is to be written to a file that holds `text` now, to take back a new `value`: the whole line, or in a file with a line
/// for each device that device's.
fn former_value(file: &str, text: &str, value: &str) -> Option<String> {
    let per_device = value
        .split_once(' ')
        .map(|(device, _)| device)
        .filter(|device| device.contains(':') || matches!(file, "rdma.max" | "net_prio.ifpriomap"));
    let Some(device) = per_device else {
        let line = text.lines().next().unwrap_or_default();
        // The other lines of this one cannot be written.
        let line = line.strip_prefix("oom_kill_disable ").unwrap_or(line);
        // An empty text is what a cpuset of cgroup v2 begins with; to write nothing would be no write(2).
        return Some(if line.is_empty() { "\n".to_owned() } else { line.to_owned() });
    };
    let line = text.lines().find(|line| line.split_once(' ').is_some_and(|(known, _)| known == device));
    match (line, file) {
        (Some(line), _) => Some(line.to_owned()),
        (None, "io.max") => Some(format!("{device} rbps=max wbps=max riops=max wiops=max")),
        (None, "io.weight") => Some(format!("{device} default")),
        (None, _) if file.starts_with("blkio.") || file == "io.bfq.weight" => Some(format!("{device} 0")),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::former_value;

    #[test]
    fn a_new_value_is_taken_back_by_what_the_file_held() {
        for (file, text, value, former) in [
            ("cpu.max", "max 100000\n", "5000", Some("max 100000")),
            ("cpuset.cpus", "\n", "0", Some("\n")),
            ("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0\n", "0", Some("1")),
            ("io.weight", "default 100\n8:0 50\n", "200", Some("default 100")),
            ("io.weight", "default 100\n8:0 50\n", "8:0 7", Some("8:0 50")),
            ("io.weight", "default 100\n8:0 50\n", "8:16 7", Some("8:16 default")),
            ("io.max", "8:0 rbps=1 wbps=max\n", "8:0 rbps=9", Some("8:0 rbps=1 wbps=max")),
            ("io.max", "", "8:1 rbps=9", Some("8:1 rbps=max wbps=max riops=max wiops=max")),
            ("blkio.throttle.read_bps_device", "8:0 7\n", "8:0 9", Some("8:0 7")),
            ("blkio.throttle.read_bps_device", "8:0 7\n", "8:1 9", Some("8:1 0")),
            ("rdma.max", "mlx4_0 hca_handle=2 hca_object=max\n", "x hca_handle=1 hca_object=1", None),
        ] {
            assert_eq!(former_value(file, text, value).as_deref(), former, "{file}: {value:?} over {text:?}");
        }
    }
}
