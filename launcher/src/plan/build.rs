//! From a checked `Spec` to a [`Launch`]: the order of the steps is decided here and nowhere else.
//!
//! | group | steps | why here |
//! | --- | --- | --- |
//! | as the host's root | await parent, join cgroup (v1), oom score, time namespace | their /proc files belong to the host's root; a user namespace would lose them |
//! | user namespace | enter | all that is made later belongs to the container's root |
//! | other namespaces | join, session, keyring, cgroup, loopback, names, sysctls | need no file system |
//! | file system | root, mounts, devices, links, hide, pivot, read-only | config.json's order; devices after /dev is mounted |
//! | hooks | runtime's, createContainer | all mounts are there, the root is still the host's |
//! | limits | processes, if very few | hooks are done, and seccomp filters are not there yet |
//! | process | rlimits, stdio, directory, bounding set, user, capabilities | each step needs a privilege that a later one drops |
//! | program | find, park, startContainer hooks, exec | found as the user who will run it, before anybody hears `ready` |

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxNamespace, LinuxNamespaceType, LinuxNetDevice, Process, Spec};

use super::mounts::RootKind;
use super::process::ProcessOptions;
use super::{HookKind, IdMaps, Launch, Namespace, NamespaceKind, NetDevice, Step};
use super::{attributes, hooks, id_maps, mounts, process};
use crate::cgroup::Entrance;
use crate::config::one_line;
use crate::report::errno_text;
use crate::rootless;
use crate::state::{ContainerState, Kept};

/// The three standard descriptors of a container's process.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// What a process's descriptors 0, 1 and 2 are.
#[derive(Debug)]
pub enum Io {
    /// Given ones.
    Descriptors(Stdio),
    /// A new terminal, whose master goes to this connected unix socket.
    Terminal(OwnedFd),
}

/// What a launch needs beside its config.json.
#[derive(Debug)]
pub struct BuildOptions {
    /// Relative paths of config.json start here.
    pub bundle: PathBuf,
    /// Throw-away root over the host's own instead of `root.path` ([`super::DefaultBundle`]); needs a zygote.
    pub host_overlay: bool,
    /// The container as hooks get to see it.
    pub container: ContainerState,
    /// Descriptors 0, 1 and 2.
    pub io: Io,
    /// Descriptors that the program gets after those.
    pub preserve: Vec<OwnedFd>,
    /// Where the child's reports go: the write end of a pipe, or one end of a stream socket where hooks make it a
    /// conversation ([`needs_answers`]).
    pub status: OwnedFd,
    /// Without pivot_root(2), for hosts whose root is the initramfs.
    pub no_pivot: bool,
    /// Whether the container gets a session keyring of its own.
    pub new_keyring: bool,
    /// The listening socket at which a created container waits; `None` to run at once.
    pub park: Option<OwnedFd>,
    /// The container's cgroups.
    pub cgroups: Entrance,
    /// The open `pids.max` and the limit, where that is written by the child ([`crate::cgroup::Limits::take_few_processes`]).
    pub few_processes: Option<(OwnedFd, String)>,
    /// Whether the cloning process is a zygote, with a mount namespace of its own.
    pub from_zygote: bool,
    /// Signal for the container when the process that launched it dies.
    pub die_with_parent: Option<u32>,
}

/// Something that config.json names could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {field}: {problem}")]
pub struct PlanError {
    /// The field, e.g. `mounts[3].source`.
    pub field: String,
    /// What is wrong with it, with the path.
    pub problem: String,
}

impl PlanError {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> PlanError {
        let [field, problem] = [field.into(), problem.into()].map(|text| one_line(&text).into_owned());
        PlanError { field, problem }
    }

    /// A host path that a field names and that could not be opened.
    pub(crate) fn path(field: impl Into<String>, path: &Path, errno: rustix::io::Errno) -> PlanError {
        PlanError::new(field, format!("{}: {}", path.display(), errno_text(errno)))
    }
}

/// A C string; config validation has refused NUL bytes, so this names the field only for callers that skipped it.
pub(super) fn c_string(field: &str, text: impl Into<Vec<u8>>) -> Result<CString, PlanError> {
    CString::new(text).map_err(|_| PlanError::new(field, "must not contain a NUL byte"))
}

