//! The file system part of a plan: root, mounts, devices, links, hidden paths.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, Mount, Process, Spec};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::bind::{Binds, RootNames, below, open_tree, path_text};
use super::build::{PlanError, c_string};
use super::mount_options::{Options, propagation};
use super::{
    FsParameter, HiddenPath, Launch, MountAttrs, SecurityModule, Step, Target, TargetKind, TreeSource, cgroup_mounts,
    enabled, id_maps,
};
use crate::cgroup::Cgroups;
use crate::config::has_namespace;
use crate::sys;

/// The coming root, for look-ups that happen before the clone (passwd).
#[derive(Debug)]
pub(super) struct RootFs(OwnedFd);

impl RootFs {
    /// The root of a running container.
    pub(super) fn of_process(pid: i32) -> Result<RootFs, Errno> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).map(RootFs)
    }

    /// For a process that is to have the same.
    pub(super) fn directory(&self) -> std::io::Result<OwnedFd> {
        self.0.try_clone()
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

/// How the root comes to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RootKind {
    /// An overlay on the host's.
    HostOverlay,
    /// A tree on `/`.
    Covering,
    /// A tree at its path, in a copy of the host's mount namespace, for hooks that look for it there.
    InItsPlace,
    /// The same in the host's mount namespace.
    OfTheHost,
}

/// The step that makes the root.
pub(super) fn root(
    spec: &Spec,
    bundle: &Path,
    root: RootKind,
    launch: &mut Launch,
    steps: &mut Vec<Step>,
) -> Result<RootFs, PlanError> {
    let configured = spec.root().as_ref().ok_or_else(|| PlanError::new("root", "is missing"))?;
    let path = bundle.join(configured.path());
    let fail = |errno| PlanError::path("root.path", &path, errno);
    // What an overlay is made of receives nothing any more.
    let host_overlay = root == RootKind::HostOverlay;
    let kept = if host_overlay { libc::MS_PRIVATE } else { wanted_propagation(spec) };
    let tree = open_tree(&path, !host_overlay, kept).map_err(fail)?;
    if kept == libc::MS_SHARED {
        // pivot_root(2) takes no shared root, so this one mount leaves its peers, and is shared anew after the pivot (as
        // with runc); what is mounted below it stays among them.
        sys::mount_setattr(tree.as_fd(), false, 0, 0, libc::MS_PRIVATE).map_err(fail)?;
    }
    let stat = rustix::fs::fstat(&tree).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(fail(Errno::NOTDIR));
    }
    let look = RootFs(tree.try_clone().map_err(|error| fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?);
    let tree = launch.add_fd(tree);
    let place = |path: &Path| path_text("root.path", path);
    let in_its_place =
        || std::fs::canonicalize(&path).map_err(|error| fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)));
    steps.push(match root {
        RootKind::HostOverlay => Step::OverlayRoot { lower: tree, upper_size: CString::default() },
        RootKind::Covering => Step::AttachRoot { tree, place: place(Path::new("/"))? },
        RootKind::InItsPlace => Step::AttachRoot { tree, place: place(&in_its_place()?)? },
        RootKind::OfTheHost => {
            launch.host_root = Some((tree, in_its_place()?));
            Step::AdoptRoot { root: tree }
        }
    });
    Ok(look)
}

/// The propagation of the root mount, once it is the root.
pub(super) fn root_propagation(spec: &Spec) -> Option<Step> {
    let wanted = spec.linux().as_ref()?.rootfs_propagation().as_deref()?;
    let (kind, recursive) = propagation(wanted)?;
    Some(Step::RootPropagation(if recursive { kind | libc::MS_REC } else { kind }))
}

/// The kind in `linux.rootfsPropagation`: it is also what bind mounts get that name none. Without it they are slaves, as
/// with runc: a volume that the host unmounts, or mounts something on, does so in the container as well.
pub(super) fn wanted_propagation(spec: &Spec) -> u64 {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    wanted.and_then(propagation).map_or(libc::MS_SLAVE, |(kind, _)| kind)
}

/// One entry of `mounts`.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// Its name in messages.
    pub field: &'a str,
    /// Its position.
    pub index: u16,
    /// Where it goes, as the container sees it.
    pub destination: &'a Path,
    /// What config.json says.
    pub mount: &'a Mount,
}

