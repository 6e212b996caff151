//! A restore: a container that goes on where its checkpoint was made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::criu::Criu;
use super::dump::{common_opts, failure, utf8};
use super::external::{self, EXTERNAL_NAMESPACES};
use super::images::Directories;
use super::mount_table::MountTable;
use super::rpc::{InheritFd, JoinNamespace, Kind, Notify, Opts};
use super::{CheckpointError, CriuVersion, RestoreOptions, Result, cgroups, kernel, mount_points};
use crate::hooks::{self, Point};
use crate::plan::{BindTree, Io};
use crate::prepare::Reservation;
use crate::report::errno_text;
use crate::{plan, sys, zygote};

/// The log's name, as with runc.
const LOG: &str = "restore.log";
/// Where the parts of the container's file system are put together, in its folder and CRIU's mount namespace.
const STAGE: &str = ".criu";

/// The init process of a restored container, a child of ours.
#[derive(Debug)]
pub struct Restored {
    /// In our pid namespace.
    pub pid: i32,
    /// The handle by which it is watched, signalled and reaped.
    pub pidfd: OwnedFd,
}

/// Restores a container into a reservation. Its terminal's master goes to the socket of [`Io::Terminal`]; pipes that its
/// standard descriptors were become those of [`Io::Descriptors`].
///
/// # Errors
/// One line that names the option or field, or quotes CRIU's log; no process is left.
pub fn restore(reservation: &Reservation, io: &Io, options: &RestoreOptions) -> Result<Restored> {
    let Reservation { spec, state, .. } = reservation;
    external::insist_own_mounts(spec)?;
    let stage = Stage::make(reservation.reserved.dir().path())?;
    let start = || start(reservation, io, options, &stage);
    // A thread can have mounts of its own, and takes them along.
    let started = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, start);
        let thread = thread
            .map_err(|error| CheckpointError::Protocol(format!("start a thread: {}", crate::state::io_text(&error))))?;
        thread.join().map_err(|_| CheckpointError::Protocol("panic".to_owned()))?
    });
    let Started { criu, directories, names, trees } = started?;
    let mut opts = common_opts(&options.common, &directories, LOG, state, &criu)?;
    if options.lsm_profile.is_some() || options.lsm_mount_context.is_some() {
        criu.insist(CriuVersion(3, 16, 0), "--lsm-profile and --lsm-mount-context")?;
    }
    cgroups::enter(state, criu.pid())?;
    if let Some(group) = &state.resctrl {
        group.enter(criu.pid())?;
    }
    opts.root = utf8("--root", &stage.root())?;
    opts.evasive_devices = Some(true);
    opts.rst_sibling = Some(true);
    opts.tcp_close = Some(options.tcp_close);
    opts.lsm_profile.clone_from(&options.lsm_profile);
    opts.lsm_mount_context.clone_from(&options.lsm_mount_context);
    opts.cgroup_roots = cgroups::roots(criu.pid());
    opts.external_mounts = external::to_restore(spec, &trees)?;
    opts.join_ns = joined_namespaces(reservation)?;
    opts.inherit_fd = names;
    run(criu, opts, reservation, io, &directories)
}

/// What a restore goes on with.
struct Started {
    criu: Criu,
    directories: Directories,
    names: Vec<InheritFd>,
    /// Bind mounts by position in config.json, and where they are for CRIU.
    trees: Vec<(usize, String)>,
}

/// CRIU wants a mount point for a root, whose parent nothing is mounted on. It gets one in a mount namespace of its own, of
/// which the host sees nothing; the directories are opened in there, since it mounts things in its working directory.
fn start(reservation: &Reservation, io: &Io, options: &RestoreOptions, stage: &Stage) -> Result<Started> {
    let Reservation { spec, bundle, state, .. } = reservation;
    let failed = kernel("mount the root for criu");
    sys::unshare(libc::CLONE_NEWNS).map_err(&failed)?;
    // What the host unmounts later goes here as well, and in bind mounts of the container that want it so.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", slave).map_err(&failed)?;
    let directories = Directories::open(&options.common)?;
    mount_points::check_images(directories.images_fd(), &options.common.images, &state.rootfs)?;
    mount_points::make(spec, bundle, &state.rootfs)?;
    stage.mount_root(&state.rootfs).map_err(&failed)?;
    let trees = stage.mount_binds(reservation)?;
    let inherited = Inherited::collect(reservation, io, &directories)?;
    let criu = Criu::start(&inherited.fds())?;
    Ok(Started { criu, directories, names: inherited.names, trees })
}