/// Builds the launch, opening every host object that the configuration names.
///
/// # Errors
/// A path of the configuration is missing or of the wrong kind; the message names the field.
pub fn build(spec: &Spec, options: BuildOptions) -> Result<Launch, PlanError> {
    let mut launch = Launch::default();
    launch.plan.status = Some(launch.add_fd(options.status));
    let namespaces = Namespaces::of(spec);

    let mut steps = Vec::with_capacity(64);
    launch.enter_cgroups(options.cgroups, &mut steps);
    steps.extend(options.die_with_parent.map(Step::DieWithParent));
    steps.extend(attributes::every_cpu());
    let process = spec.process().as_ref().ok_or_else(|| PlanError::new("process", "is missing"))?;
    let own_users = namespaces.has(LinuxNamespaceType::User);
    if rootless::needed() && !own_users {
        return Err(PlanError::new(
            "linux.namespaces",
            "an ordinary user needs a user namespace: {\"type\": \"user\"}",
        ));
    }
    let oom_score_adj = process.oom_score_adj().filter(|value| {
        let refused = rootless::needed() && *value < own_oom_score_adj();
        if refused {
            launch.details.push("process.oomScoreAdj: below our own, which takes root; left as it is".to_owned());
        }
        !refused
    });
    match oom_score_adj {
        Some(value) if own_users => launch.plan.oom_score_adj = Some(value),
        value => steps.extend(value.map(Step::OomScoreAdj)),
    }
    launch.plan.net_devices = net_devices(spec)?;
    enter_namespaces(spec, &namespaces, &mut launch, &mut steps)?;
    if options.new_keyring {
        steps.push(attributes::session_keyring(&options.container.id, options.from_zygote)?);
    }
    attributes::sysctls(spec, &mut steps)?;

    let create_hooks = hooks::child_hooks(spec, HookKind::CreateContainer, &options.container, &[])?;
    // Programs of the host's run in the container's mount namespace, or enter it, and expect the host's files there; a
    // zygote's own holds none.
    let host_files = hooks::runtime_hooks(spec) || !create_hooks.is_empty();
    let own_mounts = namespaces.has(LinuxNamespaceType::Mount);
    if rootless::needed() && !own_mounts {
        let problem = "an ordinary user needs a mount namespace: {\"type\": \"mount\"}";
        return Err(PlanError::new("linux.namespaces", problem));
    }
    if options.from_zygote && (host_files || !own_mounts) {
        let path = Path::new("/proc/self/ns/mnt");
        let own =
            open_namespace(LinuxNamespaceType::Mount, path).map_err(|problem| PlanError::new("hooks", problem))?;
        let fd = launch.add_fd(own);
        launch.plan.born.push(Namespace { kind: NamespaceKind::Mount, fd });
    }
    if own_mounts && (!options.from_zygote || host_files) {
        steps.push(Step::PrivateMounts);
    }
    let root = match (options.host_overlay, own_mounts) {
        (true, _) => RootKind::HostOverlay,
        (false, false) => RootKind::OfTheHost,
        (false, true) if host_files && !options.no_pivot => RootKind::InItsPlace,
        (false, true) => RootKind::Covering,
    };
    let root = mounts::root(spec, &options.bundle, root, &mut launch, &mut steps)?;
    let own_cgroups = namespaces.is_new(LinuxNamespaceType::Cgroup);
    mounts::list(spec, &options.bundle, own_cgroups, &options.container.cgroups, own_users, &mut launch, &mut steps)?;
    mounts::devices(spec, own_users, &mut launch, &mut steps)?;
    mounts::hide(spec, &mut steps)?;
    if hooks::runtime_hooks(spec) {
        steps.push(Step::RuntimeHooks);
    }
    steps.extend(create_hooks);
    // With a user namespace of its own a container must not take apart what it was born with: mount_namespaces(7).
    // Whoever may mount could come to what is below, which is the zygote's and that of all its containers.
    let zygote_below = options.from_zygote
        && !host_files
        && !own_users
        && !may_mount(process)
        && namespaces.is_new(LinuxNamespaceType::Mount);
    // One file system less for each container; nobody who could write to it gets it.
    launch.plan.zygotes_empty = zygote_below;
    steps.push(match (options.no_pivot, zygote_below) {
        _ if !own_mounts => Step::ChangeRoot,
        (_, true) => Step::CoverRoot,
        (true, false) => Step::MoveRoot,
        (false, false) => Step::PivotRoot,
    });
    steps.extend(mounts::root_propagation(spec));
    // As runc: by root, before the root is read-only. An exec's has to be there.
    if process.cwd() != Path::new("/") {
        steps.push(Step::MakeWorkingDirectory(process::working_directory(process)?));
    }
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        steps.push(Step::ReadonlyRoot);
    }

    if let Some((file, limit)) = options.few_processes {
        let limit = c_string("linux.resources.pids.limit", limit)?;
        steps.push(Step::LimitProcesses { file: launch.add_fd(file), limit });
    }
    launch.plan.preserve = options.preserve.into_iter().map(|fd| launch.add_fd(fd)).collect();
    let kept = Kept::of(spec);
    let own = ProcessOptions {
        kept: &kept,
        container: &options.container,
        init_pid: None,
        root: &root,
        io: options.io,
        console: true,
        own_users,
        groups_like: "self",
        die_with_parent: options.die_with_parent,
    };
    let last = process::steps(process, own, &mut launch, &mut steps)?;
    if let Some(socket) = options.park {
        steps.push(Step::Park { socket: launch.add_fd(socket) });
    }
    let mut last = last;
    let program = last.pop();
    steps.extend(last);
    // As runc: with the limits, the filter and, unless they have their own, the environment of the program.
    let env = if let Some(Step::Exec { env, .. }) = &program { env.as_slice() } else { &[] };
    let start_hooks = hooks::child_hooks(spec, HookKind::StartContainer, &options.container, env)?;
    // Not with a limit on the size of files, though: what they read and say is one, in memory.
    let files = |step: &Step| matches!(step, Step::Rlimit(limit) if limit.resource == libc::RLIMIT_FSIZE);
    let later = if start_hooks.is_empty() { None } else { steps.iter().position(files) };
    let later = later.map(|at| steps.remove(at));
    steps.extend(start_hooks);
    steps.extend(later);
    steps.extend(program);
    if own_users || !launch.plan.net_devices.is_empty() {
        steps.insert(0, Step::AwaitParent);
    }
    launch.plan.steps = steps;
    Ok(launch)
}

