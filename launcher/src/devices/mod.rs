//! Which devices a container may open and make: `linux.resources.devices`, enforced by the kernel for a whole cgroup.
//!
//! ```text
//! LinuxDeviceCgroup --rules--> Rule --policy--> Policy: allowed or denied, but for exceptions
//!                                                 |--v1--> lines for devices.allow and devices.deny
//!                                                 `--ebpf--> instructions --v2, bpf--> a program attached to the cgroup
//! ```
//!
//! Reading order: [`program`] and [`Compiled`] here, then `rules` (what is written, and what every container has),
//! `policy` (what it amounts to), `v1` (the devices controller), `ebpf` and `v2` (the unified hierarchy). `bpf` holds the
//! system calls, `cache` what was compiled before.
//!
//! Nothing is allowed by default (GHSA-g54h-m393-cpwq). Both versions decide alike, as the devices controller does:
//! an allow-list grants an access that one of its lines grants in full, a deny-list refuses what any line refuses in part.

mod bpf;
mod cache;
mod ebpf;
mod error;
mod policy;
mod rules;
mod v1;
mod v2;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use oci_spec::runtime::LinuxDeviceCgroup;

use cache::Cache;
pub use error::{DeviceError, RuleError};
use policy::Policy;
use rules::Rule;

/// The program for the rules of a config.json, from this process's cache if it was asked for before. No rules at all mean
/// no devices but those that every container has.
///
/// # Errors
/// Names the rule that is wrong, or that cgroups cannot express.
pub fn program(rules: &[LinuxDeviceCgroup]) -> Result<Arc<Compiled>, RuleError> {
    static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);
    let rules = rules::parse(rules)?;
    CACHE.lock().unwrap_or_else(PoisonError::into_inner).get(rules)
}

/// Device rules, ready to be put in force for any number of cgroups.
#[derive(Debug)]
pub struct Compiled {
    policy: Policy,
    /// Given to the kernel when a cgroup v2 asks for it first; its descriptor then serves all that follow.
    loaded: OnceLock<v2::Loaded>,
}

impl Compiled {
    fn new(rules: &[Rule]) -> Result<Self, RuleError> {
        Ok(Self { policy: Policy::of(rules)?, loaded: OnceLock::new() })
    }

    /// Puts the rules in force for a directory of cgroup v2, in place of those that were put in force for it before. At no
    /// moment is it without a program. Programs that others attached stay, and both have to agree.
    ///
    /// # Errors
    /// [`DeviceError::NotPermitted`] without the caps that bpf(2) takes, as in a user namespace.
    pub fn apply_v2(&self, directory: BorrowedFd<'_>) -> Result<(), DeviceError> {
        v2::apply(&self.policy, &self.loaded, directory)
    }

    /// Puts the rules in force for a directory of the devices controller of cgroup v1. At no moment is anything allowed
    /// that is allowed neither before nor after.
    ///
    /// The kernel does not tell what a deny-list denies. Where one is in force already, its lines stay in addition;
    /// [`Compiled::update_v1`] knows better.
    ///
    /// # Errors
    /// [`DeviceError::NotPermitted`] in a user namespace, or when the directory above does not allow that much.
    pub fn apply_v1(&self, directory: &Path) -> Result<(), DeviceError> {
        v1::apply(&self.policy, None, directory)
    }

    /// [`Compiled::apply_v1`] where other rules were applied before.
    ///
    /// # Errors
    /// As [`Compiled::apply_v1`]; and [`DeviceError::Exposes`] from an allow-list to a deny-list, for which cgroup v1 has
    /// no way, if there are processes in the directory.
    pub fn update_v1(&self, previous: &Compiled, directory: &Path) -> Result<(), DeviceError> {
        v1::apply(&self.policy, Some(&previous.policy), directory)
    }
}

#[cfg(test)]
mod tests;
