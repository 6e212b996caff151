//! The file system part of a plan: root, mounts, devices, links, hidden paths.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceType, Mount, Process, Spec};
use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::build::{PlanError, c_string};
use super::{FsParameter, Launch, MountAttrs, Step, Target, TargetKind, cgroup_mounts};
use crate::sys;

/// Opens a part of the host's file system as a detached tree. Unless the container asked to share propagation, the
/// tree leaves its peer group here: what is later mounted on it inside must not appear on the host.
fn open_tree(path: &Path, recursive: bool, propagation: u64) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    match propagation {
        libc::MS_SHARED => {}
        libc::MS_SLAVE => sys::mount_setattr(tree.as_fd(), true, 0, 0, libc::MS_SLAVE)?,
        _ => sys::mount_setattr(tree.as_fd(), true, 0, 0, libc::MS_PRIVATE)?,
    }
    Ok(tree)
}

/// The coming root, for look-ups that happen before the clone (passwd).
pub(super) struct RootFs(OwnedFd);

impl RootFs {
    /// The root of a running container.
    pub(super) fn of_process(pid: i32) -> Result<RootFs, Errno> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).map(RootFs)
    }

    /// Reads a small file of the rootfs, resolved inside it; `None` when there is none or it is no regular file.
    /// At most `limit` bytes are read (CVE-2026-47262).
    pub(super) fn read_file(&self, path: &str, limit: u64) -> Option<String> {
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::from(file), limit), &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The step that makes the root.
pub(super) fn root(
    spec: &Spec,
    bundle: &Path,
    host_overlay: bool,
    launch: &mut Launch,
    steps: &mut Vec<Step>,
) -> Result<RootFs, PlanError> {
    let configured = spec.root().as_ref().ok_or_else(|| PlanError::new("root", "is missing"))?;
    let path = bundle.join(configured.path());
    let fail = |errno| PlanError::path("root.path", &path, errno);
    let tree = open_tree(&path, !host_overlay, 0).map_err(fail)?;
    let stat = rustix::fs::fstat(&tree).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(fail(Errno::NOTDIR));
    }
    let look = RootFs(tree.try_clone().map_err(|error| fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?);
    let tree = launch.add_fd(tree);
    steps.push(if host_overlay {
        Step::OverlayRoot { lower: tree, upper_size: CString::default() }
    } else {
        Step::AttachRoot { tree }
    });
    Ok(look)
}

/// The propagation of the root mount, once it is the root.
pub(super) fn root_propagation(spec: &Spec) -> Option<Step> {
    let wanted = spec.linux().as_ref()?.rootfs_propagation().as_deref()?;
    let (kind, recursive) = propagation(wanted)?;
    Some(Step::RootPropagation(if recursive { kind | libc::MS_REC } else { kind }))
}

/// `shared` and its like, and with an `r` before it for all mounts below.
fn propagation(name: &str) -> Option<(u64, bool)> {
    let below = name.strip_prefix('r').unwrap_or_default();
    let (found, kind) = PROPAGATIONS.iter().find(|(known, _)| *known == name || *known == below)?;
    Some((*kind, *found != name))
}

/// One parsed mount option list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub attrs: MountAttrs,
    pub parameters: Vec<FsParameter>,
    bind: bool,
    recursive_bind: bool,
    remount: bool,
}

