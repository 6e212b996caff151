//! From a plan to bytes.

use std::ffi::{CStr, CString};
use std::num::NonZero;

use brood_schema::plan_capnp::{self as wire, PLAN_VERSION};
use capnp::message::{Builder, HeapAllocator};
use capnp::serialize::write_message_to_words;
use capnp::{data_list, primitive_list};

use crate::plan::{
    CapabilitySets, FdIndex, FsParameter, HiddenPath, Hook, HookKind, IdMap, IdMaps, MountAttrs, Namespace,
    NamespaceKind, NetDevice, Plan, Rlimit, Scheduler, SeccompListener, SecurityModule, Slot, StateText, Step, Target,
    TargetKind, TreeSource,
};

/// Room for a common plan with a long environment, so that the message is one segment: quicker to write and to read.
const FIRST_SEGMENT_WORDS: u32 = 2048;

/// The plan as one message, for [`decode`](super::decode()).
///
/// # Panics
/// When a list or string has 2^29 elements or more: 64 times what [`decode`](super::decode()) would read.
#[must_use]
pub fn encode(plan: &Plan) -> Vec<u8> {
    let Plan {
        clone_flags,
        id_maps,
        user_namespace,
        born,
        oom_score_adj,
        rlimits,
        net_devices,
        preserve,
        cgroup,
        status,
        zygotes_empty,
        steps,
    } = plan;
    let mut message = Builder::new(HeapAllocator::new().first_segment_words(FIRST_SEGMENT_WORDS));
    let mut root: wire::plan::Builder<'_> = message.init_root();
    root.set_version(PLAN_VERSION);
    root.set_clone_flags(*clone_flags);
    root.set_zygotes_empty(*zygotes_empty);
    if let Some(IdMaps { uid_map, gid_map }) = id_maps {
        let mut to = root.reborrow().init_id_maps().init_new_user_namespace();
        to.set_uid_map(uid_map);
        to.set_gid_map(gid_map);
    }
    optional_fd(root.reborrow().init_user_namespace(), *user_namespace);
    let mut list = root.reborrow().init_born(length(born));
    for (position, from) in (0..).zip(born) {
        namespace(list.reborrow().get(position), *from);
    }
    match oom_score_adj {
        None => root.reborrow().init_oom_score_adj().set_keep(()),
        Some(value) => root.reborrow().init_oom_score_adj().set_set(*value),
    }
    let mut list = root.reborrow().init_rlimits(length(rlimits));
    for (position, from) in (0..).zip(rlimits) {
        rlimit(list.reborrow().get(position), *from);
    }
    let mut list = root.reborrow().init_net_devices(length(net_devices));
    for (position, NetDevice { name, new_name }) in (0..).zip(net_devices) {
        let mut to = list.reborrow().get(position);
        to.set_name(name.as_bytes());
        to.set_new_name(new_name.as_bytes());
    }
    let mut list = root.reborrow().init_preserve(length(preserve));
    for (position, fd) in (0..).zip(preserve) {
        list.set(position, fd.0);
    }
    optional_fd(root.reborrow().init_cgroup(), *cgroup);
    optional_fd(root.reborrow().init_status(), *status);
    let mut list = root.init_steps(length(steps));
    for (position, from) in (0..).zip(steps) {
        step(list.reborrow().get(position), from);
    }
    write_message_to_words(&message)
}

