//! Bind mounts: where their tree comes from, and what its mount flags become.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::build::{PlanError, c_string};
use super::mount_options::{Flags, Options};
use super::mounts::{Entry, target, wanted_propagation};
use super::{Launch, MountAttrs, Step, TargetKind, TreeSource, id_maps};
use crate::report::errno_text;
use crate::sys;

/// Opens a part of the host's file system as a detached tree. Unless the container asked to share propagation, the
/// tree leaves its peer group here: what is later mounted on it inside must not appear on the host.
pub(super) fn open_tree(path: &Path, recursive: bool, propagation: u64) -> Result<OwnedFd, Errno> {
    open_tree_as(path, recursive, true, propagation)
}

fn open_tree_as(path: &Path, recursive: bool, follow: bool, propagation: u64) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if !follow {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
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

/// The root directory's names on the host. Some configurations use them in `mounts`, as runc lets them.
pub(super) struct RootNames(Vec<PathBuf>);

impl RootNames {
    pub(super) fn of(spec: &Spec, bundle: &Path) -> RootNames {
        let given = spec.root().as_ref().map(|root| bundle.join(root.path()));
        let real = given.as_ref().and_then(|given| std::fs::canonicalize(given).ok());
        let names = given.into_iter().chain(real);
        // Below the host's own root is every path.
        RootNames(names.filter(|name| name.is_absolute() && name.parent().is_some()).collect())
    }

    /// The path inside the container of a path of the host's that lies below the root directory.
    pub(super) fn inside(&self, path: &Path) -> Option<PathBuf> {
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        self.0.iter().find_map(|name| path.strip_prefix(name).ok()).map(|rest| Path::new("/").join(rest))
    }
}

/// What the bind mounts of a configuration have in common.
pub(super) struct Binds<'a> {
    pub spec: &'a Spec,
    pub bundle: &'a Path,
    pub root: &'a RootNames,
    /// Whether the container has a user namespace, of its own or joined.
    pub own_users: bool,
    pub mapped: id_maps::Namespaces<'a>,
}

impl Binds<'_> {
    /// The step of one bind mount; `earlier` are those before it.
    pub(super) fn step(
        &mut self,
        entry: &Entry<'_>,
        options: &Options,
        launch: &mut Launch,
        earlier: &[Step],
    ) -> Result<Step, PlanError> {
        let Entry { field, mount, index, .. } = *entry;
        let wrong_option = |problem: String| Err(PlanError::new(format!("{field}.options"), problem));
        if let Some(parameter) = options.for_new_superblock() {
            let key = parameter.key.to_string_lossy();
            return wrong_option(format!("{key}: bind mounts cannot have any filesystem-specific options applied"));
        }
        if options.copy_up {
            return wrong_option("tmpcopyup is for a tmpfs".to_owned());
        }
        let source = mount.source().as_ref();
        let source = source.ok_or_else(|| PlanError::new(format!("{field}.source"), "a bind mount needs a source"))?;
        let source = self.bundle.join(source);
        if let Some(path) = self.root.inside(&source).filter(|path| earlier.iter().any(|step| covers(step, path))) {
            return self.of_container(entry, options, &path, launch);
        }
        if options.copy_symlink
            && let Ok(link) = std::fs::read_link(&source)
        {
            let path = target(entry, TargetKind::File, false)?.path;
            let link = link.into_os_string().into_vec();
            return Ok(Step::Symlink { path, to: c_string(field, link)? });
        }
        let fail = |errno| PlanError::path(format!("{field}.source"), &source, errno);
        let kept = match options.attrs.propagation {
            0 => wanted_propagation(self.spec),
            kind => kind,
        };
        let tree = open_tree_as(&source, options.recursive_bind, !options.source_no_follow, kept).map_err(fail)?;
        if let Some((namespace, recursive)) = self.mapped.of_mount(field, mount, options.id_map.as_ref())? {
            id_maps::apply(field, &tree, namespace, recursive)?;
        }
        set_flags(field, &tree, &options.flags, self.own_users)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&tree).map_err(fail)?.st_mode);
        let kind = if kind == FileType::Directory { TargetKind::Directory } else { TargetKind::File };
        let mut target = target(entry, kind, false)?;
        target.no_follow = options.destination_no_follow;
        let source = TreeSource::Opened(launch.add_fd(tree));
        let attrs = MountAttrs { set: 0, clear: 0, ..options.attrs };
        Ok(Step::MountTree { index, target, source, attrs, slot: None })
    }

    /// From what the container's own mounts will have put there by then.
    fn of_container(
        &mut self,
        entry: &Entry<'_>,
        options: &Options,
        path: &Path,
        launch: &mut Launch,
    ) -> Result<Step, PlanError> {
        let Entry { field, mount, index, .. } = *entry;
        let (set, clear) = options.flags.of_bind(0);
        let mut attrs = MountAttrs { set, clear, ..options.attrs };
        attrs.id_map = self.mapped.for_child(field, mount, options.id_map.as_ref(), self.own_users, launch)?;
        let source = TreeSource::Container {
            path: path_text(&format!("{field}.source"), path)?,
            recursive: options.recursive_bind,
            no_follow: options.source_no_follow,
        };
        let mut target = target(entry, TargetKind::Directory, false)?;
        target.no_follow = options.destination_no_follow;
        Ok(Step::MountTree { index, target, source, attrs, slot: None })
    }
}