/// The mounts of config.json, in its order.
pub(super) fn list(
    spec: &Spec,
    bundle: &Path,
    own_cgroup_namespace: bool,
    cgroups: &Cgroups,
    own_users: bool,
    launch: &mut Launch,
    steps: &mut Vec<Step>,
) -> Result<(), PlanError> {
    let mut last = Vec::new();
    let names = RootNames::of(spec, bundle);
    let joined = launch.plan.user_namespace.and_then(|fd| launch.fds.get(usize::from(fd.0)));
    let joined = joined.map(OwnedFd::try_clone).transpose();
    let joined = joined.map_err(|error| PlanError::new("linux.namespaces", error.to_string()))?;
    let mut binds = Binds { spec, bundle, root: &names, own_users, mapped: id_maps::Namespaces::new(spec, joined) };
    let label = mount_label(spec)?;
    for (position, mount) in spec.mounts().iter().flatten().enumerate() {
        let index = u16::try_from(position).ok().filter(|index| *index != u16::MAX);
        let index = index.ok_or_else(|| PlanError::new("mounts", "has more than 65,534 entries"))?;
        let field = format!("mounts[{position}]");
        let no_options = Vec::new();
        let mut options = Options::parse(&format!("{field}.options"), mount.options().as_ref().unwrap_or(&no_options))?;
        let renamed = names.inside(mount.destination());
        let destination = renamed.as_deref().unwrap_or(mount.destination());
        let entry = Entry { field: &field, index, destination, mount };
        let fstype = mount.typ().as_deref().unwrap_or("none");
        if options.remount {
            let target = target(&entry, TargetKind::Directory, false)?;
            steps.push(Step::Remount { index, target, attrs: options.attrs });
        } else if options.bind || fstype == "bind" {
            let step = binds.step(&entry, &options, launch, steps)?;
            steps.push(step);
        } else if fstype == "cgroup" || fstype == "cgroup2" {
            let cgroups = cgroup_mounts::Layout::of(own_cgroup_namespace, cgroups);
            cgroups.mount(&entry, &options, launch, steps)?;
        } else {
            options.parameters.extend(label.clone().filter(|_| takes_label(fstype)));
            options.attrs.id_map = binds.mapped.for_child(&field, mount, options.id_map.as_ref(), own_users, launch)?;
            steps.push(filesystem(&entry, fstype, options, &mut last)?);
        }
    }
    steps.append(&mut last);
    Ok(())
}

/// A bind mount of a configuration alone, for a restore.
pub(crate) struct BindTree {
    /// In `mounts`.
    pub position: usize,
    /// With all that is asked of it.
    pub tree: OwnedFd,
    /// What is to be mounted, below the tree's root.
    pub inside: PathBuf,
}

/// The bind mounts of a configuration; those of what the container itself mounts are none. `wider` may give a tree that holds a
/// source, alone or with all that is mounted below it, and where it is in there.
///
/// # Errors
/// As [`super::build`]'s.
pub(crate) fn bind_trees(
    spec: &Spec,
    bundle: &Path,
    wider: impl Fn(&Path, bool) -> Option<(PathBuf, PathBuf)>,
) -> Result<Vec<BindTree>, PlanError> {
    let own_users = has_namespace(spec, LinuxNamespaceType::User);
    let names = RootNames::of(spec, bundle);
    let mut binds = Binds { spec, bundle, root: &names, own_users, mapped: id_maps::Namespaces::new(spec, None) };
    let mut trees = Vec::new();
    for (position, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = format!("mounts[{position}]");
        let no_options = Vec::new();
        let mut options = Options::parse(&format!("{field}.options"), mount.options().as_ref().unwrap_or(&no_options))?;
        if options.remount || !(options.bind || mount.typ().as_deref() == Some("bind")) {
            continue;
        }
        let (mut launch, mut mount, mut inside) = (Launch::default(), mount.clone(), PathBuf::new());
        // What is to stay a link is not looked for where it leads.
        let follows = !options.source_no_follow && !options.copy_symlink;
        let source = mount.source().as_ref().filter(|_| follows).map(|source| bundle.join(source));
        if let Some((whole, rest)) = source.and_then(|source| wider(&source, options.recursive_bind)) {
            mount.set_source(Some(whole));
            (options.recursive_bind, inside) = (false, rest);
        }
        let entry = Entry { field: &field, index: 0, destination: mount.destination(), mount: &mount };
        let step = binds.step(&entry, &options, &mut launch, &[])?;
        if matches!(step, Step::MountTree { source: TreeSource::Opened(_), .. }) {
            trees.extend(launch.fds.pop().map(|tree| BindTree { position, tree, inside }));
        }
    }
    Ok(trees)
}