/// `(name, bit, sets)`: options that are mount attributes; with an `r` before the name they reach all mounts below.
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", libc::MOUNT_ATTR_RDONLY, true),
    ("rw", libc::MOUNT_ATTR_RDONLY, false),
    ("nosuid", libc::MOUNT_ATTR_NOSUID, true),
    ("suid", libc::MOUNT_ATTR_NOSUID, false),
    ("nodev", libc::MOUNT_ATTR_NODEV, true),
    ("dev", libc::MOUNT_ATTR_NODEV, false),
    ("noexec", libc::MOUNT_ATTR_NOEXEC, true),
    ("exec", libc::MOUNT_ATTR_NOEXEC, false),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME, true),
    ("diratime", libc::MOUNT_ATTR_NODIRATIME, false),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("symfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// Access-time options are one field of the attributes, not bits: setting one clears the field first. What takes a mode
/// away leaves the kernel's default, which is `relatime`: so `norelatime` changes nothing, as with mount(8).
const ACCESS_TIMES: &[(&str, u64)] = &[
    ("relatime", libc::MOUNT_ATTR_RELATIME),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("atime", libc::MOUNT_ATTR_RELATIME),
    ("nostrictatime", libc::MOUNT_ATTR_RELATIME),
    ("norelatime", libc::MOUNT_ATTR_RELATIME),
];

const PROPAGATIONS: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Options that mean what is the default already.
const NOTHING: &[&str] = &["defaults", "async", "nolazytime", "nomand", "loud", "silent", "noiversion"];

/// Options that `config::check_supported` refuses, unless it was told to go on without them.
const IGNORED: &[&str] = &["idmap", "ridmap", "tmpcopyup"];

/// Options that the kernel's own part of every file system takes (`vfs_parse_sb_flag`), and so need no word of ours.
const SUPERBLOCK: &[&str] = &["sync", "dirsync", "lazytime"];

/// The mount options that mean something here; any other word goes to the file system. Sorted, for `features`.
#[must_use]
pub fn known_options() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name).chain(ACCESS_TIMES.iter().map(|(name, _)| *name));
    let twofold = attributes.chain(PROPAGATIONS.iter().map(|(name, _)| *name)).chain(["bind"]);
    let single = NOTHING.iter().chain(IGNORED).chain(SUPERBLOCK).chain(&["remount"]);
    let mut names: Vec<String> = twofold.flat_map(|name| [name.to_owned(), format!("r{name}")]).collect();
    names.extend(single.map(|name| (*name).to_owned()));
    names.sort();
    names
}

impl Options {
    pub(super) fn parse(field: &str, options: &[String]) -> Result<Options, PlanError> {
        let mut parsed = Options::default();
        for option in options {
            parsed.apply(field, option)?;
        }
        Ok(parsed)
    }

    fn apply(&mut self, field: &str, option: &str) -> Result<(), PlanError> {
        let attrs = &mut self.attrs;
        let find = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
        let find_time = |name: &str| ACCESS_TIMES.iter().find(|(known, _)| *known == name);
        let below = option.strip_prefix('r').unwrap_or_default();
        if let Some((_, bit, sets)) = find(option) {
            choose(&mut attrs.set, &mut attrs.clear, *bit, *sets);
        } else if let Some((_, value)) = find_time(option) {
            attrs.set = attrs.set & !libc::MOUNT_ATTR__ATIME | value;
            attrs.clear |= libc::MOUNT_ATTR__ATIME;
        } else if let Some((_, bit, sets)) = find(below) {
            choose(&mut attrs.recursive_set, &mut attrs.recursive_clear, *bit, *sets);
        } else if let Some((_, value)) = find_time(below) {
            attrs.recursive_set = attrs.recursive_set & !libc::MOUNT_ATTR__ATIME | value;
            attrs.recursive_clear |= libc::MOUNT_ATTR__ATIME;
        } else if let Some(propagation) = propagation(option) {
            (attrs.propagation, attrs.propagation_recursive) = propagation;
        } else {
            match option {
                "bind" => self.bind = true,
                "rbind" => (self.bind, self.recursive_bind) = (true, true),
                "remount" => self.remount = true,
                "" => return Err(PlanError::new(field, "an option must not be empty")),
                option if NOTHING.contains(&option) || IGNORED.contains(&option) => {}
                option => {
                    let (key, value) = match option.split_once('=') {
                        Some((key, value)) => (key, Some(c_string(field, value)?)),
                        None => (option, None),
                    };
                    self.parameters.push(FsParameter { key: c_string(field, key)?, value });
                }
            }
        }
        Ok(())
    }
}

/// The later of two contradicting options wins, as with mount(8).
fn choose(set: &mut u64, clear: &mut u64, bit: u64, sets: bool) {
    let (into, out_of) = if sets { (set, clear) } else { (clear, set) };
    *into |= bit;
    *out_of &= !bit;
}

/// The mounts of config.json, in its order.
pub(super) fn list(
    spec: &Spec,
    bundle: &Path,
    own_cgroup_namespace: bool,
    launch: &mut Launch,
    steps: &mut Vec<Step>,
) -> Result<(), PlanError> {
    let mut last = Vec::new();
    for (position, mount) in spec.mounts().iter().flatten().enumerate() {
        let index = u16::try_from(position).ok().filter(|index| *index != u16::MAX);
        let index = index.ok_or_else(|| PlanError::new("mounts", "has more than 65,534 entries"))?;
        let field = format!("mounts[{position}]");
        let no_options = Vec::new();
        let options = Options::parse(&format!("{field}.options"), mount.options().as_ref().unwrap_or(&no_options))?;
        let fstype = mount.typ().as_deref().unwrap_or("none");
        if options.remount {
            let target = target(&field, mount.destination(), TargetKind::Directory, false)?;
            steps.push(Step::Remount { index, target, attrs: options.attrs });
        } else if options.bind || fstype == "bind" {
            steps.push(bind(&field, index, mount, &options, bundle, launch)?);
        } else if fstype == "cgroup" || fstype == "cgroup2" {
            let cgroups = cgroup_mounts::Layout::read(own_cgroup_namespace);
            cgroups.mount(&field, index, mount.destination(), &options, launch, steps)?;
        } else {
            steps.push(filesystem(&field, index, mount, fstype, options, &mut last)?);
        }
    }
    steps.append(&mut last);
    Ok(())
}

