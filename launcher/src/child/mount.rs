//! Mounts: the root, the list of config.json, and the pivot. All of it by descriptor, through the mount API of
//! Linux 5.2 (fsopen, fsmount, open_tree, move_mount) and mount_setattr of 5.12.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::copy_up;
use super::target::{open_inside, open_or_make, open_or_make_path};
use super::{Child, Done, During, FIRST_OTHER_FD, Failure};
use crate::plan::{FdIndex, FsParameter, IdMap, MountAttrs, Slot, Target, TargetKind, TreeSource};
use crate::report::{Op, Question};
use crate::sys;

/// Cuts the namespace off from the mounts it was copied from: what is mounted here must not appear on the host.
pub(super) fn make_private() -> Done {
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(Op::Resolve)?;
    sys::mount_setattr(root.as_fd(), true, 0, 0, libc::MS_PRIVATE).during(Op::Call)
}

/// Puts a mount on top of the namespace's root, where the pivot finds it.
fn attach_on_root(mount: BorrowedFd<'_>) -> Done {
    rustix::mount::move_mount(mount, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during(Op::Attach)
}

/// Puts a mount on the object that a descriptor refers to: no path, so nothing to swap.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Done {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags).during(Op::Attach)
}

/// A copy of the mount (from this object downwards) that can be attached elsewhere.
pub(super) fn clone_mount(object: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Failure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(object, c"", flags).during(Op::CloneMount)
}

/// chroot(2) into a directory.
fn enter_root(root: BorrowedFd<'_>) -> Done {
    rustix::process::fchdir(root).during(Op::ChangeDirectory)?;
    rustix::process::chroot(c".").during(Op::ChangeDirectory)?;
    rustix::process::chdir(c"/").during(Op::ChangeDirectory)
}

fn let_go(place: &CStr) -> Done {
    rustix::mount::unmount(place, UnmountFlags::DETACH).during(Op::Unmount)
}

fn kind_of(object: BorrowedFd<'_>) -> Result<TargetKind, Failure> {
    let stat = rustix::fs::fstat(object).during(Op::Source)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(if is_directory { TargetKind::Directory } else { TargetKind::File })
}

/// Whether both are one object as seen through one mount. Before Linux 5.8 there are no mount ids: there it is one object.
fn same_mounted_object(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Failure> {
    let look = |fd| {
        let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID);
        found.map(|it| (it.stx_ino, it.stx_dev_major, it.stx_dev_minor, it.stx_mnt_id)).during(Op::Resolve)
    };
    Ok(look(one)? == look(other)?)
}

/// A new superblock as a detached mount.
pub(crate) fn new_filesystem(
    fstype: &CStr,
    source: &CStr,
    parameters: &[FsParameter],
    root_mode: Option<u32>,
    attributes: u64,
) -> Result<OwnedFd, Failure> {
    let fs = open_filesystem(fstype)?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(&fs, c"source", source).during(Op::FsConfig)?;
    }
    for FsParameter { key, value } in parameters {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&fs, key.as_c_str(), value.as_c_str()),
            None => rustix::mount::fsconfig_set_flag(&fs, key.as_c_str()),
        }
        .during(Op::FsConfig)?;
    }
    if let Some(mode) = root_mode {
        let text = octal(mode);
        let text = CStr::from_bytes_with_nul(&text).map_err(|_| Failure { op: Op::FsConfig, errno: Errno::INVAL })?;
        rustix::mount::fsconfig_set_string(&fs, c"mode", text).during(Op::FsConfig)?;
    }
    create_mount(&fs, attributes)
}

/// The permission bits as a C string of four digits.
fn octal(mode: u32) -> [u8; 5] {
    let digit = |place: u32| b'0' + (mode >> (3 * place) & 7) as u8;
    [digit(3), digit(2), digit(1), digit(0), 0]
}

fn open_filesystem(fstype: &CStr) -> Result<OwnedFd, Failure> {
    rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).during(Op::FsOpen)
}

fn create_mount(fs: &OwnedFd, attributes: u64) -> Result<OwnedFd, Failure> {
    rustix::mount::fsconfig_create(fs).during(Op::FsCreate)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during(Op::FsMount)
}

/// Propagation is set where the mount stands, at the end: a mount must be private while it is being attached.
fn set_propagation(mount: BorrowedFd<'_>, attrs: &MountAttrs) -> Done {
    match attrs.propagation {
        0 => Ok(()),
        kind => sys::mount_setattr(mount, attrs.propagation_recursive, 0, 0, kind).during(Op::MountAttributes),
    }
}