/// Whether the program may ever have the capability for mounts, over the host's user namespace where it has none of its own.
fn may_mount(process: &Process) -> bool {
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    bounding.is_some_and(|set| set.contains(&Capability::SysAdmin))
}

/// Whether the child may have questions ([`crate::report::Question`]), and the status descriptor must go both ways.
#[must_use]
pub fn needs_answers(spec: &Spec) -> bool {
    hooks::runtime_hooks(spec) || id_maps::may_be_asked(spec)
}

/// In the order of their names, since config.json gives them none.
fn net_devices(spec: &Spec) -> Result<Vec<NetDevice>, PlanError> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref()).into_iter().flatten();
    let devices: std::collections::BTreeMap<_, _> = devices.collect();
    if rootless::needed() && !devices.is_empty() {
        return Err(PlanError::new("linux.netDevices", "moving a network device takes root"));
    }
    let device = |(name, device): (&String, &LinuxNetDevice)| {
        let field = format!("linux.netDevices.{name}");
        let new_name = device.name().as_ref().filter(|new| !new.is_empty()).unwrap_or(name);
        Ok(NetDevice { name: c_string(&field, name.as_str())?, new_name: c_string(&field, new_name.as_str())? })
    };
    devices.into_iter().map(device).collect()
}

/// 0 when /proc is of no help.
fn own_oom_score_adj() -> i32 {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The namespaces of a configuration.
struct Namespaces<'a>(Vec<(usize, LinuxNamespaceType, Option<&'a PathBuf>)>);