fn run(criu: Criu, opts: Opts, reservation: &Reservation, io: &Io, directories: &Directories) -> Result<Restored> {
    let mut restored = None;
    let answer = criu.run(Kind::Restore, opts, |notify, fds| notified(notify, fds, reservation, io, &mut restored));
    let failed = match answer {
        Ok(answer) if answer.success => None,
        Ok(answer) => Some(failure("restore", &answer, directories, LOG)),
        Err(error) => Some(error),
    };
    let limited = || match &reservation.few_processes {
        // With it CRIU could not have done its work.
        Some((file, limit)) => rustix::io::write(file, limit.as_bytes()).map(drop).map_err(kernel("limit processes")),
        None => Ok(()),
    };
    match (restored, failed.or_else(|| limited().err())) {
        (Some(restored), None) => Ok(restored),
        (None, None) => Err(CheckpointError::Protocol("restored, without a process".to_owned())),
        (restored, Some(error)) => {
            if let Some(Restored { pidfd, .. }) = restored {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            }
            Err(error)
        }
    }
}

fn notified(
    notify: &Notify,
    fds: Vec<OwnedFd>,
    reservation: &Reservation,
    io: &Io,
    restored: &mut Option<Restored>,
) -> Result<()> {
    let pid = notify.pid.unwrap_or_default();
    match notify.script.as_deref() {
        // As at creation: the namespaces are there, nothing runs yet.
        Some("setup-namespaces") => {
            if external::is_new(&reservation.spec, LinuxNamespaceType::Network) {
                loopback_up(pid).map_err(kernel("bring the container's loopback interface up"))?;
            }
            Ok(hooks::run(&reservation.kept, Point::CreateRuntime, &reservation.state, pid)?)
        }
        // Before it runs: whoever finds it running finds its record.
        Some("post-restore") => {
            let process = Pid::from_raw(pid).ok_or_else(|| CheckpointError::Protocol("no pid".to_owned()))?;
            let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty()).map_err(kernel("pidfd_open"))?;
            *restored = Some(Restored { pid, pidfd });
            reservation.reserved.record_pid(pid)?;
            Ok(())
        }
        Some("orphan-pts-master") => match (io, fds.first()) {
            (Io::Terminal(socket), Some(master)) => {
                zygote::frame::send(socket.as_fd(), b"/dev/ptmx", &[master.as_fd()])
                    .map_err(kernel("send the terminal"))
            }
            // It has a terminal, and config.json says nothing of one: it hangs up.
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// In the network namespace of a process.
fn loopback_up(pid: i32) -> std::result::Result<(), Errno> {
    let open = |path: String| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let (theirs, ours) = (open(format!("/proc/{pid}/ns/net"))?, open("/proc/thread-self/ns/net".to_owned())?);
    sys::setns(theirs.as_fd(), libc::CLONE_NEWNET)?;
    let up = sys::loopback_up();
    sys::setns(ours.as_fd(), libc::CLONE_NEWNET)?;
    up
}

/// Descriptors that CRIU gets, and what the images call them.
struct Inherited {
    standard: Vec<OwnedFd>,
    namespaces: Vec<OwnedFd>,
    names: Vec<InheritFd>,
}

impl Inherited {
    fn collect(reservation: &Reservation, io: &Io, directories: &Directories) -> Result<Inherited> {
        let mut all = Inherited { standard: Vec::new(), namespaces: Vec::new(), names: Vec::new() };
        let names = directories.read_descriptors()?;
        if let Io::Descriptors(stdio) = io {
            let own = [&stdio.stdin, &stdio.stdout, &stdio.stderr];
            for (number, key) in names {
                // The same may be two of the three: CRIU takes the first of a name.
                if let Some(fd) = own.get(number).filter(|_| all.names.iter().all(|name| name.key != key)) {
                    let copy = fd.try_clone().map_err(CheckpointError::Start)?;
                    all.name(key);
                    all.standard.push(copy);
                }
            }
        }
        for (index, kind, path) in external::joined(&reservation.spec) {
            if let Some((_, _, name)) = EXTERNAL_NAMESPACES.iter().find(|(external, ..)| *external == kind) {
                let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
                let fd = fd.map_err(|errno| {
                    let problem = format!("{}: {}", path.display(), errno_text(errno));
                    CheckpointError::config(format!("linux.namespaces[{index}].path"), problem)
                })?;
                all.name((*name).to_owned());
                all.namespaces.push(fd);
            }
        }
        Ok(all)
    }

    /// The next descriptor has this name.
    fn name(&mut self, key: String) {
        let fd = Criu::FIRST_FD + self.names.len() as i32;
        self.names.push(InheritFd { key, fd });
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.standard.iter().chain(&self.namespaces).map(AsFd::as_fd).collect()
    }
}

/// Those of others that are no external ones of the images': CRIU joins them.
fn joined_namespaces(reservation: &Reservation) -> Result<Vec<JoinNamespace>> {
    let mut all = Vec::new();
    for (index, kind, path) in external::joined(&reservation.spec) {
        let name = match kind {
            LinuxNamespaceType::Network | LinuxNamespaceType::Pid => continue,
            LinuxNamespaceType::Mount => "mnt",
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::User => "user",
            LinuxNamespaceType::Time => "time",
            LinuxNamespaceType::Cgroup => {
                let field = format!("linux.namespaces[{index}].path");
                return Err(CheckpointError::config(field, "CRIU cannot join a cgroup namespace"));
            }
        };
        let file = utf8("linux.namespaces", path)?.unwrap_or_default();
        all.push(JoinNamespace { kind: name.to_owned(), file });
    }
    Ok(all)
}

/// A directory that CRIU alone sees filled, as long as it restores: the root file system, and the bind mounts with the flags
/// that config.json gives them. CRIU would take them from the host by path, and where a directory is mounted twice it
/// forgets about `ro` (seen with 3.17).
struct Stage(PathBuf);

impl Stage {
    fn make(container: &Path) -> Result<Stage> {
        let path = container.join(STAGE);
        let made = std::fs::create_dir(&path);
        made.map_err(|error| CheckpointError::path("state", &path, crate::state::io_text(&error)))?;
        Ok(Stage(path))
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn mount_root(&self, rootfs: &Path) -> std::result::Result<(), Errno> {
        rustix::mount::mount("tmpfs", &self.0, "tmpfs", MountFlags::empty(), c"mode=0700")?;
        rustix::fs::mkdir(self.root(), Mode::RWXU)?;
        rustix::mount::mount_bind_recursive(rootfs, self.root())
    }

    fn mount_binds(&self, reservation: &Reservation) -> Result<Vec<(usize, String)>> {
        let mut places = Vec::new();
        let mounts = MountTable::of("thread-self").map_err(CheckpointError::Start)?;
        let wider = |source: &Path, recursive| mounts.slave_below(source, recursive);
        for BindTree { position, tree, inside } in plan::bind_trees(&reservation.spec, &reservation.bundle, wider)? {
            let place = self.0.join(position.to_string());
            let mounted = mount_tree(&tree, &place).map_err(|errno| {
                CheckpointError::config(format!("mounts[{position}]"), format!("mount for criu: {}", errno_text(errno)))
            });
            mounted?;
            // A path that ends with a slash would be a directory's.
            let source = if inside.as_os_str().is_empty() { place } else { place.join(inside) };
            places.extend(utf8("state", &source)?.map(|source| (position, source)));
        }
        Ok(places)
    }
}

fn mount_tree(tree: &OwnedFd, place: &Path) -> std::result::Result<(), Errno> {
    let stat = rustix::fs::fstat(tree)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        rustix::fs::mkdir(place, Mode::RWXU)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(place, flags, Mode::RUSR)?;
    }
    rustix::mount::move_mount(tree, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
