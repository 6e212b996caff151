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
    /// `memory.checkBeforeUpdate`, with the limit in bytes.
    check_memory: Option<u64>,
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
        let check_memory = memory.and_then(|memory| u64::try_from(memory.limit()?).ok()).filter(|limit| *limit > 0);
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

    /// Takes out a limit on processes that would get into the way of the container's start; for the child to write, last.
    pub fn take_few_processes(&mut self) -> Option<Setting> {
        let few = |setting: &Setting| {
            setting.field == "pids.limit" && setting.value.parse().is_ok_and(|limit: u64| limit < FEW_PROCESSES)
        };
        self.settings.iter().position(few).map(|at| self.settings.remove(at))
    }

    /// Writes the limits. Which order fits may depend on what there was before (a limit on memory and swap together is never
    /// below that on memory alone), so what the kernel calls invalid is tried once more after the rest.
    ///
    /// # Errors
    /// The kernel refuses one; those before it are in force.
    pub fn apply(&self, cgroups: &Cgroups) -> Result<(), LimitError> {
        self.check_memory(cgroups)?;
        self.apply_devices(cgroups)?;
        let mut again = Vec::new();
        for setting in &self.settings {
            match setting.write(cgroups) {
                Err(Refused { errno: Some(rustix::io::Errno::INVAL), .. }) => again.push(setting),
                written => written.map_err(|refused| refused.error)?,
            }
        }
        again.into_iter().try_for_each(|setting| setting.write(cgroups).map_err(|refused| refused.error))
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
    /// refusal on both.
    fn check_memory(&self, cgroups: &Cgroups) -> Result<(), LimitError> {
        let (Some(limit), Some(directory)) = (self.check_memory, cgroups.with("memory")) else { return Ok(()) };
        match memory_in_use(&directory.path, directory.version) {
            Some(used) if used > limit => {
                Err(LimitError::new("memory.limit", format!("{limit} is below the {used} bytes in use")))
            }
            _ => Ok(()),
        }
    }
}

/// Why a setting was not written.
struct Refused {
    errno: Option<rustix::io::Errno>,
    error: LimitError,
}

impl Setting {
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
