//! From a plan to bytes.

use std::ffi::{CStr, CString};

use brood_schema::plan_capnp::{self as wire, PLAN_VERSION};
use capnp::data_list;
use capnp::message::{Builder, HeapAllocator};
use capnp::serialize::write_message_to_words;

use crate::plan::{
    CapabilitySets, FdIndex, FsParameter, IdMaps, MountAttrs, NamespaceKind, Plan, Step, Target, TargetKind,
};

/// Room for a common plan with a long environment, so that the message is one segment: quicker to write and to read.
const FIRST_SEGMENT_WORDS: u32 = 2048;

/// The plan as one message, for [`decode`](super::decode()).
///
/// # Panics
/// When a list or string has 2^29 elements or more: 64 times what [`decode`](super::decode()) would read.
#[must_use]
pub fn encode(plan: &Plan) -> Vec<u8> {
    let Plan { clone_flags, id_maps, pid_namespace, cgroup, status, steps } = plan;
    let mut message = Builder::new(HeapAllocator::new().first_segment_words(FIRST_SEGMENT_WORDS));
    let mut root: wire::plan::Builder<'_> = message.init_root();
    root.set_version(PLAN_VERSION);
    root.set_clone_flags(*clone_flags);
    if let Some(IdMaps { uid_map, gid_map }) = id_maps {
        let mut to = root.reborrow().init_id_maps().init_new_user_namespace();
        to.set_uid_map(uid_map);
        to.set_gid_map(gid_map);
    }
    optional_fd(root.reborrow().init_pid_namespace(), *pid_namespace);
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
        Step::EnterUserNamespace => to.set_enter_user_namespace(()),
        Step::JoinNamespace { kind, fd } => {
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
        Step::AttachRoot { tree } => to.set_attach_root(tree.0),
        Step::OverlayRoot { lower, upper_size } => {
            let mut to = to.init_overlay_root();
            to.set_lower(lower.0);
            to.set_upper_size(upper_size.as_bytes());
        }
        Step::MountFilesystem { index, target: at, fstype, source, parameters, attrs } => {
            let mut to = to.init_mount_filesystem();
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
        Step::MountTree { index, target: at, tree, attrs } => {
            let mut to = to.init_mount_tree();
            to.set_index(*index);
            target(to.reborrow().init_target(), at);
            to.set_tree(tree.0);
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
        Step::ReadonlyRoot => to.set_readonly_root(()),
        Step::ReadonlyPath(path) => to.set_readonly_path(path.as_bytes()),
        Step::MaskPath(path) => to.set_mask_path(path.as_bytes()),
        Step::Umask(mask) => to.set_umask(*mask),
        Step::OomScoreAdj(value) => to.set_oom_score_adj(*value),
        Step::Rlimit { resource, soft, hard } => {
            let mut to = to.init_rlimit();
            to.set_resource(*resource);
            to.set_soft(*soft);
            to.set_hard(*hard);
        }
        Step::Stdio { stdin, stdout, stderr, uid } => {
            let mut to = to.init_stdio();
            to.set_stdin(stdin.0);
            to.set_stdout(stdout.0);
            to.set_stderr(stderr.0);
            to.set_uid(*uid);
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
        Step::Seccomp { program, flags } => {
            let mut to = to.init_seccomp();
            to.set_program(&program.iter().flat_map(|instruction| instruction.to_bytes()).collect::<Vec<u8>>());
            to.set_flags(*flags);
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

fn target(mut to: wire::target::Builder<'_>, Target { path, kind, no_symlinks }: &Target) {
    to.set_path(path.as_bytes());
    to.set_kind(match kind {
        TargetKind::Directory => wire::TargetKind::Directory,
        TargetKind::File => wire::TargetKind::File,
    });
    to.set_no_symlinks(*no_symlinks);
}

fn mount_attrs(mut to: wire::mount_attrs::Builder<'_>, from: &MountAttrs) {
    let MountAttrs { set, clear, recursive_set, recursive_clear, propagation, propagation_recursive } = from;
    to.set_set(*set);
    to.set_clear(*clear);
    to.set_recursive_set(*recursive_set);
    to.set_recursive_clear(*recursive_clear);
    to.set_propagation(*propagation);
    to.set_propagation_recursive(*propagation_recursive);
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
