//! A checkpoint: the images of a running container.

use std::os::fd::AsRawFd;
use std::path::Path;

use oci_spec::runtime::Spec;

use super::criu::{self, Criu};
use super::images::Directories;
use super::rpc::{Features, Kind, Opts, PageServerInfo};
use super::{CheckpointError, CriuVersion, DumpOptions, NetworkLock, Options, Result, cgroups, external, log};
use crate::report::errno_text;
use crate::state::{ContainerDir, ContainerState, INIT};

/// Knows `network_lock`.
const WITH_NETWORK_LOCK: CriuVersion = CriuVersion(3, 16, 0);
/// Finds the rules again that its checkpoint left: until then they are named after a pid, and a restored process has another.
const WITH_SOUND_NFTABLES: CriuVersion = CriuVersion(4, 0, 0);
/// The log's name, as with runc.
const LOG: &str = "dump.log";
/// Configuration of CRIU that is read without an annotation: what is in there has precedence over options.
const CRIU_CONFIG: [&str; 2] = ["/etc/criu/brood.conf", "/etc/criu/runc.conf"];
/// Annotation with the path of another; empty for none.
pub const CRIU_CONFIG_ANNOTATION: &str = "org.criu.config";
/// As runc: devices and addresses of a network are for whoever made them.
pub(super) const EMPTY_NAMESPACES: u32 = libc::CLONE_NEWNET as u32;

