//! Files of 2016, and valid files that `oci_spec` alone would refuse.

use super::*;

const REDIS: &[u8] = include_bytes!("../../../tests/fixtures/redis-0.4.0.json");

fn parse_patched(patch: &Value) -> (Spec, Vec<String>) {
    parse(&patched(patch)).unwrap()
}

#[test]
fn redis_as_containerd_0_2_documented_it() {
    let (spec, notes) = check(REDIS, LoadOptions::default()).unwrap();
    assert_eq!(
        notes,
        [
            "linux.devices: null, taken as absent",
            "platform: dropped, it left the specification with 1.0.0-rc5",
            "process.capabilities: the flat list of old became bounding, effective and permitted; \
             inheritable and ambient are empty",
        ]
    );
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_deref().unwrap(), ["redis-server", "--bind", "0.0.0.0"]);
    assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
    assert_eq!(process.no_new_privileges(), Some(true));
    let sets = process.capabilities().as_ref().unwrap();
    let expected = [Capability::AuditWrite, Capability::Kill, Capability::NetBindService].into_iter().collect();
    for set in [sets.bounding(), sets.effective(), sets.permitted()] {
        assert_eq!(set.as_ref(), Some(&expected));
    }
    assert_eq!((sets.inheritable(), sets.ambient()), (&None, &None));
    assert_eq!(spec.mounts().as_ref().unwrap().len(), 6);
    let pts = spec.mounts().as_ref().unwrap()[2].options().clone().unwrap();
    assert_eq!(pts, ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]);
}

#[test]
fn unknown_capabilities_are_dropped_and_noted() {
    let patch = json!({ "process": { "capabilities": {
        "bounding": ["CAP_KILL", "CAP_FROM_THE_FUTURE"],
        "permitted": ["CAP_FROM_THE_FUTURE"],
        "ambient": ["CAP_X\ny"]
    } } });
    let (spec, notes) = parse_patched(&patch);
    assert_eq!(
        notes,
        ["process.capabilities: ignoring unknown or unavailable capabilities: [CAP_FROM_THE_FUTURE CAP_X\\ny]",]
    );
    let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
    assert_eq!(sets.ambient().as_ref().unwrap().len(), 0);
}

#[test]
fn scheduler_flags_in_the_spelling_of_the_specification() {
    let flags = json!(["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"]);
    let (spec, notes) =
        parse_patched(&json!({ "process": { "scheduler": { "policy": "SCHED_BATCH", "flags": flags } } }));
    assert_eq!(spec.process().as_ref().unwrap().scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 3);
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn nulls_and_a_missing_user_are_what_go_takes_them_for() {
    let mut config = minimal();
    config["process"]["user"] = Value::Null;
    config["process"]["rlimits"] = json!([{ "type": "RLIMIT_CORE", "soft": null, "hard": 1 }]);
    let (spec, notes) = parse(&serde_json::to_vec(&config).unwrap()).unwrap();
    assert_eq!(notes, ["process.rlimits[0].soft: null, taken as absent", "process.user: null, taken as absent",]);
    assert_eq!(spec.process().as_ref().unwrap().rlimits().as_ref().unwrap()[0].soft(), 0);
}

#[test]
fn old_resources_find_their_place() {
    let patch = json!({ "ociVersion": "1.0.0-rc1", "linux": { "resources": {
        "disableOOMKiller": true,
        "oomScoreAdj": 100,
        "memory": { "limit": u64::MAX, "swap": 4096, "swappiness": u64::MAX },
        "blockIO": { "blkioWeight": 10, "blkioThrottleReadIOPSDevice": [{ "major": 8, "minor": 0, "rate": 1 }] }
    } } });
    let (spec, notes) = parse_patched(&patch);
    assert_eq!(notes.len(), 6, "{notes:?}");
    assert_eq!(spec.process().as_ref().unwrap().oom_score_adj(), Some(100));
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let memory = resources.memory().unwrap();
    assert_eq!((memory.limit(), memory.swap(), memory.swappiness()), (Some(-1), Some(4096), None));
    assert_eq!(memory.disable_oom_killer(), Some(true));
    let block_io = resources.block_io().clone().unwrap();
    assert_eq!(block_io.weight(), Some(10));
    assert_eq!(block_io.throttle_read_iops_device().as_ref().unwrap().len(), 1);
}

#[test]
fn old_seccomp_profiles_are_read() {
    let rule = json!({ "name": "getcwd", "action": "SCMP_ACT_ERRNO", "args": null });
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [rule] });
    let (spec, notes) = parse_patched(&json!({ "ociVersion": "0.4.0", "linux": { "seccomp": profile } }));
    assert_eq!(
        notes,
        [
            "linux.seccomp.syscalls[0].args: null, taken as absent",
            "linux.seccomp.syscalls: name became names, in 1 rules",
        ]
    );
    let rules = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap().syscalls().clone().unwrap();
    assert_eq!(rules[0].names(), &["getcwd"]);

    for empty in [json!({}), json!({ "defaultAction": "", "architectures": null, "syscalls": null })] {
        let mut config = minimal();
        config["linux"]["seccomp"] = empty;
        let (spec, notes) = parse(&serde_json::to_vec(&config).unwrap()).unwrap();
        assert_eq!(spec.linux().as_ref().unwrap().seccomp(), &None);
        assert_eq!(notes.last().unwrap(), "linux.seccomp: an empty profile, taken as absent");
    }
}