fn bind(
    field: &str,
    index: u16,
    mount: &Mount,
    options: &Options,
    bundle: &Path,
    launch: &mut Launch,
) -> Result<Step, PlanError> {
    let source = mount.source().as_ref();
    let source = source.ok_or_else(|| PlanError::new(format!("{field}.source"), "a bind mount needs a source"))?;
    let source = bundle.join(source);
    let fail = |errno| PlanError::path(format!("{field}.source"), &source, errno);
    let tree = open_tree(&source, options.recursive_bind, options.attrs.propagation).map_err(fail)?;
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(&tree).map_err(fail)?.st_mode) == FileType::Directory;
    let kind = if is_directory { TargetKind::Directory } else { TargetKind::File };
    let target = target(field, mount.destination(), kind, false)?;
    Ok(Step::MountTree { index, target, tree: launch.add_fd(tree), attrs: options.attrs })
}

fn filesystem(
    field: &str,
    index: u16,
    mount: &Mount,
    fstype: &str,
    options: Options,
    last: &mut Vec<Step>,
) -> Result<Step, PlanError> {
    // /proc and /sys reached through a link of the image would be somewhere else than everybody thinks.
    let no_symlinks = fstype == "proc" || fstype == "sysfs";
    let target = target(field, mount.destination(), TargetKind::Directory, no_symlinks)?;
    let mut attrs = options.attrs;
    // Device nodes and links have yet to be made in a read-only /dev.
    if target.path.as_bytes() == b"/dev" && attrs.set & libc::MOUNT_ATTR_RDONLY != 0 {
        attrs.set &= !libc::MOUNT_ATTR_RDONLY;
        let readonly = MountAttrs { set: libc::MOUNT_ATTR_RDONLY, ..MountAttrs::default() };
        last.push(Step::Remount { index, target: target.clone(), attrs: readonly });
    }
    let source = mount.source().as_ref().map_or_else(|| fstype.into(), |source| source.to_string_lossy());
    Ok(Step::MountFilesystem {
        index,
        target,
        fstype: c_string(&format!("{field}.type"), fstype)?,
        source: c_string(&format!("{field}.source"), source.as_ref())?,
        parameters: options.parameters,
        attrs,
        copy_up: false,
    })
}

pub(super) fn target(field: &str, path: &Path, kind: TargetKind, no_symlinks: bool) -> Result<Target, PlanError> {
    let absolute = Path::new("/").join(path);
    // Trailing slashes say nothing, and `/dev/` must be recognised as `/dev`.
    let text = absolute.to_string_lossy();
    let trimmed = text.trim_end_matches('/');
    let path = c_string(&format!("{field}.destination"), if trimmed.is_empty() { "/" } else { trimmed })?;
    Ok(Target { path, kind, no_symlinks })
}