/// Checkpoints a container whose init process runs. Unless it is to go on, its processes are gone afterwards. They are there,
/// and stand still, while `written` runs: when all images are (not with `pre_dump`).
///
/// # Errors
/// One line that names the option, or quotes CRIU's log; the container goes on as before.
pub fn dump(
    dir: &ContainerDir,
    state: &ContainerState,
    spec: &Spec,
    mut options: DumpOptions,
    written: impl FnOnce(),
) -> Result<()> {
    external::insist_own_mounts(spec)?;
    let mut status_fd = options.status_fd.take();
    let pid = dir.process(INIT).read_pid()?.pid;
    let mut criu = Criu::start(&[])?;
    let directories = Directories::make(&options.common, options.parent.as_deref())?;
    let mut opts = common_opts(&options.common, &directories, LOG, state, &criu)?;
    if options.pre_dump {
        criu.insist_feature(Features { mem_track: Some(true), ..Features::default() }, "memory tracking (--pre-dump)")?;
    }
    if options.common.lazy_pages {
        let wanted = Features { lazy_pages: Some(true), ..Features::default() };
        criu.insist_feature(wanted, "userfaultfd (--lazy-pages)")?;
    }
    opts.pid = Some(pid);
    opts.root = utf8("root.path", &state.rootfs)?;
    opts.leave_running = Some(options.leave_running);
    opts.tcp_skip_in_flight = Some(options.tcp_skip_in_flight);
    opts.link_remap = Some(options.link_remap);
    opts.external = external::namespaces_of_running(spec, pid)?;
    opts.freeze_cgroup = cgroups::freezer(state).map(|path| path.to_string_lossy().into_owned());
    opts.page_server = options
        .page_server
        .as_ref()
        .map(|(address, port)| PageServerInfo { address: Some(address.clone()), port: Some(i32::from(*port)) });
    if let Some(parent) = &options.parent {
        opts.parent_img = utf8("--parent-path", parent)?;
    }
    opts.track_mem = (options.pre_dump || options.parent.is_some()).then_some(true);
    if !options.pre_dump {
        opts.external_mounts = external::of_running(spec, pid)?;
        let files = external::standard_files(pid)?;
        directories.write_descriptors(pid, &files)?;
        let mut files: Vec<String> = files.into_iter().filter(|name| !name.is_empty()).collect();
        files.dedup();
        opts.external.append(&mut files);
    }
    let (kind, operation) = if options.pre_dump { (Kind::PreDump, "pre-dump") } else { (Kind::Dump, "dump") };
    let mut written = Some(written);
    let answer = criu.run(kind, opts, |notify, _| {
        match notify.script.as_deref() {
            Some("status-ready") => {
                if let Some(fd) = status_fd.take() {
                    // Whoever waits for it, or for the end of file, may have given up; the memory still waits to be fetched.
                    let _ = rustix::io::write(&fd, &[0]);
                }
            }
            Some("post-dump") => {
                if let Some(written) = written.take() {
                    written();
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    if answer.success { Ok(()) } else { Err(failure(operation, &answer, &directories, LOG)) }
}

/// What both directions tell CRIU.
pub(super) fn common_opts(
    options: &Options,
    directories: &Directories,
    log_file: &str,
    state: &ContainerState,
    criu: &Criu,
) -> Result<Opts> {
    if options.network_lock.is_some() {
        criu.insist(WITH_NETWORK_LOCK, "--network-lock")?;
    }
    // What it does by default takes two programs that a host need not have.
    let other_lock = || (criu.is(WITH_SOUND_NFTABLES) && !has_iptables()).then_some(NetworkLock::Nftables);
    Ok(Opts {
        images_dir_fd: directories.images(),
        work_dir_fd: directories.work(),
        log_level: Some(4),
        log_file: Some(log_file.to_owned()),
        notify_scripts: Some(true),
        orphan_pts_master: Some(true),
        tcp_established: Some(options.tcp_established),
        ext_unix_sk: Some(options.ext_unix_sk),
        shell_job: Some(options.shell_job),
        file_locks: Some(options.file_locks),
        lazy_pages: Some(options.lazy_pages),
        auto_dedup: Some(options.auto_dedup),
        manage_cgroups: Some(true),
        manage_cgroups_mode: Some(options.cgroups_mode as i32),
        network_lock: options.network_lock.or_else(other_lock).map(|method| method as i32),
        empty_ns: Some(EMPTY_NAMESPACES),
        config_file: config_file(state)?,
        ..Opts::default()
    })
}

fn has_iptables() -> bool {
    ["iptables-restore", "ip6tables-restore"].into_iter().all(|program| criu::find_program(program).is_some())
}

/// CRIU's configuration may name programs to run, and an annotation may have come from an image: so only what root alone can
/// have written is taken.
fn config_file(state: &ContainerState) -> Result<Option<String>> {
    let Some(named) = state.annotations.get(CRIU_CONFIG_ANNOTATION) else {
        let found = CRIU_CONFIG.into_iter().find(|path| Path::new(path).exists());
        return Ok(found.map(str::to_owned));
    };
    if named.is_empty() {
        return Ok(None);
    }
    let fail = |problem: &str| CheckpointError::config(format!("annotations.{CRIU_CONFIG_ANNOTATION}"), problem);
    match rustix::fs::stat(named.as_str()) {
        // As runc: CRIU ignores one that is missing.
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(fail(&format!("{named}: {}", errno_text(errno)))),
        Ok(stat) if stat.st_uid == 0 && stat.st_mode & 0o022 == 0 => Ok(Some(named.clone())),
        Ok(_) => Err(fail(&format!("{named}: must belong to root and be writable by nobody else"))),
    }
}

/// A path of CRIU's protocol.
pub(super) fn utf8(what: &str, path: &Path) -> Result<Option<String>> {
    let text = path.to_str().ok_or_else(|| CheckpointError::config(what, "CRIU takes no path that is not UTF-8"))?;
    Ok(Some(text.to_owned()))
}

/// An answer without success, in words.
pub(super) fn failure(
    operation: &'static str,
    answer: &super::rpc::Response,
    directories: &Directories,
    log_file: &str,
) -> CheckpointError {
    let log = directories.log(log_file);
    let errno = answer.errno.filter(|errno| *errno != 0).map(rustix::io::Errno::from_raw_os_error);
    let reason = errno.map(|errno| format!(": {}", errno_text(errno))).unwrap_or_default();
    let mut said = log::last_errors_of(&log);
    // Its first complaint, which the end of the log may not show any more.
    let first = answer.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
    if let Some(first) = first.map(crate::config::one_line).filter(|first| !said.contains(&**first)) {
        said.insert_str(0, &format!(": {first}"));
    }
    CheckpointError::Failed { operation, reason, said, log }
}

impl DumpOptions {
    /// Refuses a status descriptor that nobody could write to.
    ///
    /// # Errors
    /// It is not open, or not for writing.
    pub fn check_status_fd(&self) -> Result<()> {
        let Some(fd) = &self.status_fd else { return Ok(()) };
        let flags = rustix::fs::fcntl_getfl(fd).map_err(super::kernel("--status-fd"))?;
        let writable = flags.intersects(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::RDWR);
        let path = std::path::PathBuf::from(fd.as_raw_fd().to_string());
        if writable { Ok(()) } else { Err(CheckpointError::path("--status-fd", &path, "not writable")) }
    }
}
