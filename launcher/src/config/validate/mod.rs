//! Whether a [`Spec`] is right in itself: values in range, parts that fit together, strings that C can hold.

mod attributes;
mod hooks;
mod intel_rdt;
mod linux;
mod mapping;
mod mounts;
mod process;
mod seccomp;
mod sysctl;

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::error::{ConfigError, quote};
use super::unsupported;

pub use attributes::list_mask;
pub use sysctl::sysctl_path;

/// Longest host or domain name that the kernel takes (`__NEW_UTS_LEN`).
const MAX_UTS_NAME_BYTES: usize = 64;

/// Checks a config.json without looking at the host. The notes name what is allowed but odd.
///
/// # Errors
/// Names the first field that is wrong and says why.
pub fn validate(spec: &Spec) -> Result<Vec<String>, ConfigError> {
    let mut notes = Vec::new();
    // First of all: the rest would be misunderstood in another version or a config for another system.
    version(spec.version())?;
    unsupported::check_platform(spec)?;
    root(spec)?;
    process::check(spec, &mut notes)?;
    mounts::check(spec.mounts().as_deref().unwrap_or_default(), &mut notes)?;
    linux::check(spec)?;
    attributes::check_linux(spec)?;
    intel_rdt::check(spec)?;
    if let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        seccomp::check(profile, &mut notes)?;
    }
    sysctl::check(spec)?;
    hooks::check(spec)?;
    uts_name("hostname", spec.hostname().as_deref(), spec)?;
    uts_name("domainname", spec.domainname().as_deref(), spec)?;
    Ok(notes)
}

/// `MAJOR.MINOR.PATCH` of semver, with or without `-pre` and `+build`.
fn version(version: &str) -> Result<(), ConfigError> {
    if version.is_empty() {
        return Err(ConfigError::field("ociVersion", "missing"));
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([0 | 1, _, _]) => Ok(()),
        Some([_, _, _]) => {
            Err(ConfigError::field("ociVersion", format!("{version} is not supported, 0.x and 1.x are")))
        }
        _ => Err(ConfigError::field("ociVersion", format!("must be MAJOR.MINOR.PATCH, not {}", quote(version)))),
    }
}

fn root(spec: &Spec) -> Result<(), ConfigError> {
    let root = spec.root().as_ref().ok_or_else(|| ConfigError::field("root", "missing"))?;
    c_path("root.path", root.path())
}

/// The host's own names are not for a container to change.
fn uts_name(field: &str, name: Option<&str>, spec: &Spec) -> Result<(), ConfigError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(()) };
    c_string(field, name)?;
    if name.len() > MAX_UTS_NAME_BYTES {
        return Err(ConfigError::field(
            field,
            format!("{} bytes long, the kernel takes {MAX_UTS_NAME_BYTES}", name.len()),
        ));
    }
    if !has_namespace(spec, LinuxNamespaceType::Uts) {
        return Err(ConfigError::field(field, "needs a uts namespace in linux.namespaces"));
    }
    Ok(())
}

/// Whether the container gets a namespace of this kind, new or joined.
pub(crate) fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|list| list.iter().any(|namespace| namespace.typ() == kind))
}

/// A string that becomes a C string must not hold its end. Fields come as [`format_args!`], written out for errors only.
fn c_string(field: impl Display, value: impl AsRef<OsStr>) -> Result<(), ConfigError> {
    if value.as_ref().as_bytes().contains(&0) {
        return Err(ConfigError::field(field, "must not contain a NUL character"));
    }
    Ok(())
}

/// A path that must be there.
fn c_path(field: impl Display, path: &Path) -> Result<(), ConfigError> {
    if path.as_os_str().is_empty() {
        return Err(ConfigError::field(field, "must not be empty"));
    }
    c_string(field, path)
}

fn absolute_path(field: impl Display, path: &Path) -> Result<(), ConfigError> {
    c_path(&field, path)?;
    if !path.is_absolute() {
        let value = quote(&path.to_string_lossy());
        return Err(ConfigError::field(field, format!("must be an absolute path, not {value}")));
    }
    Ok(())
}

fn climbs(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}
