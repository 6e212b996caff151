//! From bytes to a plan, believing nothing.

use std::ffi::CString;
use std::num::NonZero;

use brood_schema::plan_capnp::{self as wire, PLAN_VERSION};
use capnp::message::ReaderOptions;
use capnp::serialize::read_message_from_flat_slice;
use capnp::{NotInSchema, Word, data, data_list};

use super::{MAX_PLAN_BYTES, MAX_STEPS, WireError};
use crate::plan::{
    CapabilitySets, FdIndex, FsParameter, HiddenPath, Hook, HookKind, IdMap, IdMaps, MountAttrs, Namespace,
    NamespaceKind, NetDevice, Plan, Rlimit, Scheduler, SeccompListener, SecurityModule, StateText, Step, Target,
    TargetKind, TreeSource,
};
use crate::seccomp::Instruction;

/// Every word may be read once: two pointers to one place, or a long list of elements without any content, could blow a
/// small message up.
fn reader_options(bytes: &[u8]) -> ReaderOptions {
    ReaderOptions { traversal_limit_in_words: Some(bytes.len() / size_of::<Word>()), nesting_limit: 8 }
}

/// Reads a message of [`encode`](super::encode()) that came with `fd_count` descriptors.
///
/// The bytes may be anything: all that is wrong with them is an error, nothing panics.
///
/// # Errors
/// When the bytes are not one whole message of this version, or the plan breaks a promise of [`super`].
pub fn decode(bytes: &[u8], fd_count: usize) -> Result<Plan, WireError> {
    if bytes.len() > MAX_PLAN_BYTES {
        return Err(WireError::TooLarge(bytes.len()));
    }
    let mut words = Vec::new();
    let mut rest = aligned(bytes, &mut words);
    let message = read_message_from_flat_slice(&mut rest, reader_options(bytes))?;
    if !rest.is_empty() {
        return Err(WireError::TrailingBytes(rest.len()));
    }
    let plan = Decoder { fd_count }.plan(message.get_root()?)?;
    check_order(&plan.steps)?;
    Ok(plan)
}

/// The bytes where Cap'n Proto can read them. Buffers from the allocator are aligned already and not copied.
fn aligned<'a>(bytes: &'a [u8], words: &'a mut Vec<Word>) -> &'a [u8] {
    if bytes.as_ptr().cast::<Word>().is_aligned() {
        return bytes;
    }
    *words = Word::allocate_zeroed_vec(bytes.len().div_ceil(size_of::<Word>()));
    let copy = &mut Word::words_to_bytes_mut(words)[..bytes.len()];
    copy.copy_from_slice(bytes);
    copy
}

fn check_order(steps: &[Step]) -> Result<(), WireError> {
    match steps.iter().position(|step| matches!(step, Step::Exec { .. })) {
        None => Err(WireError::NoExec),
        Some(position) if position + 1 == steps.len() => Ok(()),
        Some(position) => Err(WireError::Step { position, source: Box::new(WireError::EarlyExec) }),
    }
}

/// What the fields are checked against.
#[derive(Clone, Copy)]
struct Decoder {
    fd_count: usize,
}

impl Decoder {
    fn plan(self, from: wire::plan::Reader<'_>) -> Result<Plan, WireError> {
        // Before anything else: all other fields of another version may mean something else.
        if from.get_version() != PLAN_VERSION {
            return Err(WireError::Version(from.get_version()));
        }
        let steps = from.get_steps()?;
        if steps.len() > MAX_STEPS {
            return Err(WireError::TooManySteps(steps.len()));
        }
        let step =
            |(position, step)| self.step(step).map_err(|error| WireError::Step { position, source: Box::new(error) });
        Ok(Plan {
            clone_flags: from.get_clone_flags(),
            zygotes_empty: from.get_zygotes_empty(),
            id_maps: id_maps(from.get_id_maps())?,
            user_namespace: self.optional_fd("userNamespace", from.get_user_namespace()?)?,
            born: from.get_born()?.iter().map(|from| self.namespace(from)).collect::<Result<_, _>>()?,
            oom_score_adj: oom_score_adj(from.get_oom_score_adj())?,
            rlimits: from.get_rlimits()?.iter().map(rlimit).collect(),
            net_devices: from.get_net_devices()?.iter().map(net_device).collect::<Result<_, _>>()?,
            preserve: from.get_preserve()?.iter().map(|fd| self.fd("preserve", fd)).collect::<Result<_, _>>()?,
            cgroup: self.optional_fd("cgroup", from.get_cgroup()?)?,
            status: self.optional_fd("status", from.get_status()?)?,
            steps: steps.iter().enumerate().map(step).collect::<Result<_, _>>()?,
        })
    }