impl<'a> Namespaces<'a> {
    fn of(spec: &'a Spec) -> Namespaces<'a> {
        let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let list = list.into_iter().flatten().enumerate();
        // An empty path means none, as with runc.
        let path =
            |namespace: &'a LinuxNamespace| namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
        Namespaces(list.map(|(index, namespace)| (index, namespace.typ(), path(namespace))).collect())
    }

    /// Whether the container gets one other than ours, new or joined.
    fn has(&self, wanted: LinuxNamespaceType) -> bool {
        self.0.iter().any(|(_, kind, _)| *kind == wanted)
    }

    /// Whether the container gets its own, new one.
    fn is_new(&self, wanted: LinuxNamespaceType) -> bool {
        self.0.iter().any(|(_, kind, path)| *kind == wanted && path.is_none())
    }
}

fn enter_namespaces(
    spec: &Spec,
    namespaces: &Namespaces<'_>,
    launch: &mut Launch,
    steps: &mut Vec<Step>,
) -> Result<(), PlanError> {
    for (index, kind, path) in &namespaces.0 {
        match (kind, path) {
            // Made by steps, not by the clone: see `Step::NewCgroupNamespace` and `Step::NewTimeNamespace`.
            (LinuxNamespaceType::Cgroup, None) => {}
            (LinuxNamespaceType::Time, None) => steps.push(Step::NewTimeNamespace { offsets: time_offsets(spec) }),
            (kind, None) => launch.plan.clone_flags |= *kind as u64,
            (kind, Some(path)) => {
                let field = || format!("linux.namespaces[{index}].path");
                let fd =
                    launch.add_fd(open_namespace(*kind, path).map_err(|problem| PlanError::new(field(), problem))?);
                let kind = match kind {
                    LinuxNamespaceType::User => {
                        launch.plan.user_namespace = Some(fd);
                        continue;
                    }
                    LinuxNamespaceType::Pid => NamespaceKind::Pid,
                    LinuxNamespaceType::Network => NamespaceKind::Network,
                    LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
                    LinuxNamespaceType::Uts => NamespaceKind::Uts,
                    LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
                    LinuxNamespaceType::Mount => NamespaceKind::Mount,
                    LinuxNamespaceType::Time => NamespaceKind::Time,
                };
                let namespace = Namespace { kind, fd };
                // From a user namespace of its own the child could not join one of the host's; a pid namespace is joined
                // in no other way; and devices are moved before the child's first step.
                let early = kind == NamespaceKind::Network && !launch.plan.net_devices.is_empty();
                if early || kind == NamespaceKind::Pid || namespaces.has(LinuxNamespaceType::User) {
                    launch.plan.born.push(namespace);
                } else {
                    steps.push(Step::JoinNamespace(namespace));
                }
            }
        }
    }
    if namespaces.has(LinuxNamespaceType::User) {
        // Those of a namespace that is joined are only compared.
        launch.plan.id_maps = Some(id_maps::of_container(spec)).filter(|maps| *maps != IdMaps::default());
        // After the clocks, before everything that the container's root is to own.
        steps.push(Step::EnterUserNamespace);
    }
    steps.push(Step::NewSession);
    if namespaces.is_new(LinuxNamespaceType::Cgroup) {
        steps.push(Step::NewCgroupNamespace);
    }
    if namespaces.is_new(LinuxNamespaceType::Network) {
        steps.push(Step::LoopbackUp);
    }
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        steps.push(Step::Hostname(c_string("hostname", name.as_str())?));
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        steps.push(Step::Domainname(c_string("domainname", name.as_str())?));
    }
    Ok(())
}

/// Opens a namespace file and makes sure that it is one, of this kind. A FIFO in its place must not block us.
fn open_namespace(kind: LinuxNamespaceType, path: &Path) -> Result<OwnedFd, String> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty());
    let fd = fd.map_err(|errno| format!("{}: {}", path.display(), errno_text(errno)))?;
    match crate::sys::namespace_type(fd.as_fd()) {
        Ok(found) if found == kind as i32 => Ok(fd),
        _ => Err(format!("{}: not a {kind} namespace", path.display())),
    }
}

fn time_offsets(spec: &Spec) -> Vec<u8> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let line = |(clock, offset): (&String, &oci_spec::runtime::LinuxTimeOffset)| {
        format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
    };
    offsets.into_iter().flatten().map(line).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_whatever_the_path_holds() {
        let error = PlanError::path("root.path", Path::new("/a\nb\u{1b}[2J"), rustix::io::Errno::NOENT);
        let text = error.to_string();
        assert_eq!(text, "config.json: root.path: /a\\nb\\u{1b}[2J: no such file or directory");
    }
}
