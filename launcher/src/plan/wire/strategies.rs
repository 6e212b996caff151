//! Plans for property tests: arbitrary, but such as `decode` accepts with [`FD_COUNT`] descriptors.

use std::ffi::CString;
use std::num::NonZero;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;

use crate::plan::{
    CapabilitySets, FdIndex, FsParameter, HiddenPath, Hook, HookKind, IdMap, IdMaps, MountAttrs, Namespace,
    NamespaceKind, NetDevice, Plan, Rlimit, Scheduler, SeccompListener, SecurityModule, Slot, StateText, Step, Target,
    TargetKind, TreeSource,
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
    let net_device = (string(), string()).prop_map(|(name, new_name)| NetDevice { name, new_name });
    let parent = (
        id_maps,
        vec(namespace(), 0..3),
        option::of(any::<i32>()),
        vec(rlimit(), 0..3),
        vec(net_device, 0..3),
        vec(fd(), 0..3),
    );
    (any::<u64>(), parent, optional_fd(), optional_fd(), optional_fd(), any::<bool>(), steps).prop_map(
        |(clone_flags, parent, user_namespace, cgroup, status, zygotes_empty, steps)| {
            let (id_maps, born, oom_score_adj, rlimits, net_devices, preserve) = parent;
            Plan {
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
            }
        },
    )
}

