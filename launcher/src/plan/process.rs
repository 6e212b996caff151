//! The process part of a plan: limits, stdio, directory, identity, program.

use std::collections::HashSet;
use std::ffi::CString;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process};
use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use crate::rootless;
use crate::state::{ContainerState, Kept};

use super::build::{Io, PlanError, Stdio, c_string};
use super::mounts::RootFs;
use super::{CapabilitySets, Launch, Rlimit, Step, attributes, seccomp};

/// PATH of a process whose environment has none (the C library's own default, with sbin).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// umask(2) of a process for which config.json gives none, as with runc.
const DEFAULT_UMASK: u32 = 0o022;
/// Most of /etc/passwd that is read to find a home directory.
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// What a process needs beside its own object.
pub(super) struct ProcessOptions<'a> {
    /// Of the container's configuration.
    pub kept: &'a Kept,
    /// The container as the receiver of a seccomp listener gets to see it.
    pub container: &'a ContainerState,
    /// The pid of the container's init process, when that is another one.
    pub init_pid: Option<i32>,
    /// The container's root.
    pub root: &'a RootFs,
    /// Descriptors 0, 1 and 2.
    pub io: Io,
    /// Whether a terminal becomes the container's console.
    pub console: bool,
    /// Whether the process is in a new user namespace and so must have its limits set by the cloning process.
    pub own_users: bool,
    /// A process with the right to setgroups(2) that this one will have: `self` or a pid.
    pub groups_like: &'a str,
    /// Signal for it when the process that launched it dies.
    pub die_with_parent: Option<u32>,
}

/// Adds everything between the pivot and the program, and returns what comes last (parking may come before it): the
/// exec, before it a seccomp filter that needs no privilege, and before that the limit of descriptors, which until then
/// we need ourselves.
pub(super) fn steps(
    process: &Process,
    options: ProcessOptions<'_>,
    launch: &mut Launch,
    steps: &mut Vec<Step>,
) -> Result<Vec<Step>, PlanError> {
    let ProcessOptions { kept, container, init_pid, root, io, console, own_users, groups_like, die_with_parent } =
        options;
    let user = process.user();
    let own = |resource| rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let (own_nofile, own_fsize) = (own(Resource::Nofile), own(Resource::Fsize));
    let mut last = Vec::with_capacity(3);
    for limit in process.rlimits().iter().flatten() {
        let (soft, hard) = (limit.soft(), limit.hard());
        let limit = Rlimit { resource: rlimit_number(limit.typ()), soft, hard };
        // Raising it needs a privilege that is dropped below, or with the user namespace; lowering it can wait.
        if limit.resource == libc::RLIMIT_NOFILE && hard <= own_nofile {
            last.push(Step::Rlimit(limit));
        } else if own_users && !(limit.resource == libc::RLIMIT_FSIZE && hard <= own_fsize) {
            launch.plan.rlimits.push(limit);
        } else {
            steps.push(Step::Rlimit(limit));
        }
    }
    steps.push(standard_descriptors(process, io, console, launch)?);
    attributes::priorities(process, steps)?;
    steps.extend(kept.memory_policy.as_ref().map(attributes::memory_policy).transpose()?);
    steps.extend(kept.personality.as_ref().map(attributes::personality));
    attributes::labels(process, steps)?;
    steps.push(Step::WorkingDirectory(working_directory(process)?));
    let capabilities = process.capabilities().as_ref();
    steps.push(Step::BoundingSet(bits(capabilities.and_then(|caps| caps.bounding().as_ref()))));
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let filter = |profile| seccomp::filter(profile, container, init_pid, launch);
    // As runc: with the privilege while we have it, or as late as can be without. Whoever listens hears of the container
    // when it is created.
    let (mut privileged, mut listened) = (None, None);
    match kept.seccomp.as_ref().map(filter).transpose()? {
        Some(filter) if !no_new_privileges => privileged = Some(filter),
        Some(filter @ Step::Seccomp { listener: Some(_), .. }) => listened = Some(filter),
        filter => last.extend(filter),
    }
    steps.extend(privileged);
    let groups = user.additional_gids().clone().unwrap_or_default();
    let set_groups = !rootless::denies_setgroups(groups_like);
    if !set_groups && !groups.is_empty() {
        let problem = "an ordinary user's user namespace has no setgroups(2), unless newgidmap made its map";
        return Err(PlanError::new("process.user.additionalGids", problem));
    }
    steps.push(Step::Identity { uid: user.uid(), gid: user.gid(), groups, set_groups });
    steps.push(Step::Capabilities(capability_sets(capabilities)));
    if no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    steps.push(Step::Umask(user.umask().unwrap_or(DEFAULT_UMASK)));
    if let Some(signal) = die_with_parent {
        // After the identity changed: setresuid(2) clears it.
        steps.push(Step::DieWithParent(signal));
    }
    let env = environment(process, root)?;
    steps.push(Step::FindExecutable { candidates: candidates(process, &env)? });
    steps.extend(listened);
    let argv = process.args().iter().flatten().enumerate();
    let argv = argv.map(|(index, arg)| c_string(&format!("process.args[{index}]"), arg.as_str()));
    last.push(Step::Exec { argv: argv.collect::<Result<_, _>>()?, env });
    Ok(last)
}