pub(super) fn path_text(field: &str, path: &Path) -> Result<CString, PlanError> {
    c_string(field, path.as_os_str().as_bytes())
}

/// Whether the step mounts something on the path, or on a directory that leads to it.
fn covers(step: &Step, path: &Path) -> bool {
    match step {
        Step::MountFilesystem { target, .. } | Step::MountTree { target, .. } => {
            below(target.path.as_bytes(), path).is_some()
        }
        _ => false,
    }
}

/// The rest of a path of the container's below a mount point; both as they are written, so without `..`.
pub(super) fn below(mount_point: &[u8], path: &Path) -> Option<PathBuf> {
    let mount_point = Path::new(OsStr::from_bytes(mount_point));
    let climbs = |path: &Path| path.components().any(|part| part == Component::ParentDir);
    path.strip_prefix(mount_point).ok().filter(|_| !climbs(mount_point) && !climbs(path)).map(Path::to_owned)
}

/// Gives a tree its mount flags. Those that the kernel locks when a mount comes into a user namespace from outside stay, as
/// if the child had bound it there itself: what the host forbids on a mount is forbidden in the container as well.
fn set_flags(field: &str, tree: &OwnedFd, flags: &Flags, own_users: bool) -> Result<(), PlanError> {
    let field = format!("{field}.options");
    let fail = |errno| PlanError::new(field.as_str(), format!("set mount attributes: {}", errno_text(errno)));
    let set =
        |(set, clear)| if set | clear == 0 { Ok(()) } else { sys::mount_setattr(tree.as_fd(), false, set, clear, 0) };
    if !own_users {
        match set(flags.of_bind(0)) {
            // We are in a user namespace ourselves, and they are locked for us.
            Err(Errno::PERM) => {}
            done => return done.map_err(fail),
        }
    }
    let source = source_flags(tree).map_err(fail)?;
    if let Some(what) = flags.refused(source) {
        // A file system that is itself read-only has nothing to do with the mount's flags.
        let of_superblock = what == "ro" && set((0, libc::MOUNT_ATTR_RDONLY)).is_ok() && {
            source_flags(tree).map_err(fail)? & libc::MOUNT_ATTR_RDONLY != 0
        };
        if !of_superblock {
            let problem = format!("{what} of the source is locked in a user namespace: operation not permitted");
            return Err(PlanError::new(field, problem));
        }
    }
    set(flags.of_bind(source)).map_err(fail)
}

/// The flags of a mount, with those of its superblock, as `MOUNT_ATTR_*`.
fn source_flags(tree: &OwnedFd) -> Result<u64, Errno> {
    let found = rustix::fs::fstatvfs(tree)?.f_flag;
    let attributes = [
        (StatVfsMountFlags::RDONLY, libc::MOUNT_ATTR_RDONLY),
        (StatVfsMountFlags::NOSUID, libc::MOUNT_ATTR_NOSUID),
        (StatVfsMountFlags::NODEV, libc::MOUNT_ATTR_NODEV),
        (StatVfsMountFlags::NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (StatVfsMountFlags::NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        (StatVfsMountFlags::NOATIME, libc::MOUNT_ATTR_NOATIME),
    ];
    let strict = !found.intersects(StatVfsMountFlags::NOATIME | StatVfsMountFlags::RELATIME);
    let flags =
        attributes.iter().filter(|(flag, _)| found.contains(*flag)).fold(0, |all, (_, attribute)| all | attribute);
    Ok(flags | if strict { libc::MOUNT_ATTR_STRICTATIME } else { 0 })
}