impl Child<'_> {
    /// Whoever has a place for it could not be led anywhere by a changed name: what is the root is the tree. So where its
    /// place is out of reach (for a user namespace's root, for one), any will do.
    pub(super) fn attach_root(&mut self, tree: FdIndex, place: &CStr) -> Done {
        let tree = self.fd(tree)?;
        let in_place = rustix::mount::move_mount(tree, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        in_place.during(Op::Attach).or_else(|_| attach_on_root(tree))?;
        self.root = Some(tree);
        Ok(())
    }

    /// In the host's mount namespace, or in that of a container that has the host's: nothing is mounted here.
    pub(super) fn adopt_root(&mut self, root: FdIndex) -> Done {
        (self.root, self.made_root) = (Some(self.fd(root)?), None);
        Ok(())
    }

    /// The default bundle's root: the host's root below, a tmpfs above. Both are mounted in this namespace only, so
    /// they are gone with the container, whatever becomes of us. `/lower` and `/scratch` exist in the zygote's root.
    pub(super) fn overlay_root(&mut self, lower: FdIndex, upper_size: &CStr) -> Done {
        let lower = self.fd(lower)?;
        rustix::mount::move_mount(lower, c"", CWD, c"/lower", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .during(Op::Attach)?;
        let tmpfs = open_filesystem(c"tmpfs")?;
        rustix::mount::fsconfig_set_string(&tmpfs, c"mode", c"0755").during(Op::FsConfig)?;
        if !upper_size.is_empty() {
            rustix::mount::fsconfig_set_string(&tmpfs, c"size", upper_size).during(Op::FsConfig)?;
        }
        let scratch = create_mount(&tmpfs, 0)?;
        rustix::mount::move_mount(&scratch, c"", CWD, c"/scratch", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .during(Op::Attach)?;
        for name in [c"upper", c"work"] {
            rustix::fs::mkdirat(&scratch, name, Mode::from_raw_mode(0o755)).during(Op::MakeTarget)?;
        }
        let overlay = open_filesystem(c"overlay")?;
        rustix::mount::fsconfig_set_string(&overlay, c"source", c"brood").during(Op::FsConfig)?;
        rustix::mount::fsconfig_set_string(&overlay, c"lowerdir", c"/lower").during(Op::FsConfig)?;
        rustix::mount::fsconfig_set_string(&overlay, c"upperdir", c"/scratch/upper").during(Op::FsConfig)?;
        rustix::mount::fsconfig_set_string(&overlay, c"workdir", c"/scratch/work").during(Op::FsConfig)?;
        if self.birth.plan.id_maps.is_some() || self.birth.plan.user_namespace.is_some() {
            // In a user namespace the `trusted.` attributes are out of reach.
            rustix::mount::fsconfig_set_flag(&overlay, c"userxattr").during(Op::FsConfig)?;
        }
        let root = create_mount(&overlay, 0)?;
        // It has its layers by now.
        for path in [c"/lower", c"/scratch"] {
            let_go(path)?;
        }
        attach_on_root(root.as_fd())?;
        self.made_root = Some(root);
        Ok(())
    }

    pub(super) fn mount_filesystem(
        &self,
        target: &Target,
        fstype: &CStr,
        source: &CStr,
        parameters: &[FsParameter],
        attrs: &MountAttrs,
        copy_up: bool,
    ) -> Result<OwnedFd, Failure> {
        let own_mode = fstype != c"tmpfs" || parameters.iter().any(|parameter| parameter.key.as_c_str() == c"mode");
        let root_mode = if own_mode { None } else { self.mode_below(target)? };
        // What is read-only could not be filled any more.
        let later = if copy_up { attrs.set & libc::MOUNT_ATTR_RDONLY } else { 0 };
        let mount = new_filesystem(fstype, source, parameters, root_mode, attrs.set & !later)?;
        let place = self.place(target, target.kind)?;
        if copy_up {
            copy_up::copy(place.as_fd(), mount.as_fd())?;
        }
        self.set_attributes(mount.as_fd(), &MountAttrs { set: later, clear: 0, ..*attrs })?;
        attach(mount.as_fd(), place.as_fd())?;
        set_propagation(mount.as_fd(), attrs)?;
        Ok(mount)
    }

    /// The mode of the directory that a tmpfs is to cover: it is the tmpfs's too unless config.json gives one, as with
    /// runc. An image's /tmp keeps its sticky bit, and its /run is not writable for everybody.
    fn mode_below(&self, target: &Target) -> Result<Option<u32>, Failure> {
        match open_inside(self.root()?, &target.path, OFlags::DIRECTORY, target.no_symlinks) {
            Ok(directory) => Ok(Some(rustix::fs::fstat(directory).during(Op::Resolve)?.st_mode & 0o7777)),
            // Made in a moment; what is wrong with it is found then.
            Err(_) => Ok(None),
        }
    }

    pub(super) fn mount_tree(&mut self, target: &Target, source: &TreeSource, attrs: &MountAttrs, slot: Slot) -> Done {
        let (made, kind);
        let tree = match source {
            TreeSource::Opened(tree) => {
                kind = target.kind;
                self.fd(*tree)?
            }
            TreeSource::Container { path, recursive, no_follow } => {
                let flags = if *no_follow { OFlags::NOFOLLOW } else { OFlags::empty() };
                let object = open_inside(self.root()?, path, flags, false).during(Op::Source)?;
                made = clone_mount(object.as_fd(), *recursive)?;
                kind = kind_of(made.as_fd())?;
                made.as_fd()
            }
        };
        self.set_attributes(tree, attrs)?;
        let place = self.place(target, kind)?;
        attach(tree, place.as_fd())?;
        set_propagation(tree, attrs)?;
        self.remember(slot, tree)
    }

    /// Where a mount goes. Not the root itself: what is there already would be covered for whoever comes in later, and the
    /// container's processes would stay below (runc refuses it as well).
    fn place(&self, target: &Target, kind: TargetKind) -> Result<OwnedFd, Failure> {
        let root = self.root()?;
        let place = open_or_make(root, target, kind)?;
        match same_mounted_object(root, place.as_fd())? {
            true => Err(Failure { op: Op::OnRoot, errno: Errno::BUSY }),
            false => Ok(place),
        }
    }

    /// Keeps a mount for what is resolved below it later, whatever its name is then.
    pub(super) fn remember(&mut self, slot: Slot, mount: BorrowedFd<'_>) -> Done {
        let Some(slot) = slot else { return Ok(()) };
        let room = self.birth.remembered.get_mut(usize::from(slot.get()) - 1);
        let room = room.ok_or(Failure { op: Op::MissingFd, errno: Errno::BADF })?;
        *room = Some(rustix::io::fcntl_dupfd_cloexec(mount, FIRST_OTHER_FD).during(Op::Duplicate)?);
        Ok(())
    }

    pub(super) fn remount(&self, target: &Target, attrs: &MountAttrs) -> Done {
        let mount = open_inside(self.root()?, &target.path, OFlags::empty(), target.no_symlinks).during(Op::Resolve)?;
        self.set_attributes(mount.as_fd(), attrs)?;
        set_propagation(mount.as_fd(), attrs)
    }

    /// Attributes and identity maps; the latter only while the mount is attached nowhere.
    fn set_attributes(&self, mount: BorrowedFd<'_>, attrs: &MountAttrs) -> Done {
        if attrs.recursive_set | attrs.recursive_clear != 0 {
            sys::mount_setattr(mount, true, attrs.recursive_set, attrs.recursive_clear, 0)
                .during(Op::MountAttributes)?;
        }
        if attrs.set | attrs.clear != 0 {
            sys::mount_setattr(mount, false, attrs.set, attrs.clear, 0).during(Op::MountAttributes)?;
        }
        match attrs.id_map {
            IdMap::None => Ok(()),
            IdMap::Own { namespace, recursive } => {
                sys::mount_set_id_map(mount, recursive, self.fd(namespace)?).during(Op::IdMap)
            }
            IdMap::Asked(number) => self.ask(Question::MapIds { number, tree: mount.as_raw_fd() }, Op::IdMap),
        }
    }

    /// pivot_root(".", "."): the old root lands on top of the new one and is let go in the next call, so no directory
    /// for it is needed (pivot_root(2), NOTES).
    pub(super) fn pivot_root(&self) -> Done {
        rustix::process::fchdir(self.root()?).during(Op::ChangeDirectory)?;
        rustix::process::pivot_root(c".", c".").during(Op::Pivot)?;
        let_go(c".")?;
        rustix::process::chdir(c"/").during(Op::ChangeDirectory)
    }

    /// For a root on the initramfs, which cannot be pivoted away: the container's root covers it already. The host's
    /// /proc and /sys must not stay below it: while there is one without masks in the namespace, the kernel lets whoever
    /// makes a user namespace in the container mount another such.
    pub(super) fn move_root(&self) -> Done {
        let root = self.root()?;
        for path in [c"/proc", c"/sys"] {
            match let_go(path) {
                // None is there.
                Err(Failure { errno: Errno::INVAL | Errno::NOENT, .. }) => {}
                done => done?,
            }
        }
        enter_root(root)
    }

    /// As runc: nothing else is between such a container and the host's files.
    pub(super) fn change_root(&self) -> Done {
        enter_root(self.root()?)
    }

    /// After pivot_root(2), too, a root covers another: the namespace's first, which nobody can move. Here it covers the
    /// zygote's, too, of which nothing is left but a read-only tmpfs with empty directories. The kernel does not take the
    /// container's processes for confined ones, whom it would deny user namespaces (`current_chrooted` in fs/namespace.c).
    pub(super) fn cover_root(&self) -> Done {
        let root = self.root()?;
        for path in [c"/proc", c"/sys"] {
            let_go(path)?;
        }
        enter_root(root)
    }

    pub(super) fn root_propagation(&self, flags: u64) -> Done {
        let (recursive, kind) = (flags & libc::MS_REC != 0, flags & !libc::MS_REC);
        sys::mount_setattr(self.root()?, recursive, 0, 0, kind).during(Op::MountAttributes)
    }

    pub(super) fn make_working_directory(&self, path: &CStr) -> Done {
        open_or_make_path(self.root()?, path, TargetKind::Directory, OFlags::empty(), false).map(drop)
    }

    pub(super) fn readonly_root(&self) -> Done {
        sys::mount_setattr(self.root()?, false, libc::MOUNT_ATTR_RDONLY, 0, 0).during(Op::MountAttributes)
    }
}