    fn step(self, from: wire::step::Reader<'_>) -> Result<Step, WireError> {
        use wire::step::Which;
        Ok(match from.which().map_err(unknown("step"))? {
            Which::AwaitParent(()) => Step::AwaitParent,
            Which::JoinCgroup(tasks) => Step::JoinCgroup { tasks: self.fd("joinCgroup", tasks)? },
            Which::EnterUserNamespace(()) => Step::EnterUserNamespace,
            Which::JoinNamespace(from) => Step::JoinNamespace(Namespace {
                kind: namespace_kind(from.get_kind().map_err(unknown("namespace kind"))?),
                fd: self.fd("joinNamespace.fd", from.get_fd())?,
            }),
            Which::JoinContainer(from) => Step::JoinContainer {
                pidfd: self.fd("joinContainer.pidfd", from.get_pidfd())?,
                namespaces: from.get_namespaces(),
            },
            Which::NewSession(()) => Step::NewSession,
            Which::NewCgroupNamespace(()) => Step::NewCgroupNamespace,
            Which::NewTimeNamespace(offsets) => Step::NewTimeNamespace { offsets: offsets?.to_vec() },
            Which::LoopbackUp(()) => Step::LoopbackUp,
            Which::Hostname(name) => Step::Hostname(string("hostname", name?)?),
            Which::Domainname(name) => Step::Domainname(string("domainname", name?)?),
            Which::PrivateMounts(()) => Step::PrivateMounts,
            Which::RuntimeHooks(()) => Step::RuntimeHooks,
            Which::Hook(from) => Step::Hook(hook(from)?),
            Which::SessionKeyring(name) => Step::SessionKeyring(string("sessionKeyring", name?)?),
            Which::Sysctl(from) => {
                Step::Sysctl { path: string("sysctl.path", from.get_path()?)?, value: from.get_value()?.to_vec() }
            }
            Which::LimitProcesses(from) => Step::LimitProcesses {
                file: self.fd("limitProcesses.file", from.get_file())?,
                limit: string("limitProcesses.limit", from.get_limit()?)?,
            },
            Which::Scheduler(from) => Step::Scheduler(Scheduler {
                policy: from.get_policy(),
                flags: from.get_flags(),
                nice: from.get_nice(),
                priority: from.get_priority(),
                runtime: from.get_runtime(),
                deadline: from.get_deadline(),
                period: from.get_period(),
            }),
            Which::IoPriority(value) => Step::IoPriority(value),
            Which::CpuAffinity(mask) => Step::CpuAffinity(mask?.iter().collect()),
            Which::Personality(value) => Step::Personality(value),
            Which::MemoryPolicy(from) => {
                Step::MemoryPolicy { mode: from.get_mode(), nodes: from.get_nodes()?.iter().collect() }
            }
            Which::Label(from) => Step::Label {
                module: match from.get_module().map_err(unknown("security module"))? {
                    wire::SecurityModule::AppArmor => SecurityModule::AppArmor,
                    wire::SecurityModule::Selinux => SecurityModule::Selinux,
                },
                text: string("label.text", from.get_text()?)?,
            },
            Which::AttachRoot(from) => Step::AttachRoot {
                tree: self.fd("attachRoot.tree", from.get_tree())?,
                place: string("attachRoot.place", from.get_place()?)?,
            },
            Which::AdoptRoot(root) => Step::AdoptRoot { root: self.fd("adoptRoot", root)? },
            Which::OverlayRoot(from) => Step::OverlayRoot {
                lower: self.fd("overlayRoot.lower", from.get_lower())?,
                upper_size: string("overlayRoot.upperSize", from.get_upper_size()?)?,
            },
            Which::MountFilesystem(from) => Step::MountFilesystem {
                index: from.get_index(),
                target: target(from.get_target()?)?,
                fstype: string("mountFilesystem.fstype", from.get_fstype()?)?,
                source: string("mountFilesystem.source", from.get_source()?)?,
                parameters: from.get_parameters()?.iter().map(fs_parameter).collect::<Result<_, _>>()?,
                attrs: self.mount_attrs(from.get_attrs()?)?,
                copy_up: from.get_copy_up(),
                slot: NonZero::new(from.get_slot()),
            },
            Which::MountTree(from) => Step::MountTree {
                index: from.get_index(),
                target: target(from.get_target()?)?,
                source: self.tree_source(from.get_source())?,
                attrs: self.mount_attrs(from.get_attrs()?)?,
                slot: NonZero::new(from.get_slot()),
            },
            Which::Remount(from) => Step::Remount {
                index: from.get_index(),
                target: target(from.get_target()?)?,
                attrs: self.mount_attrs(from.get_attrs()?)?,
            },
            Which::Device(from) => Step::Device {
                path: string("device.path", from.get_path()?)?,
                mode: from.get_mode(),
                major: from.get_major(),
                minor: from.get_minor(),
                uid: from.get_uid(),
                gid: from.get_gid(),
            },
            Which::Symlink(from) => Step::Symlink {
                path: string("symlink.path", from.get_path()?)?,
                to: string("symlink.to", from.get_to()?)?,
            },
            Which::PivotRoot(()) => Step::PivotRoot,
            Which::MoveRoot(()) => Step::MoveRoot,
            Which::CoverRoot(()) => Step::CoverRoot,
            Which::ChangeRoot(()) => Step::ChangeRoot,
            Which::RootPropagation(flags) => Step::RootPropagation(flags),
            Which::MakeWorkingDirectory(path) => Step::MakeWorkingDirectory(string("makeWorkingDirectory", path?)?),
            Which::ReadonlyRoot(()) => Step::ReadonlyRoot,
            Which::ReadonlyPath(from) => Step::ReadonlyPath(hidden_path(from?)?),
            Which::MaskPath(from) => Step::MaskPath(hidden_path(from?)?),
            Which::Umask(mask) => Step::Umask(mask),
            Which::OomScoreAdj(value) => Step::OomScoreAdj(value),
            Which::Rlimit(from) => Step::Rlimit(rlimit(from?)),
            Which::Stdio(from) => Step::Stdio {
                stdin: self.fd("stdio.stdin", from.get_stdin())?,
                stdout: self.fd("stdio.stdout", from.get_stdout())?,
                stderr: self.fd("stdio.stderr", from.get_stderr())?,
                uid: from.get_uid(),
            },
            Which::Terminal(from) => Step::Terminal {
                socket: self.fd("terminal.socket", from.get_socket())?,
                rows: from.get_rows(),
                columns: from.get_columns(),
                uid: from.get_uid(),
                console: from.get_console(),
                keep_line_ends: from.get_keep_line_ends(),
            },
            Which::WorkingDirectory(path) => Step::WorkingDirectory(string("workingDirectory", path?)?),
            Which::BoundingSet(mask) => Step::BoundingSet(mask),
            Which::Identity(from) => Step::Identity {
                uid: from.get_uid(),
                gid: from.get_gid(),
                groups: from.get_groups()?.iter().collect(),
                set_groups: from.get_set_groups(),
            },
            Which::Capabilities(from) => Step::Capabilities(capability_sets(from?)),
            Which::Seccomp(from) => {
                let (whole, rest) = from.get_program()?.as_chunks::<{ Instruction::SIZE }>();
                if !rest.is_empty() {
                    return Err(WireError::TrailingBytes(rest.len()));
                }
                let program = whole.iter().map(|bytes| Instruction::from_bytes(*bytes)).collect();
                let socket = self.optional_fd("seccomp.listener", from.get_listener()?)?;
                let listener = socket.map(|socket| {
                    Ok::<_, WireError>(SeccompListener { socket, state: state_text(from.get_state()?)? })
                });
                Step::Seccomp { program, flags: from.get_flags(), listener: listener.transpose()? }
            }
            Which::NoNewPrivileges(()) => Step::NoNewPrivileges,
            Which::DieWithParent(signal) => Step::DieWithParent(signal),
            Which::FindExecutable(candidates) => {
                Step::FindExecutable { candidates: strings("findExecutable", candidates?)? }
            }
            Which::Park(socket) => Step::Park { socket: self.fd("park", socket)? },
            Which::Exec(from) => exec(from)?,
        })
    }