fn filesystem(entry: &Entry<'_>, fstype: &str, options: Options, last: &mut Vec<Step>) -> Result<Step, PlanError> {
    let Entry { field, index, mount, .. } = *entry;
    if options.copy_up && fstype != "tmpfs" {
        return Err(PlanError::new(format!("{field}.options"), "tmpcopyup is for a tmpfs"));
    }
    // /proc and /sys reached through a link of the image would be somewhere else than everybody thinks.
    let no_symlinks = fstype == "proc" || fstype == "sysfs";
    let mut target = target(entry, TargetKind::Directory, no_symlinks)?;
    target.no_follow = options.destination_no_follow;
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
        copy_up: options.copy_up,
        slot: None,
    })
}

/// `linux.mountLabel` as a parameter of new file systems.
fn mount_label(spec: &Spec) -> Result<Option<FsParameter>, PlanError> {
    let field = "linux.mountLabel";
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(None) };
    if !enabled(SecurityModule::Selinux) {
        return Err(PlanError::new(field, format!("{label:?}: SELinux is not enabled on this machine")));
    }
    Ok(Some(FsParameter { key: c_string(field, "context")?, value: Some(c_string(field, label)?) }))
}

/// The kernel labels these itself, object by object, and refuses a context for them all.
fn takes_label(fstype: &str) -> bool {
    !matches!(fstype, "proc" | "sysfs" | "mqueue")
}

pub(super) fn target(entry: &Entry<'_>, kind: TargetKind, no_symlinks: bool) -> Result<Target, PlanError> {
    target_at(entry.field, entry.destination, kind, no_symlinks)
}

pub(super) fn target_at(field: &str, path: &Path, kind: TargetKind, no_symlinks: bool) -> Result<Target, PlanError> {
    let absolute = Path::new("/").join(path);
    // Trailing slashes say nothing, and `/dev/` must be recognised as `/dev`.
    let text = absolute.to_string_lossy();
    let trimmed = text.trim_end_matches('/');
    let path = c_string(&format!("{field}.destination"), if trimmed.is_empty() { "/" } else { trimmed })?;
    Ok(Target { path, kind, no_symlinks, no_follow: false })
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
            let tree = open_tree(Path::new(&path), false, libc::MS_PRIVATE)
                .map_err(|errno| PlanError::path("linux.devices", Path::new(&path), errno))?;
            let target = target_at("linux.devices", Path::new(&path), TargetKind::File, false)?;
            let source = TreeSource::Opened(launch.add_fd(tree));
            steps.push(Step::MountTree { index: u16::MAX, target, source, attrs: MountAttrs::default(), slot: None });
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
    let mut slots = 0;
    for path in each_once(linux.readonly_paths()) {
        let hidden = hidden_path("linux.readonlyPaths", path, steps, &mut slots)?;
        steps.push(Step::ReadonlyPath(hidden));
    }
    for path in each_once(linux.masked_paths()) {
        let hidden = hidden_path("linux.maskedPaths", path, steps, &mut slots)?;
        steps.push(Step::MaskPath(hidden));
    }
    Ok(())
}

/// Finds the mount below which the path lies, and has the child remember it: the last one whose destination leads to it.
fn hidden_path(field: &str, path: &str, steps: &mut [Step], slots: &mut u16) -> Result<HiddenPath, PlanError> {
    let path = Path::new("/").join(path);
    let text = path_text(field, &path)?;
    let covering = steps.iter_mut().rev().find_map(|step| match step {
        Step::MountFilesystem { target, slot, .. } | Step::MountTree { target, slot, .. } => {
            below(target.path.as_bytes(), &path).map(|rest| (slot, rest))
        }
        _ => None,
    });
    let Some((slot, rest)) = covering else {
        return Ok(HiddenPath { path: text, slot: None, below: CString::default() });
    };
    if slot.is_none() {
        *slots += 1;
        *slot = NonZero::new(*slots);
    }
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { &rest };
    Ok(HiddenPath { path: text, slot: *slot, below: path_text(field, rest)? })
}

/// Hiding a path twice would only put one more mount on it.
fn each_once(paths: &Option<Vec<String>>) -> impl Iterator<Item = &String> {
    let mut seen = HashSet::new();
    paths.iter().flatten().filter(move |path| seen.insert(*path))
}
