//! `linux`: namespaces, devices, paths.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Spec};

use super::{absolute_path, c_path, climbs, has_namespace, mapping};
use crate::config::error::{ConfigError, quote};

/// Largest major number (12 bits) and minor number (20 bits) of a device.
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

pub(super) fn check(spec: &Spec) -> Result<(), ConfigError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    if !has_namespace(spec, LinuxNamespaceType::Mount) {
        hosts_mounts(linux, spec)?;
    }
    namespaces(linux.namespaces().as_deref().unwrap_or_default())?;
    mapping::check(linux)?;
    for (i, device) in linux.devices().as_deref().unwrap_or_default().iter().enumerate() {
        check_device(i, device)?;
    }
    for (field, paths) in [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())] {
        for (i, path) in paths.as_deref().unwrap_or_default().iter().enumerate() {
            // A relative one is against the specification and hides what it would below `/`, as with runc.
            c_path(format_args!("linux.{field}[{i}]"), Path::new(path))?;
        }
    }
    time_offsets(linux, spec)?;
    net_devices(linux, spec)?;
    cgroups_path(linux)?;
    match linux.rootfs_propagation().as_deref() {
        Some(value) if !value.is_empty() && !PROPAGATIONS.contains(&value) => {
            let reason = format!("must be one of {}, not {}", PROPAGATIONS.join(", "), quote(value));
            Err(ConfigError::field("linux.rootfsPropagation", reason))
        }
        _ => Ok(()),
    }
}

/// What cannot be done to the host's own mounts, as with runc.
fn hosts_mounts(linux: &Linux, spec: &Spec) -> Result<(), ConfigError> {
    if has_namespace(spec, LinuxNamespaceType::User) {
        let reason = "a user namespace needs a mount namespace, whose mounts are its own to change";
        return Err(ConfigError::field("linux.namespaces", reason));
    }
    for (field, paths) in [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())] {
        if paths.as_ref().is_some_and(|paths| !paths.is_empty()) {
            let reason = "unable to restrict sys entries without a private MNT namespace";
            return Err(ConfigError::field(format_args!("linux.{field}"), reason));
        }
    }
    Ok(())
}

fn namespaces(namespaces: &[LinuxNamespace]) -> Result<(), ConfigError> {
    for (i, namespace) in namespaces.iter().enumerate() {
        let kind = namespace.typ();
        if namespaces[..i].iter().any(|earlier| earlier.typ() == kind) {
            let reason = format!("{} is there twice", kind_name(kind));
            return Err(ConfigError::field(format_args!("linux.namespaces[{i}].type"), reason));
        }
        if let Some(path) = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            absolute_path(format_args!("linux.namespaces[{i}].path"), path)?;
        }
    }
    Ok(())
}

/// The specification's word for a kind of namespace (`oci_spec` prints the kernel's).
pub(super) fn kind_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn check_device(i: usize, device: &LinuxDevice) -> Result<(), ConfigError> {
    absolute_path(format_args!("linux.devices[{i}].path"), device.path())?;
    match device.typ() {
        LinuxDeviceType::A => {
            return Err(ConfigError::field(format_args!("linux.devices[{i}].type"), "must be c, b, u or p, not a"));
        }
        // A FIFO has no numbers.
        LinuxDeviceType::P => return Ok(()),
        LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U => {}
    }
    for (field, number, max) in [("major", device.major(), MAX_MAJOR), ("minor", device.minor(), MAX_MINOR)] {
        if !(0..=max).contains(&number) {
            let reason = format!("must be within 0 and {max}, not {number}");
            return Err(ConfigError::field(format_args!("linux.devices[{i}].{field}"), reason));
        }
    }
    Ok(())
}

fn time_offsets(linux: &Linux, spec: &Spec) -> Result<(), ConfigError> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else { return Ok(()) };
    if !has_namespace(spec, LinuxNamespaceType::Time) {
        return Err(ConfigError::field("linux.timeOffsets", "needs a time namespace in linux.namespaces"));
    }
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "boottime" | "monotonic") {
            let reason = format!("the clock must be boottime or monotonic, not {}", quote(clock));
            return Err(ConfigError::field("linux.timeOffsets", reason));
        }
        let nanosecs = offset.nanosecs().unwrap_or(0);
        if nanosecs >= NANOSECONDS_PER_SECOND {
            let reason = format!("must be below {NANOSECONDS_PER_SECOND}, not {nanosecs}");
            return Err(ConfigError::field(format_args!("linux.timeOffsets.{clock}.nanosecs"), reason));
        }
    }
    Ok(())
}

/// Names are as the kernel takes them (`dev_valid_name`), and no patterns.
fn net_devices(linux: &Linux, spec: &Spec) -> Result<(), ConfigError> {
    let devices = linux.net_devices().iter().flatten();
    for (name, device) in devices {
        if !has_namespace(spec, LinuxNamespaceType::Network) {
            return Err(ConfigError::field("linux.netDevices", "needs a network namespace in linux.namespaces"));
        }
        device_name(format_args!("linux.netDevices.{name}"), name)?;
        if let Some(new_name) = device.name().as_deref().filter(|new_name| !new_name.is_empty()) {
            device_name(format_args!("linux.netDevices.{name}.name"), new_name)?;
        }
    }
    Ok(())
}

fn device_name(field: impl std::fmt::Display, name: &str) -> Result<(), ConfigError> {
    let odd = |byte: u8| matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace() || byte == 0x0b;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name == "." || name == ".." || name.bytes().any(odd) {
        return Err(ConfigError::field(field, format!("not a name of a network device: {}", quote(name))));
    }
    Ok(())
}

fn cgroups_path(linux: &Linux) -> Result<(), ConfigError> {
    let Some(path) = linux.cgroups_path().as_deref().filter(|path| !path.as_os_str().is_empty()) else { return Ok(()) };
    c_path("linux.cgroupsPath", path)?;
    if climbs(path) {
        let reason = format!("must not have a .. component: {}", quote(&path.to_string_lossy()));
        return Err(ConfigError::field("linux.cgroupsPath", reason));
    }
    Ok(())
}