    fn fd(self, field: &'static str, index: u16) -> Result<FdIndex, WireError> {
        if usize::from(index) < self.fd_count {
            Ok(FdIndex(index))
        } else {
            Err(WireError::Descriptor { field, index, count: self.fd_count })
        }
    }

    fn namespace(self, from: wire::namespace::Reader<'_>) -> Result<Namespace, WireError> {
        let kind = namespace_kind(from.get_kind().map_err(unknown("namespace kind"))?);
        Ok(Namespace { kind, fd: self.fd("born.fd", from.get_fd())? })
    }

    fn tree_source(self, from: wire::step::mount_tree::source::Reader<'_>) -> Result<TreeSource, WireError> {
        use wire::step::mount_tree::source::Which;
        Ok(match from.which().map_err(unknown("source of a tree"))? {
            Which::Opened(tree) => TreeSource::Opened(self.fd("mountTree.opened", tree)?),
            Which::Container(from) => TreeSource::Container {
                path: string("mountTree.container.path", from.get_path()?)?,
                recursive: from.get_recursive(),
                no_follow: from.get_no_follow(),
            },
        })
    }

    fn mount_attrs(self, from: wire::mount_attrs::Reader<'_>) -> Result<MountAttrs, WireError> {
        Ok(MountAttrs {
            set: from.get_set(),
            clear: from.get_clear(),
            recursive_set: from.get_recursive_set(),
            recursive_clear: from.get_recursive_clear(),
            propagation: from.get_propagation(),
            propagation_recursive: from.get_propagation_recursive(),
            id_map: self.id_map(from.get_id_map())?,
        })
    }