/// Devices that every container has (runtime-spec, config-linux, "Default Devices"): path, major, minor.
const DEFAULT_DEVICES: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container has (runtime-spec, runtime-linux, "Dev symbolic links").
const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Device nodes and links, unless the container brings a /dev of its own by a bind mount.
pub(super) fn devices(
    spec: &Spec,
    in_user_namespace: bool,
    launch: &mut Launch,
    steps: &mut Vec<Step>,
) -> Result<(), PlanError> {
    let own_dev =
        steps.iter().any(|step| matches!(step, Step::MountTree { target, .. } if target.path.as_bytes() == b"/dev"));
    if own_dev {
        return Ok(());
    }
    let readonly =
        steps.iter().position(|step| matches!(step, Step::Remount { target, .. } if target.path.as_bytes() == b"/dev"));
    let mut later = readonly.map(|at| steps.split_off(at)).unwrap_or_default();

    let mut nodes = BTreeMap::new();
    for (path, major, minor) in DEFAULT_DEVICES {
        nodes.insert((*path).to_owned(), (libc::S_IFCHR | 0o666, *major, *minor, 0, 0));
    }
    let configured = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for (index, device) in configured.into_iter().flatten().enumerate() {
        let field = format!("linux.devices[{index}]");
        let kind = match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => return Err(PlanError::new(format!("{field}.type"), "\"a\" is no kind of device")),
        };
        let number = |name: &str, number: i64| {
            u32::try_from(number)
                .map_err(|_| PlanError::new(format!("{field}.{name}"), format!("{number} is out of range")))
        };
        let (major, minor) = (number("major", device.major())?, number("minor", device.minor())?);
        let permissions = device.file_mode().unwrap_or(0o666) & 0o7777;
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        let path = device.path().to_string_lossy().into_owned();
        nodes.insert(path, (kind | permissions, major, minor, owner.0, owner.1));
    }
    for (path, (mode, major, minor, uid, gid)) in nodes {
        // mknod of a device is refused in a user namespace: the host's own node is bound instead.
        if in_user_namespace && mode & libc::S_IFMT != libc::S_IFIFO {
            let tree = open_tree(Path::new(&path), false, 0)
                .map_err(|errno| PlanError::path("linux.devices", Path::new(&path), errno))?;
            let target = target("linux.devices", Path::new(&path), TargetKind::File, false)?;
            let tree = launch.add_fd(tree);
            steps.push(Step::MountTree { index: u16::MAX, target, tree, attrs: MountAttrs::default() });
        } else {
            let path = c_string("linux.devices", path)?;
            steps.push(Step::Device { path, mode, major, minor, uid, gid });
        }
    }
    if spec.process().as_ref().and_then(Process::terminal).unwrap_or(false) {
        // Now, since /dev may be read-only by the time at which the terminal is bound there.
        let (path, mode) = (c_string("/dev/console", "/dev/console")?, libc::S_IFREG | 0o600);
        steps.push(Step::Device { path, mode, major: 0, minor: 0, uid: 0, gid: 0 });
    }
    for (path, to) in LINKS {
        steps.push(Step::Symlink { path: c_string("/dev", *path)?, to: c_string("/dev", *to)? });
    }
    steps.append(&mut later);
    Ok(())
}

/// Masked and read-only paths.
pub(super) fn hide(spec: &Spec, steps: &mut Vec<Step>) -> Result<(), PlanError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in each_once(linux.readonly_paths()) {
        steps.push(Step::ReadonlyPath(c_string("linux.readonlyPaths", path.as_str())?));
    }
    for path in each_once(linux.masked_paths()) {
        steps.push(Step::MaskPath(c_string("linux.maskedPaths", path.as_str())?));
    }
    Ok(())
}

/// Hiding a path twice would only put one more mount on it.
fn each_once(paths: &Option<Vec<String>>) -> impl Iterator<Item = &String> {
    let mut seen = HashSet::new();
    paths.iter().flatten().filter(move |path| seen.insert(*path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse("mounts[0].options", &options.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn later_options_win_and_recursive_ones_are_apart() {
        let options = parse(&["nosuid", "ro", "rw", "rro", "noatime", "relatime", "rnoexec", "mode=755", "rslave"]);
        assert_eq!(options.attrs.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.attrs.clear, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME);
        assert_eq!(options.attrs.recursive_set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC);
        assert_eq!((options.attrs.propagation, options.attrs.propagation_recursive), (libc::MS_SLAVE, true));
        assert_eq!(options.parameters.len(), 1);
    }

    #[test]
    fn taking_an_access_time_mode_away_leaves_the_default() {
        for option in ["atime", "nostrictatime", "norelatime"] {
            let attrs = parse(&["strictatime", option, "rstrictatime", &format!("r{option}")]).attrs;
            let (set, clear) = (libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR__ATIME);
            assert_eq!((attrs.set, attrs.clear), (set, clear), "{option}");
            assert_eq!((attrs.recursive_set, attrs.recursive_clear), (set, clear), "r{option}");
        }
    }

    #[test]
    fn words_that_begin_with_r_are_not_taken_apart() {
        let options = parse(&["rbind", "relatime", "remount", "ro"]);
        assert!(options.bind && options.recursive_bind && options.remount);
        assert_eq!(options.attrs.recursive_set | options.attrs.recursive_clear, 0);
        assert_eq!(options.attrs.set, libc::MOUNT_ATTR_RDONLY);
        assert!(options.parameters.is_empty());
    }
    #[test]
    fn a_known_option_is_not_handed_to_the_file_system() {
        for name in known_options() {
            let handed_over = !parse(&[&name]).parameters.is_empty();
            assert_eq!(handed_over, SUPERBLOCK.contains(&name.as_str()), "{name}");
        }
    }
}
