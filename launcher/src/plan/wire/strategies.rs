//! Plans for property tests: arbitrary, but such as `decode` accepts with [`FD_COUNT`] descriptors.

use std::ffi::CString;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;

use crate::plan::{
    CapabilitySets, FdIndex, FsParameter, IdMaps, MountAttrs, NamespaceKind, Plan, Step, Target, TargetKind,
};
use crate::seccomp::Instruction;

/// How many descriptors come with every plan made here.
pub(crate) const FD_COUNT: usize = 7;

/// A whole plan: any steps but exec, then exec.
pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let id_maps = option::of((bytes(), bytes()).prop_map(|(uid_map, gid_map)| IdMaps { uid_map, gid_map }));
    let optional_fd = || option::of(fd());
    let steps = (vec(Union::new(each_step_but_exec()), 0..24), exec()).prop_map(|(mut steps, exec)| {
        steps.push(exec);
        steps
    });
    (any::<u64>(), id_maps, optional_fd(), optional_fd(), optional_fd(), steps).prop_map(
        |(clone_flags, id_maps, pid_namespace, cgroup, status, steps)| Plan {
            clone_flags,
            id_maps,
            pid_namespace,
            cgroup,
            status,
            steps,
        },
    )
}

/// One strategy for each variant but `Exec`.
pub(crate) fn each_step_but_exec() -> Vec<BoxedStrategy<Step>> {
    vec![
        Just(Step::EnterUserNamespace).boxed(),
        (namespace_kind(), fd()).prop_map(|(kind, fd)| Step::JoinNamespace { kind, fd }).boxed(),
        (fd(), any::<u32>()).prop_map(|(pidfd, namespaces)| Step::JoinContainer { pidfd, namespaces }).boxed(),
        Just(Step::NewSession).boxed(),
        Just(Step::NewCgroupNamespace).boxed(),
        bytes().prop_map(|offsets| Step::NewTimeNamespace { offsets }).boxed(),
        Just(Step::LoopbackUp).boxed(),
        string().prop_map(Step::Hostname).boxed(),
        string().prop_map(Step::Domainname).boxed(),
        Just(Step::PrivateMounts).boxed(),
        fd().prop_map(|tree| Step::AttachRoot { tree }).boxed(),
        (fd(), string()).prop_map(|(lower, upper_size)| Step::OverlayRoot { lower, upper_size }).boxed(),
        mount_filesystem().boxed(),
        (any::<u16>(), target(), fd(), mount_attrs())
            .prop_map(|(index, target, tree, attrs)| Step::MountTree { index, target, tree, attrs })
            .boxed(),
        (any::<u16>(), target(), mount_attrs())
            .prop_map(|(index, target, attrs)| Step::Remount { index, target, attrs })
            .boxed(),
        (string(), any::<[u32; 5]>())
            .prop_map(|(path, [mode, major, minor, uid, gid])| Step::Device { path, mode, major, minor, uid, gid })
            .boxed(),
        (string(), string()).prop_map(|(path, to)| Step::Symlink { path, to }).boxed(),
        Just(Step::PivotRoot).boxed(),
        Just(Step::ReadonlyRoot).boxed(),
        string().prop_map(Step::ReadonlyPath).boxed(),
        string().prop_map(Step::MaskPath).boxed(),
        any::<u32>().prop_map(Step::Umask).boxed(),
        any::<i32>().prop_map(Step::OomScoreAdj).boxed(),
        (any::<u32>(), any::<u64>(), any::<u64>())
            .prop_map(|(resource, soft, hard)| Step::Rlimit { resource, soft, hard })
            .boxed(),
        (fd(), fd(), fd(), any::<u32>())
            .prop_map(|(stdin, stdout, stderr, uid)| Step::Stdio { stdin, stdout, stderr, uid })
            .boxed(),
        string().prop_map(Step::WorkingDirectory).boxed(),
        any::<u64>().prop_map(Step::BoundingSet).boxed(),
        (any::<u32>(), any::<u32>(), vec(any::<u32>(), 0..5), any::<bool>())
            .prop_map(|(uid, gid, groups, set_groups)| Step::Identity { uid, gid, groups, set_groups })
            .boxed(),
        any::<[u64; 4]>()
            .prop_map(|[effective, permitted, inheritable, ambient]| {
                Step::Capabilities(CapabilitySets { effective, permitted, inheritable, ambient })
            })
            .boxed(),
        Just(Step::NoNewPrivileges).boxed(),
        (proptest::collection::vec(any::<[u8; Instruction::SIZE]>(), 0..40), any::<u32>())
            .prop_map(|(program, flags)| Step::Seccomp {
                program: program.into_iter().map(Instruction::from_bytes).collect(),
                flags,
            })
            .boxed(),
        any::<u32>().prop_map(Step::DieWithParent).boxed(),
        vec(string(), 0..4).prop_map(|candidates| Step::FindExecutable { candidates }).boxed(),
        fd().prop_map(|socket| Step::Park { socket }).boxed(),
    ]
}

/// The last step.
pub(crate) fn exec() -> impl Strategy<Value = Step> {
    (vec(string(), 1..4), vec(string(), 0..4)).prop_map(|(argv, env)| Step::Exec { argv, env })
}

fn mount_filesystem() -> impl Strategy<Value = Step> {
    let parameter = (string(), option::of(string())).prop_map(|(key, value)| FsParameter { key, value });
    (any::<u16>(), target(), string(), string(), vec(parameter, 0..4), mount_attrs()).prop_map(
        |(index, target, fstype, source, parameters, attrs)| Step::MountFilesystem {
            index,
            target,
            fstype,
            source,
            parameters,
            attrs,
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    let kind = prop_oneof![Just(TargetKind::Directory), Just(TargetKind::File)];
    (string(), kind, any::<bool>()).prop_map(|(path, kind, no_symlinks)| Target { path, kind, no_symlinks })
}

fn mount_attrs() -> impl Strategy<Value = MountAttrs> {
    (any::<[u64; 5]>(), any::<bool>()).prop_map(
        |([set, clear, recursive_set, recursive_clear, propagation], propagation_recursive)| MountAttrs {
            set,
            clear,
            recursive_set,
            recursive_clear,
            propagation,
            propagation_recursive,
        },
    )
}

fn namespace_kind() -> impl Strategy<Value = NamespaceKind> {
    prop_oneof![
        Just(NamespaceKind::Network),
        Just(NamespaceKind::Ipc),
        Just(NamespaceKind::Uts),
        Just(NamespaceKind::Cgroup),
    ]
}

fn fd() -> impl Strategy<Value = FdIndex> {
    (0..u16::try_from(FD_COUNT).unwrap()).prop_map(FdIndex)
}

/// Bytes as for a system call: empty ones and such that are no UTF-8 among them.
fn string() -> impl Strategy<Value = CString> {
    vec(1..=u8::MAX, 0..20).prop_map(|bytes| CString::new(bytes).unwrap())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}
