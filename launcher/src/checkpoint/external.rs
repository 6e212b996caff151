//! What a container has from outside, and CRIU is to leave alone: bind mounts, masks, the host's device nodes, namespaces of
//! others. The images name each; whoever restores says what stands behind the name.
//!
//! A bind mount's name is its `destination` as config.json writes it, so what stands behind it on restore is decided by
//! config.json alone: no link in a root file system, and nothing in the images, can make it another (CVE-2026-119101 of runc).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::mount_table::MountTable;
use super::rpc::ExternalMount;
use super::{CheckpointError, Result, kernel};
use crate::config::has_namespace;

/// The name of all masked files, as with runc.
const MASK: &str = "/dev/null";

/// The names of a configuration's bind mounts, with their positions.
pub(super) fn binds(spec: &Spec) -> Result<Vec<(usize, String)>> {
    let list = spec.mounts().iter().flatten().enumerate().filter(|(_, mount)| is_bind(mount));
    let named = |(position, mount): (usize, &Mount)| {
        Ok((position, name(&format!("mounts[{position}].destination"), mount.destination())?))
    };
    list.map(named).collect()
}

/// As [`crate::plan`] has it.
pub(super) fn is_bind(mount: &Mount) -> bool {
    let has = |wanted: &[&str]| mount.options().iter().flatten().any(|option| wanted.contains(&option.as_str()));
    !has(&["remount"]) && (mount.typ().as_deref() == Some("bind") || has(&["bind", "rbind"]))
}

/// A path of the container's without `.`, `..` and double slashes. CRIU makes `mnt[NAME]:VALUE` of it, so it must not hold
/// what ends the name there (CVE-2026-115520 of crun).
pub(super) fn name(field: &str, path: &Path) -> Result<String> {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    let refuse = |problem| Err(CheckpointError::config(field, problem));
    match clean.to_str() {
        Some(name) if name.contains("]:") => refuse(format!("{name:?}: CRIU takes no path with \"]:\"")),
        Some(name) => Ok(name.to_owned()),
        None => refuse(format!("{clean:?}: CRIU takes no path that is not UTF-8")),
    }
}

/// Device nodes that may have been bound from the host: those of config.json, and those that every container has.
fn devices(spec: &Spec) -> impl Iterator<Item = &Path> {
    let own = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    let usual = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    own.map(|device| device.path().as_path()).chain(usual.map(Path::new))
}

fn masked(spec: &Spec) -> impl Iterator<Item = &Path> {
    let paths = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref());
    paths.into_iter().flatten().map(Path::new)
}

/// For a checkpoint: where the container has them, and their names.
pub(super) fn of_running(spec: &Spec, pid: i32) -> Result<Vec<ExternalMount>> {
    let inside = Inside::of(pid)?;
    let mut all = Vec::new();
    let mut add = |path: &Path, name: &str, files_only: bool| -> Result<()> {
        let taken = |all: &[ExternalMount], place: &str| all.iter().any(|mount| mount.key == place);
        if let Some((key, directory)) = inside.mount_at(path)?
            && !(files_only && directory || taken(&all, &key))
        {
            all.push(ExternalMount { key, value: name.to_owned() });
        }
        Ok(())
    };
    for (_, name) in binds(spec)? {
        add(Path::new(&name), &name, false)?;
    }
    for path in masked(spec) {
        add(path, MASK, true)?;
    }
    for path in devices(spec) {
        add(path, &name("linux.devices", path)?, true)?;
    }
    Ok(all)
}

/// For a restore: what stands behind the names. `trees` says where the bind mounts have been put, by position.
pub(super) fn to_restore(spec: &Spec, trees: &[(usize, String)]) -> Result<Vec<ExternalMount>> {
    let mut all = Vec::new();
    for (position, key) in binds(spec)? {
        let tree = trees.iter().find(|(at, _)| *at == position);
        all.extend(tree.map(|(_, path)| ExternalMount { key, value: path.clone() }));
    }
    all.push(ExternalMount { key: MASK.to_owned(), value: MASK.to_owned() });
    for path in devices(spec) {
        let name = name("linux.devices", path)?;
        if !all.iter().any(|mount| mount.key == name) {
            all.push(ExternalMount { value: name.clone(), key: name });
        }
    }
    Ok(all)
}

/// Refuses a container that has the host's mount namespace: CRIU would take all mounts of the host for the container's.
///
/// # Errors
/// [`CheckpointError::Config`]
pub(super) fn insist_own_mounts(spec: &Spec) -> Result<()> {
    if has_namespace(spec, LinuxNamespaceType::Mount) {
        return Ok(());
    }
    Err(CheckpointError::config(
        "linux.namespaces",
        "checkpoint and restore need a mount namespace of the container's own",
    ))
}

/// The kinds of namespaces of others that CRIU leaves alone, and their names in the images.
pub(super) const EXTERNAL_NAMESPACES: [(LinuxNamespaceType, &str, &str); 2] =
    [(LinuxNamespaceType::Network, "net", "extRootNetNS"), (LinuxNamespaceType::Pid, "pid", "extRootPidNS")];

