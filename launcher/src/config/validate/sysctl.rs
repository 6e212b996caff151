//! `linux.sysctl`: only what belongs to a namespace of the container's own. Anything else would be the host's
//! (GHSA-6x2m-w449-qwx7, GHSA-w2j5-3rcx-vx7x).

use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::config::error::{ConfigError, quote};

/// Sysctls of ipc_namespaces(7) in the kernel directory.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// The file of a sysctl, relative to /proc/sys. As sysctl(8) has it, the separator that comes first in the name is the
/// separator, and the other one stands for itself: `net.ipv4.conf.eth0/1.mtu` is `net/ipv4/conf/eth0.1/mtu`.
#[must_use]
pub fn sysctl_path(key: &str) -> String {
    let swap = |letter: char| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => key.chars().map(swap).collect(),
        _ => key.to_owned(),
    }
}

pub(super) fn check(spec: &Spec) -> Result<(), ConfigError> {
    let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (key, value) in sysctls.into_iter().flatten() {
        check_one(spec, key, value)?;
    }
    Ok(())
}

fn check_one(spec: &Spec, key: &str, value: &str) -> Result<(), ConfigError> {
    let fail = |reason: String| Err(ConfigError::field(format_args!("linux.sysctl.{key}"), reason));
    let path = sysctl_path(key);
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) || key.contains('\0') {
        return fail(format!("{} is not the name of a sysctl", quote(key)));
    }
    super::c_string(format_args!("linux.sysctl.{key}"), value)?;
    let kind = if path.starts_with("net/") {
        LinuxNamespaceType::Network
    } else if path.starts_with("fs/mqueue/") || IPC.contains(&path.as_str()) {
        LinuxNamespaceType::Ipc
    } else if path == "kernel/domainname" {
        LinuxNamespaceType::Uts
    } else if path == "kernel/hostname" {
        return fail("sysctl \"kernel.hostname\" conflicts with the field hostname: use that".to_owned());
    } else {
        return fail(format!("sysctl {} is not in a separate kernel namespace", quote(key)));
    };
    if is_private(spec, kind) {
        return Ok(());
    }
    let name = super::linux::kind_name(kind);
    fail(format!("sysctl {} is not allowed without a {name} namespace of the container's own", quote(key)))
}

/// Whether the container has such a namespace that is not ours.
fn is_private(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let found = namespaces.into_iter().flatten().find(|namespace| namespace.typ() == kind);
    let Some(namespace) = found else { return false };
    let Some(path) = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) else { return true };
    let file = match kind {
        LinuxNamespaceType::Network => "/proc/self/ns/net",
        LinuxNamespaceType::Ipc => "/proc/self/ns/ipc",
        _ => "/proc/self/ns/uts",
    };
    let identity = |path: &Path| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    // A path that cannot be looked at will be told of when it is opened.
    identity(path) != identity(Path::new(file))
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn the_first_separator_is_the_separator() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/mtu", "net/ipv4/conf/eth0.1/mtu"),
            ("net.ipv4.conf.eth0/1.mtu", "net/ipv4/conf/eth0.1/mtu"),
            ("plain", "plain"),
        ] {
            assert_eq!(sysctl_path(key), path);
        }
    }
}