    fn id_map(self, from: wire::mount_attrs::id_map::Reader<'_>) -> Result<IdMap, WireError> {
        use wire::mount_attrs::id_map::Which;
        Ok(match from.which().map_err(unknown("identity map of a mount"))? {
            Which::None(()) => IdMap::None,
            Which::Own(from) => IdMap::Own {
                namespace: self.fd("attrs.idMap.own.namespace", from.get_namespace())?,
                recursive: from.get_recursive(),
            },
            Which::Asked(number) => IdMap::Asked(number),
        })
    }

    fn optional_fd(
        self,
        field: &'static str,
        from: wire::optional_fd::Reader<'_>,
    ) -> Result<Option<FdIndex>, WireError> {
        use wire::optional_fd::Which;
        match from.which().map_err(unknown("optional descriptor"))? {
            Which::None(()) => Ok(None),
            Which::Fd(index) => self.fd(field, index).map(Some),
        }
    }
}

fn oom_score_adj(from: wire::plan::oom_score_adj::Reader<'_>) -> Result<Option<i32>, WireError> {
    use wire::plan::oom_score_adj::Which;
    match from.which().map_err(unknown("kind of oom score"))? {
        Which::Keep(()) => Ok(None),
        Which::Set(value) => Ok(Some(value)),
    }
}

fn rlimit(from: wire::rlimit::Reader<'_>) -> Rlimit {
    Rlimit { resource: from.get_resource(), soft: from.get_soft(), hard: from.get_hard() }
}

fn net_device(from: wire::net_device::Reader<'_>) -> Result<NetDevice, WireError> {
    Ok(NetDevice {
        name: string("netDevice.name", from.get_name()?)?,
        new_name: string("netDevice.newName", from.get_new_name()?)?,
    })
}