fn step(mut to: wire::step::Builder<'_>, from: &Step) {
    match from {
        Step::AwaitParent => to.set_await_parent(()),
        Step::JoinCgroup { tasks } => to.set_join_cgroup(tasks.0),
        Step::EnterUserNamespace => to.set_enter_user_namespace(()),
        Step::JoinNamespace(Namespace { kind, fd }) => {
            let mut to = to.init_join_namespace();
            to.set_kind(namespace_kind(*kind));
            to.set_fd(fd.0);
        }
        Step::JoinContainer { pidfd, namespaces } => {
            let mut to = to.init_join_container();
            to.set_pidfd(pidfd.0);
            to.set_namespaces(*namespaces);
        }
        Step::NewSession => to.set_new_session(()),
        Step::NewCgroupNamespace => to.set_new_cgroup_namespace(()),
        Step::NewTimeNamespace { offsets } => to.set_new_time_namespace(offsets),
        Step::LoopbackUp => to.set_loopback_up(()),
        Step::Hostname(name) => to.set_hostname(name.as_bytes()),
        Step::Domainname(name) => to.set_domainname(name.as_bytes()),
        Step::PrivateMounts => to.set_private_mounts(()),
        Step::RuntimeHooks => to.set_runtime_hooks(()),
        Step::Hook(from) => hook(to.init_hook(), from),
        Step::SessionKeyring(name) => to.set_session_keyring(name.as_bytes()),
        Step::Sysctl { path, value } => {
            let mut to = to.init_sysctl();
            to.set_path(path.as_bytes());
            to.set_value(value);
        }
        Step::LimitProcesses { file, limit } => {
            let mut to = to.init_limit_processes();
            to.set_file(file.0);
            to.set_limit(limit.as_bytes());
        }
        Step::Scheduler(Scheduler { policy, flags, nice, priority, runtime, deadline, period }) => {
            let mut to = to.init_scheduler();
            to.set_policy(*policy);
            to.set_flags(*flags);
            to.set_nice(*nice);
            to.set_priority(*priority);
            to.set_runtime(*runtime);
            to.set_deadline(*deadline);
            to.set_period(*period);
        }
        Step::IoPriority(value) => to.set_io_priority(*value),
        Step::CpuAffinity(mask) => words(to.init_cpu_affinity(length(mask)), mask),
        Step::Personality(value) => to.set_personality(*value),
        Step::MemoryPolicy { mode, nodes } => {
            let mut to = to.init_memory_policy();
            to.set_mode(*mode);
            words(to.init_nodes(length(nodes)), nodes);
        }
        Step::Label { module, text } => {
            let mut to = to.init_label();
            to.set_module(match module {
                SecurityModule::AppArmor => wire::SecurityModule::AppArmor,
                SecurityModule::Selinux => wire::SecurityModule::Selinux,
            });
            to.set_text(text.as_bytes());
        }
        Step::AttachRoot { tree, place } => {
            let mut to = to.init_attach_root();
            to.set_tree(tree.0);
            to.set_place(place.as_bytes());
        }
        Step::AdoptRoot { root } => to.set_adopt_root(root.0),
        Step::OverlayRoot { lower, upper_size } => {
            let mut to = to.init_overlay_root();
            to.set_lower(lower.0);
            to.set_upper_size(upper_size.as_bytes());
        }
        Step::MountFilesystem { index, target: at, fstype, source, parameters, attrs, copy_up, slot } => {
            let mut to = to.init_mount_filesystem();
            to.set_copy_up(*copy_up);
            to.set_slot(number(*slot));
            to.set_index(*index);
            target(to.reborrow().init_target(), at);
            to.set_fstype(fstype.as_bytes());
            to.set_source(source.as_bytes());
            let mut list = to.reborrow().init_parameters(length(parameters));
            for (position, parameter) in (0..).zip(parameters) {
                fs_parameter(list.reborrow().get(position), parameter);
            }
            mount_attrs(to.init_attrs(), attrs);
        }
        Step::MountTree { index, target: at, source, attrs, slot } => {
            let mut to = to.init_mount_tree();
            to.set_index(*index);
            to.set_slot(number(*slot));
            target(to.reborrow().init_target(), at);
            tree_source(to.reborrow().init_source(), source);
            mount_attrs(to.init_attrs(), attrs);
        }
        Step::Remount { index, target: at, attrs } => {
            let mut to = to.init_remount();
            to.set_index(*index);
            target(to.reborrow().init_target(), at);
            mount_attrs(to.init_attrs(), attrs);
        }
        Step::Device { path, mode, major, minor, uid, gid } => {
            let mut to = to.init_device();
            to.set_path(path.as_bytes());
            to.set_mode(*mode);
            to.set_major(*major);
            to.set_minor(*minor);
            to.set_uid(*uid);
            to.set_gid(*gid);
        }
        Step::Symlink { path, to: content } => {
            let mut to = to.init_symlink();
            to.set_path(path.as_bytes());
            to.set_to(content.as_bytes());
        }
        Step::PivotRoot => to.set_pivot_root(()),
        Step::MoveRoot => to.set_move_root(()),
        Step::CoverRoot => to.set_cover_root(()),
        Step::ChangeRoot => to.set_change_root(()),
        Step::RootPropagation(flags) => to.set_root_propagation(*flags),
        Step::MakeWorkingDirectory(path) => to.set_make_working_directory(path.as_bytes()),
        Step::ReadonlyRoot => to.set_readonly_root(()),
        Step::ReadonlyPath(hidden) => hidden_path(to.init_readonly_path(), hidden),
        Step::MaskPath(hidden) => hidden_path(to.init_mask_path(), hidden),
        Step::Umask(mask) => to.set_umask(*mask),
        Step::OomScoreAdj(value) => to.set_oom_score_adj(*value),
        Step::Rlimit(from) => rlimit(to.init_rlimit(), *from),
        Step::Stdio { stdin, stdout, stderr, uid } => {
            let mut to = to.init_stdio();
            to.set_stdin(stdin.0);
            to.set_stdout(stdout.0);
            to.set_stderr(stderr.0);
            to.set_uid(*uid);
        }
        Step::Terminal { socket, rows, columns, uid, console, keep_line_ends } => {
            let mut to = to.init_terminal();
            to.set_socket(socket.0);
            to.set_rows(*rows);
            to.set_columns(*columns);
            to.set_uid(*uid);
            to.set_console(*console);
            to.set_keep_line_ends(*keep_line_ends);
        }
        Step::WorkingDirectory(path) => to.set_working_directory(path.as_bytes()),
        Step::BoundingSet(mask) => to.set_bounding_set(*mask),
        Step::Identity { uid, gid, groups, set_groups } => {
            let mut to = to.init_identity();
            to.set_uid(*uid);
            to.set_gid(*gid);
            to.set_set_groups(*set_groups);
            let mut list = to.init_groups(length(groups));
            for (position, group) in (0..).zip(groups) {
                list.set(position, *group);
            }
        }
        Step::Capabilities(CapabilitySets { effective, permitted, inheritable, ambient }) => {
            let mut to = to.init_capabilities();
            to.set_effective(*effective);
            to.set_permitted(*permitted);
            to.set_inheritable(*inheritable);
            to.set_ambient(*ambient);
        }
        Step::Seccomp { program, flags, listener } => {
            let mut to = to.init_seccomp();
            to.set_program(&program.iter().flat_map(|instruction| instruction.to_bytes()).collect::<Vec<u8>>());
            to.set_flags(*flags);
            optional_fd(to.reborrow().init_listener(), listener.as_ref().map(|listener| listener.socket));
            if let Some(SeccompListener { state, .. }) = listener {
                state_text(to.init_state(), state);
            }
        }
        Step::NoNewPrivileges => to.set_no_new_privileges(()),
        Step::DieWithParent(signal) => to.set_die_with_parent(*signal),
        Step::FindExecutable { candidates } => strings(to.init_find_executable(length(candidates)), candidates),
        Step::Park { socket } => to.set_park(socket.0),
        Step::Exec { argv, env } => {
            let mut to = to.init_exec();
            strings(to.reborrow().init_argv(length(argv)), argv);
            strings(to.init_env(length(env)), env);
        }
    }
}