/// Where the program is to begin.
pub(super) fn working_directory(process: &Process) -> Result<CString, PlanError> {
    c_string("process.cwd", process.cwd().to_string_lossy().as_ref())
}

fn standard_descriptors(process: &Process, io: Io, console: bool, launch: &mut Launch) -> Result<Step, PlanError> {
    let uid = process.user().uid();
    match (io, process.terminal().unwrap_or(false)) {
        (Io::Descriptors(Stdio { stdin, stdout, stderr }), false) => {
            let (stdin, stdout, stderr) = (launch.add_fd(stdin), launch.add_fd(stdout), launch.add_fd(stderr));
            Ok(Step::Stdio { stdin, stdout, stderr, uid })
        }
        (Io::Terminal(socket), true) => {
            let size = process.console_size();
            // Validation has bounded them.
            let cells = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
            let (rows, columns) = size.as_ref().map_or((0, 0), |size| (cells(size.height()), cells(size.width())));
            let socket = launch.add_fd(socket);
            Ok(Step::Terminal { socket, rows, columns, uid, console, keep_line_ends: false })
        }
        (Io::Descriptors(_), true) => Err(PlanError::new("process.terminal", "nobody is there to receive a terminal")),
        (Io::Terminal(_), false) => Err(PlanError::new("process.terminal", "is not set, but a terminal was asked for")),
    }
}

/// The environment as runc makes it: of entries with the same name the last one counts, an empty HOME counts as none, and
/// a HOME that is missing comes from the container's passwd file.
fn environment(process: &Process, root: &RootFs) -> Result<Vec<CString>, PlanError> {
    let mut names = HashSet::new();
    let mut environment = Vec::new();
    for (index, entry) in process.env().as_deref().unwrap_or_default().iter().enumerate().rev() {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        let overridden = !names.insert(name);
        let no_home = name == "HOME" && value.is_empty();
        if !overridden && !no_home {
            environment.push(c_string(&format!("process.env[{index}]"), entry.as_str())?);
        }
    }
    environment.reverse();
    if !environment.iter().any(|entry| entry.as_bytes().starts_with(b"HOME=")) {
        let passwd = root.read_file("/etc/passwd", PASSWD_BYTES_MAX).unwrap_or_default();
        environment.push(c_string("HOME", format!("HOME={}", home(&passwd, process.user().uid())))?);
    }
    Ok(environment)
}

/// The home directory of a uid. Only numbers are compared: a line whose NAME is that number means nothing
/// (CVE-2016-3697).
fn home(passwd: &str, uid: u32) -> &str {
    let line = passwd.lines().find(|line| line.split(':').nth(2).is_some_and(|field| field.parse() == Ok(uid)));
    line.and_then(|line| line.split(':').nth(5)).filter(|home| !home.is_empty()).unwrap_or("/")
}

/// Where the program may be, in the order of execvp(3).
fn candidates(process: &Process, environment: &[CString]) -> Result<Vec<CString>, PlanError> {
    let program = process.args().iter().flatten().next();
    let program = program.ok_or_else(|| PlanError::new("process.args", "must not be empty"))?;
    let field = "process.args[0]";
    if program.contains('/') {
        return Ok(vec![c_string(field, program.as_str())?]);
    }
    let path = environment.iter().rev().find_map(|entry| entry.to_str().ok()?.strip_prefix("PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(':');
    let join = |directory: &str| {
        let directory = if directory.is_empty() { "." } else { directory };
        c_string(field, format!("{}/{program}", directory.trim_end_matches('/')))
    };
    directories.map(join).collect()
}

fn capability_sets(capabilities: Option<&LinuxCapabilities>) -> CapabilitySets {
    let permitted = bits(capabilities.and_then(|caps| caps.permitted().as_ref()));
    let inheritable = bits(capabilities.and_then(|caps| caps.inheritable().as_ref()));
    CapabilitySets {
        effective: bits(capabilities.and_then(|caps| caps.effective().as_ref())),
        permitted,
        inheritable,
        // The kernel refuses an ambient capability that is not in both of these. runc's own template asks for such, and
        // runc goes on without them.
        ambient: bits(capabilities.and_then(|caps| caps.ambient().as_ref())) & permitted & inheritable,
    }
}

/// One bit per capability, at its kernel number.
fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter()
        .flatten()
        .filter_map(|capability| CapabilitySet::from_name(&capability.to_string()))
        .fold(0, |all, one| all | one.bits())
}

fn rlimit_number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::*;

    #[test]
    fn home_is_found_by_number_only() {
        let passwd = "1000:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nbroken\n";
        assert_eq!(home(passwd, 1000), "/home/user");
        assert_eq!(home(passwd, 0), "/root");
        assert_eq!(home(passwd, 7), "/");
    }

    #[test]
    fn every_capability_has_a_number() {
        use Capability::{CheckpointRestore, Chown, MacAdmin, NetBindService, SysAdmin};
        for (capability, number) in
            [(Chown, 0), (NetBindService, 10), (SysAdmin, 21), (MacAdmin, 33), (CheckpointRestore, 40)]
        {
            assert_eq!(bits(Some(&Capabilities::from([capability]))), 1 << number, "{capability}");
        }
    }
}