/// The namespaces that a configuration joins: position, kind, path.
pub(super) fn joined(spec: &Spec) -> impl Iterator<Item = (usize, LinuxNamespaceType, &Path)> {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let list = list.into_iter().flatten().enumerate();
    list.filter_map(|(index, namespace)| {
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())?;
        Some((index, namespace.typ(), path))
    })
}

/// Whether a configuration asks for a new namespace of a kind.
pub(super) fn is_new(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut list = list.into_iter().flatten();
    let has = list.any(|namespace| namespace.typ() == kind);
    has && joined(spec).all(|(_, joined, _)| joined != kind)
}

/// For a checkpoint: namespaces in which the container is a guest, `net[INODE]:extRootNetNS`.
pub(super) fn namespaces_of_running(spec: &Spec, pid: i32) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (_, kind, _) in joined(spec) {
        if let Some((_, file, name)) = EXTERNAL_NAMESPACES.iter().find(|(external, ..)| *external == kind) {
            // The container's own: the file of config.json may have become another by now.
            let stat = rustix::fs::stat(format!("/proc/{pid}/ns/{file}")).map_err(kernel("namespace"))?;
            all.push(format!("{file}[{}]:{name}", stat.st_ino));
        }
    }
    Ok(all)
}

/// For a checkpoint: which of the descriptors 0, 1 and 2 are files of the host's that no mount of the container's shows, as
/// those to which output is appended; CRIU's names for them, `file[MOUNT:INODE]` in hexadecimal, empty for the others.
pub(super) fn standard_files(pid: i32) -> Result<Vec<String>> {
    let inside = Inside::of(pid)?;
    let name = |number: i32| {
        let stat = rustix::fs::stat(format!("/proc/{pid}/fd/{number}")).ok()?;
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let mount: u64 = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        (is_file && inside.mounts.place(mount).is_none()).then(|| format!("file[{mount:x}:{:x}]", stat.st_ino))
    };
    Ok((0..3).map(|number| name(number).unwrap_or_default()).collect())
}

/// Exactly such a name.
pub(super) fn is_file_name(name: &str) -> bool {
    let parts = name.strip_prefix("file[").and_then(|rest| rest.strip_suffix(']')?.split_once(':'));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.is_some_and(|(mount, inode)| is_number(mount) && is_number(inode))
}

/// The file system of a running container.
struct Inside {
    root: OwnedFd,
    mounts: MountTable,
}

impl Inside {
    fn of(pid: i32) -> Result<Inside> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty());
        let mounts = MountTable::of(&pid.to_string()).map_err(CheckpointError::Start)?;
        Ok(Inside { root: root.map_err(kernel("root of the container"))?, mounts })
    }

    /// The mount point that a path leads to, and whether it is a directory; `None` when it leads nowhere, or to no mount.
    fn mount_at(&self, path: &Path) -> Result<Option<(String, bool)>> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let found = match rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            found => found.map_err(kernel("look up a mount in the container"))?,
        };
        let wanted = StatxFlags::MNT_ID | StatxFlags::TYPE;
        let stat = rustix::fs::statx(&found, c"", AtFlags::EMPTY_PATH, wanted).map_err(kernel("statx"))?;
        let directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        let is_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Ok(self.mounts.place(stat.stx_mnt_id).filter(|_| is_root).map(|place| (place.to_owned(), directory)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mounts: serde_json::Value) -> Spec {
        let spec = serde_json::json!({"ociVersion": "1.2.0", "mounts": mounts, "linux": {}});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_name_is_what_config_json_says_and_nothing_of_the_file_system() {
        assert_eq!(name("", Path::new("/a//b/./c/")).unwrap(), "/a/b/c");
        assert_eq!(name("", Path::new("data")).unwrap(), "/data");
        assert_eq!(name("", Path::new("/../../x")).unwrap(), "/x");
        let error = name("mounts[0].destination", Path::new("/a]:/etc")).unwrap_err().to_string();
        assert_eq!(error, r#"config.json: mounts[0].destination: "/a]:/etc": CRIU takes no path with "]:""#);
    }

    #[test]
    fn binds_are_found_by_type_or_option() {
        let spec = spec(serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/a", "type": "bind", "source": "/x"},
            {"destination": "/b/", "source": "y", "options": ["rbind", "ro"]},
            {"destination": "/b", "type": "none", "options": ["remount", "bind", "ro"]},
        ]));
        assert_eq!(binds(&spec).unwrap(), [(1, "/a".to_owned()), (2, "/b".to_owned())]);
    }

    #[test]
    fn names_of_files_are_taken_to_the_letter() {
        assert!(is_file_name("file[1f:a0]"));
        for name in ["file[]", "file[1]", "file[1:]", "file[1:2]:x", "file[1:2:3]", "/file[1:2]", "file[g:1]", ""] {
            assert!(!is_file_name(name), "{name}");
        }
    }

    #[test]
    fn our_own_mounts_are_found_as_a_containers_would_be() {
        let inside = Inside::of(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert_eq!(inside.mount_at(Path::new("/proc")).unwrap(), Some(("/proc".to_owned(), true)));
        assert_eq!(inside.mount_at(Path::new("/proc/self/stat")).unwrap(), None);
        assert_eq!(inside.mount_at(Path::new("/no/such/thing")).unwrap(), None);
    }
}