fn namespace(mut to: wire::namespace::Builder<'_>, Namespace { kind, fd }: Namespace) {
    to.set_kind(namespace_kind(kind));
    to.set_fd(fd.0);
}

fn rlimit(mut to: wire::rlimit::Builder<'_>, Rlimit { resource, soft, hard }: Rlimit) {
    to.set_resource(resource);
    to.set_soft(soft);
    to.set_hard(hard);
}

fn hook(mut to: wire::step::hook::Builder<'_>, from: &Hook) {
    let Hook { kind, index, path, argv, env, timeout, state } = from;
    to.set_kind(match kind {
        HookKind::CreateContainer => wire::HookKind::CreateContainer,
        HookKind::StartContainer => wire::HookKind::StartContainer,
    });
    to.set_index(*index);
    to.set_path(path.as_bytes());
    strings(to.reborrow().init_argv(length(argv)), argv);
    strings(to.reborrow().init_env(length(env)), env);
    to.set_timeout(*timeout);
    state_text(to.init_state(), state);
}

fn state_text(to: wire::state_text::Builder<'_>, StateText { parts }: &StateText) {
    let mut list = to.init_parts(length(parts));
    for (position, part) in (0..).zip(parts) {
        list.set(position, part);
    }
}

fn words(mut to: primitive_list::Builder<'_, u64>, from: &[u64]) {
    for (position, word) in (0..).zip(from) {
        to.set(position, *word);
    }
}