/// One strategy for each variant but `Exec`.
pub(crate) fn each_step_but_exec() -> Vec<BoxedStrategy<Step>> {
    vec![
        Just(Step::AwaitParent).boxed(),
        fd().prop_map(|tasks| Step::JoinCgroup { tasks }).boxed(),
        Just(Step::EnterUserNamespace).boxed(),
        namespace().prop_map(Step::JoinNamespace).boxed(),
        (fd(), any::<u32>()).prop_map(|(pidfd, namespaces)| Step::JoinContainer { pidfd, namespaces }).boxed(),
        Just(Step::NewSession).boxed(),
        Just(Step::NewCgroupNamespace).boxed(),
        bytes().prop_map(|offsets| Step::NewTimeNamespace { offsets }).boxed(),
        Just(Step::LoopbackUp).boxed(),
        string().prop_map(Step::Hostname).boxed(),
        string().prop_map(Step::Domainname).boxed(),
        Just(Step::PrivateMounts).boxed(),
        Just(Step::RuntimeHooks).boxed(),
        hook().prop_map(Step::Hook).boxed(),
        string().prop_map(Step::SessionKeyring).boxed(),
        (string(), bytes()).prop_map(|(path, value)| Step::Sysctl { path, value }).boxed(),
        (fd(), string()).prop_map(|(file, limit)| Step::LimitProcesses { file, limit }).boxed(),
        scheduler().prop_map(Step::Scheduler).boxed(),
        any::<u32>().prop_map(Step::IoPriority).boxed(),
        vec(any::<u64>(), 0..4).prop_map(Step::CpuAffinity).boxed(),
        any::<u32>().prop_map(Step::Personality).boxed(),
        (any::<u32>(), vec(any::<u64>(), 0..4)).prop_map(|(mode, nodes)| Step::MemoryPolicy { mode, nodes }).boxed(),
        (prop_oneof![Just(SecurityModule::AppArmor), Just(SecurityModule::Selinux)], string())
            .prop_map(|(module, text)| Step::Label { module, text })
            .boxed(),
        (fd(), string()).prop_map(|(tree, place)| Step::AttachRoot { tree, place }).boxed(),
        fd().prop_map(|root| Step::AdoptRoot { root }).boxed(),
        (fd(), string()).prop_map(|(lower, upper_size)| Step::OverlayRoot { lower, upper_size }).boxed(),
        mount_filesystem().boxed(),
        (any::<u16>(), target(), tree_source(), mount_attrs(), slot())
            .prop_map(|(index, target, source, attrs, slot)| Step::MountTree { index, target, source, attrs, slot })
            .boxed(),
        (any::<u16>(), target(), mount_attrs())
            .prop_map(|(index, target, attrs)| Step::Remount { index, target, attrs })
            .boxed(),
        (string(), any::<[u32; 5]>())
            .prop_map(|(path, [mode, major, minor, uid, gid])| Step::Device { path, mode, major, minor, uid, gid })
            .boxed(),
        (string(), string()).prop_map(|(path, to)| Step::Symlink { path, to }).boxed(),
        Just(Step::PivotRoot).boxed(),
        Just(Step::MoveRoot).boxed(),
        Just(Step::CoverRoot).boxed(),
        Just(Step::ChangeRoot).boxed(),
        any::<u64>().prop_map(Step::RootPropagation).boxed(),
        string().prop_map(Step::MakeWorkingDirectory).boxed(),
        Just(Step::ReadonlyRoot).boxed(),
        hidden_path().prop_map(Step::ReadonlyPath).boxed(),
        hidden_path().prop_map(Step::MaskPath).boxed(),
        any::<u32>().prop_map(Step::Umask).boxed(),
        any::<i32>().prop_map(Step::OomScoreAdj).boxed(),
        rlimit().prop_map(Step::Rlimit).boxed(),
        (fd(), any::<[u16; 2]>(), any::<u32>(), any::<[bool; 2]>())
            .prop_map(|(socket, [rows, columns], uid, [console, keep_line_ends])| Step::Terminal {
                socket,
                rows,
                columns,
                uid,
                console,
                keep_line_ends,
            })
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
        (vec(any::<[u8; Instruction::SIZE]>(), 0..40), any::<u32>(), option::of((fd(), state_text())))
            .prop_map(|(program, flags, listener)| Step::Seccomp {
                program: program.into_iter().map(Instruction::from_bytes).collect(),
                flags,
                listener: listener.map(|(socket, state)| SeccompListener { socket, state }),
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
    (any::<u16>(), target(), string(), string(), vec(parameter, 0..4), mount_attrs(), any::<bool>(), slot()).prop_map(
        |(index, target, fstype, source, parameters, attrs, copy_up, slot)| Step::MountFilesystem {
            index,
            target,
            fstype,
            source,
            parameters,
            attrs,
            copy_up,
            slot,
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    let kind = prop_oneof![Just(TargetKind::Directory), Just(TargetKind::File)];
    (string(), kind, any::<[bool; 2]>()).prop_map(|(path, kind, [no_symlinks, no_follow])| Target {
        path,
        kind,
        no_symlinks,
        no_follow,
    })
}

fn slot() -> impl Strategy<Value = Slot> {
    any::<u16>().prop_map(NonZero::new)
}

fn hidden_path() -> impl Strategy<Value = HiddenPath> {
    (string(), slot(), string()).prop_map(|(path, slot, below)| HiddenPath { path, slot, below })
}

fn tree_source() -> impl Strategy<Value = TreeSource> {
    let container = (string(), any::<[bool; 2]>()).prop_map(|(path, [recursive, no_follow])| TreeSource::Container {
        path,
        recursive,
        no_follow,
    });
    prop_oneof![fd().prop_map(TreeSource::Opened), container]
}

fn mount_attrs() -> impl Strategy<Value = MountAttrs> {
    (any::<[u64; 5]>(), any::<bool>(), id_map()).prop_map(|(numbers, propagation_recursive, id_map)| {
        let [set, clear, recursive_set, recursive_clear, propagation] = numbers;
        MountAttrs { set, clear, recursive_set, recursive_clear, propagation, propagation_recursive, id_map }
    })
}

fn id_map() -> impl Strategy<Value = IdMap> {
    let own = (fd(), any::<bool>()).prop_map(|(namespace, recursive)| IdMap::Own { namespace, recursive });
    prop_oneof![Just(IdMap::None), own, any::<u16>().prop_map(IdMap::Asked)]
}

fn namespace() -> impl Strategy<Value = Namespace> {
    (namespace_kind(), fd()).prop_map(|(kind, fd)| Namespace { kind, fd })
}

fn rlimit() -> impl Strategy<Value = Rlimit> {
    (any::<u32>(), any::<[u64; 2]>()).prop_map(|(resource, [soft, hard])| Rlimit { resource, soft, hard })
}

fn state_text() -> impl Strategy<Value = StateText> {
    vec(bytes(), 0..4).prop_map(|parts| StateText { parts })
}

fn hook() -> impl Strategy<Value = Hook> {
    let kind = prop_oneof![Just(HookKind::CreateContainer), Just(HookKind::StartContainer)];
    let strings = || vec(string(), 0..4);
    (kind, any::<u16>(), string(), strings(), strings(), any::<u32>(), state_text()).prop_map(
        |(kind, index, path, argv, env, timeout, state)| Hook { kind, index, path, argv, env, timeout, state },
    )
}

fn scheduler() -> impl Strategy<Value = Scheduler> {
    (any::<[u32; 2]>(), any::<i32>(), any::<[u64; 4]>()).prop_map(
        |([policy, priority], nice, [flags, runtime, deadline, period])| Scheduler {
            policy,
            flags,
            nice,
            priority,
            runtime,
            deadline,
            period,
        },
    )
}

fn namespace_kind() -> impl Strategy<Value = NamespaceKind> {
    prop_oneof![
        Just(NamespaceKind::Network),
        Just(NamespaceKind::Ipc),
        Just(NamespaceKind::Uts),
        Just(NamespaceKind::Cgroup),
        Just(NamespaceKind::Pid),
        Just(NamespaceKind::Mount),
        Just(NamespaceKind::Time),
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