fn hook(from: wire::step::hook::Reader<'_>) -> Result<Hook, WireError> {
    Ok(Hook {
        kind: match from.get_kind().map_err(unknown("hook kind"))? {
            wire::HookKind::CreateContainer => HookKind::CreateContainer,
            wire::HookKind::StartContainer => HookKind::StartContainer,
        },
        index: from.get_index(),
        path: string("hook.path", from.get_path()?)?,
        argv: strings("hook.argv", from.get_argv()?)?,
        env: strings("hook.env", from.get_env()?)?,
        timeout: from.get_timeout(),
        state: state_text(from.get_state()?)?,
    })
}

fn state_text(from: wire::state_text::Reader<'_>) -> Result<StateText, WireError> {
    let parts = from.get_parts()?.iter().map(|part| Ok(part?.to_vec()));
    Ok(StateText { parts: parts.collect::<Result<_, WireError>>()? })
}

fn exec(from: wire::step::exec::Reader<'_>) -> Result<Step, WireError> {
    let argv = strings("exec.argv", from.get_argv()?)?;
    if argv.is_empty() {
        return Err(WireError::EmptyArgv);
    }
    Ok(Step::Exec { argv, env: strings("exec.env", from.get_env()?)? })
}

fn id_maps(from: wire::plan::id_maps::Reader<'_>) -> Result<Option<IdMaps>, WireError> {
    use wire::plan::id_maps::Which;
    match from.which().map_err(unknown("kind of id maps"))? {
        Which::None(()) => Ok(None),
        Which::NewUserNamespace(from) => {
            let from = from?;
            Ok(Some(IdMaps { uid_map: from.get_uid_map()?.to_vec(), gid_map: from.get_gid_map()?.to_vec() }))
        }
    }
}

fn hidden_path(from: wire::hidden_path::Reader<'_>) -> Result<HiddenPath, WireError> {
    Ok(HiddenPath {
        path: string("hiddenPath.path", from.get_path()?)?,
        slot: NonZero::new(from.get_slot()),
        below: string("hiddenPath.below", from.get_below()?)?,
    })
}

fn target(from: wire::target::Reader<'_>) -> Result<Target, WireError> {
    Ok(Target {
        path: string("target.path", from.get_path()?)?,
        kind: match from.get_kind().map_err(unknown("target kind"))? {
            wire::TargetKind::Directory => TargetKind::Directory,
            wire::TargetKind::File => TargetKind::File,
        },
        no_symlinks: from.get_no_symlinks(),
        no_follow: from.get_no_follow(),
    })
}

fn fs_parameter(from: wire::fs_parameter::Reader<'_>) -> Result<FsParameter, WireError> {
    use wire::fs_parameter::Which;
    Ok(FsParameter {
        key: string("parameter.key", from.get_key()?)?,
        value: match from.which().map_err(unknown("kind of parameter"))? {
            Which::Flag(()) => None,
            Which::String(value) => Some(string("parameter.string", value?)?),
        },
    })
}

fn namespace_kind(from: wire::NamespaceKind) -> NamespaceKind {
    match from {
        wire::NamespaceKind::Network => NamespaceKind::Network,
        wire::NamespaceKind::Ipc => NamespaceKind::Ipc,
        wire::NamespaceKind::Uts => NamespaceKind::Uts,
        wire::NamespaceKind::Cgroup => NamespaceKind::Cgroup,
        wire::NamespaceKind::Pid => NamespaceKind::Pid,
        wire::NamespaceKind::Mount => NamespaceKind::Mount,
        wire::NamespaceKind::Time => NamespaceKind::Time,
    }
}

fn capability_sets(from: wire::capability_sets::Reader<'_>) -> CapabilitySets {
    CapabilitySets {
        effective: from.get_effective(),
        permitted: from.get_permitted(),
        inheritable: from.get_inheritable(),
        ambient: from.get_ambient(),
    }
}

fn string(field: &'static str, bytes: data::Reader<'_>) -> Result<CString, WireError> {
    CString::new(bytes).map_err(|error| WireError::Nul { field, position: error.nul_position() })
}

fn strings(field: &'static str, list: data_list::Reader<'_>) -> Result<Vec<CString>, WireError> {
    list.iter().map(|bytes| string(field, bytes?)).collect()
}

fn unknown(what: &'static str) -> impl Fn(NotInSchema) -> WireError {
    move |NotInSchema(number)| WireError::Unknown { what, number }
}