fn target(mut to: wire::target::Builder<'_>, Target { path, kind, no_symlinks, no_follow }: &Target) {
    to.set_path(path.as_bytes());
    to.set_kind(match kind {
        TargetKind::Directory => wire::TargetKind::Directory,
        TargetKind::File => wire::TargetKind::File,
    });
    to.set_no_symlinks(*no_symlinks);
    to.set_no_follow(*no_follow);
}

fn hidden_path(mut to: wire::hidden_path::Builder<'_>, HiddenPath { path, slot, below }: &HiddenPath) {
    to.set_path(path.as_bytes());
    to.set_slot(number(*slot));
    to.set_below(below.as_bytes());
}

fn tree_source(mut to: wire::step::mount_tree::source::Builder<'_>, from: &TreeSource) {
    match from {
        TreeSource::Opened(tree) => to.set_opened(tree.0),
        TreeSource::Container { path, recursive, no_follow } => {
            let mut to = to.init_container();
            to.set_path(path.as_bytes());
            to.set_recursive(*recursive);
            to.set_no_follow(*no_follow);
        }
    }
}

fn number(slot: Slot) -> u16 {
    slot.map_or(0, NonZero::get)
}

fn mount_attrs(mut to: wire::mount_attrs::Builder<'_>, from: &MountAttrs) {
    let MountAttrs { set, clear, recursive_set, recursive_clear, propagation, propagation_recursive, id_map } = from;
    to.set_set(*set);
    to.set_clear(*clear);
    to.set_recursive_set(*recursive_set);
    to.set_recursive_clear(*recursive_clear);
    to.set_propagation(*propagation);
    to.set_propagation_recursive(*propagation_recursive);
    let mut to = to.init_id_map();
    match *id_map {
        IdMap::None => to.set_none(()),
        IdMap::Own { namespace, recursive } => {
            let mut to = to.init_own();
            to.set_namespace(namespace.0);
            to.set_recursive(recursive);
        }
        IdMap::Asked(number) => to.set_asked(number),
    }
}

fn fs_parameter(mut to: wire::fs_parameter::Builder<'_>, FsParameter { key, value }: &FsParameter) {
    to.set_key(key.as_bytes());
    match value.as_deref().map(CStr::to_bytes) {
        None => to.set_flag(()),
        Some(string) => to.set_string(string),
    }
}

fn namespace_kind(kind: NamespaceKind) -> wire::NamespaceKind {
    match kind {
        NamespaceKind::Network => wire::NamespaceKind::Network,
        NamespaceKind::Ipc => wire::NamespaceKind::Ipc,
        NamespaceKind::Uts => wire::NamespaceKind::Uts,
        NamespaceKind::Cgroup => wire::NamespaceKind::Cgroup,
        NamespaceKind::Pid => wire::NamespaceKind::Pid,
        NamespaceKind::Mount => wire::NamespaceKind::Mount,
        NamespaceKind::Time => wire::NamespaceKind::Time,
    }
}

fn optional_fd(mut to: wire::optional_fd::Builder<'_>, fd: Option<FdIndex>) {
    match fd {
        None => to.set_none(()),
        Some(FdIndex(index)) => to.set_fd(index),
    }
}

fn strings(mut to: data_list::Builder<'_>, from: &[CString]) {
    for (position, string) in (0..).zip(from) {
        to.set(position, string.as_bytes());
    }
}

fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).expect("no list of a plan has 2^32 elements")
}
