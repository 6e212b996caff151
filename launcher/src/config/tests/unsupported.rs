//! Files that are right and ask for what does not exist here yet.

use super::wrong::linux;
use super::*;

fn resources(patch: &Value) -> Value {
    json!({ "linux": { "resources": patch } })
}

#[test]
fn what_is_not_supported_yet() {
    let throttle = json!([{ "major": 8, "minor": 0, "rate": 1 }]);
    let cases = [
        (resources(&json!({ "devices": [{ "allow": false, "access": "w" }] })), "linux.resources.devices[0]"),
        (
            resources(&json!({ "devices": [{ "allow": false, "type": "c", "access": "rwm" }] })),
            "linux.resources.devices[0]",
        ),
        (resources(&json!({ "memory": { "limit": 1 } })), "linux.resources.memory.limit"),
        (resources(&json!({ "memory": { "reservation": 1 } })), "linux.resources.memory.reservation"),
        (resources(&json!({ "memory": { "swap": 1 } })), "linux.resources.memory.swap"),
        (resources(&json!({ "memory": { "kernel": 1 } })), "linux.resources.memory.kernel"),
        (resources(&json!({ "memory": { "kernelTCP": 1 } })), "linux.resources.memory.kernelTCP"),
        (resources(&json!({ "memory": { "swappiness": 0 } })), "linux.resources.memory.swappiness"),
        (resources(&json!({ "memory": { "disableOOMKiller": true } })), "linux.resources.memory.disableOOMKiller"),
        (resources(&json!({ "cpu": { "shares": 512 } })), "linux.resources.cpu.shares"),
        (resources(&json!({ "cpu": { "quota": 1 } })), "linux.resources.cpu.quota"),
        (resources(&json!({ "cpu": { "period": 1 } })), "linux.resources.cpu.period"),
        (resources(&json!({ "cpu": { "cpus": "0" } })), "linux.resources.cpu.cpus"),
        (resources(&json!({ "cpu": { "mems": "0" } })), "linux.resources.cpu.mems"),
        (resources(&json!({ "cpu": { "idle": 1 } })), "linux.resources.cpu.idle"),
        (resources(&json!({ "pids": { "limit": 10 } })), "linux.resources.pids.limit"),
        (resources(&json!({ "blockIO": { "weight": 10 } })), "linux.resources.blockIO.weight"),
        (
            resources(&json!({ "blockIO": { "throttleReadIOPSDevice": throttle } })),
            "linux.resources.blockIO.throttleReadIOPSDevice",
        ),
        (
            resources(&json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 1 }] })),
            "linux.resources.hugepageLimits",
        ),
        (resources(&json!({ "network": { "classID": 1 } })), "linux.resources.network.classID"),
        (
            resources(&json!({ "network": { "priorities": [{ "name": "e", "priority": 1 }] } })),
            "linux.resources.network.priorities",
        ),
        (resources(&json!({ "rdma": { "mlx5": { "hcaHandles": 1 } } })), "linux.resources.rdma"),
        (resources(&json!({ "unified": { "memory.max": "1" } })), "linux.resources.unified"),
    ];
    let cases = cases.map(|(patch, field)| (patch, field, "not supported yet"));
    let intel_rdt = [
        json!({ "closID": "x" }),
        json!({ "l3CacheSchema": "L3:0=f" }),
        json!({ "memBwSchema": "MB:0=20" }),
        json!({ "schemata": ["L3:0=f"] }),
        json!({ "enableMonitoring": true }),
    ];
    // No machine of the tests has it.
    let intel_rdt =
        intel_rdt.map(|rdt| (linux(&json!({ "intelRdt": rdt })), "linux.intelRdt", "resctrl is not mounted"));
    for (patch, field, reason) in cases.into_iter().chain(intel_rdt) {
        let raw = patched(&patch);
        let message = check(&raw, LoadOptions::default()).expect_err(field).to_string();
        let way_out = "(use --ignore-unsupported to go on without it)";
        assert_eq!(message, format!("config.json: {field}: {reason} {way_out}"));
        let (_, notes) = check(&raw, LoadOptions { ignore_unsupported: true }).unwrap();
        assert_eq!(notes, [format!("{field}: {reason}, ignored")]);
    }
}

/// What callers write into every configuration: device rules that take nothing away beyond the first, and the kernel's own
/// weight.
#[test]
fn what_asks_for_nothing_is_not_refused() {
    let rules = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
        { "allow": true, "type": "c", "major": 136, "access": "rwm" },
        { "allow": true, "access": "rwm" },
    ]);
    let raw = patched(&resources(&json!({ "devices": rules, "cpu": { "shares": 1024 } })));
    let (_, notes) = check(&raw, LoadOptions::default()).unwrap();
    assert_eq!(notes, Vec::<String>::new());
}
