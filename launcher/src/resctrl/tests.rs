//! With a directory in the place of the file system: files are there as the kernel has them, and it refuses nothing.

use serde_json::{Value, json};

use super::*;

const FOUND: &str = "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n";

struct Machine {
    directory: tempfile::TempDir,
    resctrl: Resctrl,
}

impl Machine {
    fn new() -> Machine {
        let directory = tempfile::tempdir().unwrap();
        let resctrl = Resctrl { mount_point: directory.path().to_owned() };
        let machine = Machine { directory, resctrl };
        for resource in ["L3", "MB", "L3_MON"] {
            fs::create_dir_all(machine.path(&format!("info/{resource}"))).unwrap();
        }
        fs::write(machine.path("info/MB/bandwidth_gran"), "10\n").unwrap();
        fs::write(machine.path("info/last_cmd_status"), "ok\n").unwrap();
        machine.furnish("");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the kernel puts into a group.
    fn furnish(&self, group: &str) {
        let path = self.path(group);
        fs::create_dir_all(path.join("mon_groups")).unwrap();
        fs::write(path.join("schemata"), FOUND).unwrap();
        fs::write(path.join("tasks"), "").unwrap();
    }

    fn plan(&self, rdt: Value) -> Result<Wanted, String> {
        let rdt: LinuxIntelRdt = serde_json::from_value(rdt).unwrap();
        self.resctrl.plan(&rdt, "box").map_err(|error| error.to_string())
    }

    fn schemata(&self, group: &str) -> String {
        fs::read_to_string(self.path(group).join("schemata")).unwrap()
    }
}

#[test]
fn it_is_found_where_it_is_mounted() {
    let root = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
    assert!(Resctrl::in_table(root).is_none());
    let mounted = "40 23 0:36 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw\n";
    let found = Resctrl::in_table(&format!("{root}{mounted}")).unwrap();
    assert_eq!(found.mount_point, Path::new("/sys/fs/resctrl"));
}

#[test]
fn without_a_name_a_group_is_the_containers_and_goes_with_it() {
    let machine = Machine::new();
    let rdt = json!({ "l3CacheSchema": "L3:0=f\nMB:0=10", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3"] });
    let wanted = machine.plan(rdt).unwrap();
    assert!(!machine.path("box").exists(), "nothing is made yet");
    wanted.make().unwrap();
    assert_eq!(machine.schemata("box"), "L3:0=f\nMB:0=20\nL2:0=3\n", "the cache's line on bandwidth is left out");
    let written = serde_json::to_value(wanted.group()).unwrap();
    let group: Group = serde_json::from_value(written).unwrap();
    assert_eq!(&group, wanted.group());
    // The kernel's files go with a directory of its; here they are in the way.
    fs::remove_file(machine.path("box/schemata")).unwrap();
    group.remove().unwrap();
    assert!(!machine.path("box").exists());
    group.remove().unwrap();
}

#[test]
fn a_named_group_is_made_and_left() {
    let machine = Machine::new();
    let wanted = machine.plan(json!({ "closID": "gold", "schemata": ["L3:0=f", "MB:1=30"] })).unwrap();
    wanted.make().unwrap();
    assert_eq!(machine.schemata("gold"), "L3:0=f\nMB:1=30\n");
    wanted.group().remove().unwrap();
    assert!(machine.path("gold").exists());
}

#[test]
fn a_group_that_is_there_has_these_schemata_or_is_refused() {
    let machine = Machine::new();
    machine.furnish("gold");
    for same in [json!({}), json!({ "l3CacheSchema": "L3:1=07FF;0=0x7ff" }), json!({ "memBwSchema": "MB:0=95" })] {
        let mut rdt = same.clone();
        rdt["closID"] = "gold".into();
        machine.plan(rdt).unwrap().make().unwrap();
        assert_eq!(machine.schemata("gold"), FOUND, "{same}: nothing is written");
    }
    // The last of two lines counts.
    machine.plan(json!({ "closID": "gold", "schemata": ["L3:0=1", "L3:0=7ff"] })).unwrap();
    for (rdt, other) in [
        (json!({ "l3CacheSchema": "L3:0=7f" }), "L3:0 is 7ff, not 7f"),
        (json!({ "memBwSchema": "MB:1=90" }), "MB:1 is 100, not 90"),
        (json!({ "schemata": ["L2:0=1"] }), "L2:0 is none, not 1"),
        (json!({ "schemata": ["nonsense:0"] }), "nonsense:0 is none, not "),
    ] {
        let mut rdt = rdt;
        rdt["closID"] = "gold".into();
        let refused = machine.plan(rdt).unwrap_err();
        let path = machine.path("gold");
        let expected =
            format!("linux.intelRdt.closID: {}: the group is there, with another schema: {other}", path.display());
        assert_eq!(refused, expected);
    }
}

#[test]
fn a_named_group_without_schemata_must_be_there() {
    let machine = Machine::new();
    let refused = machine.plan(json!({ "closID": "gold" })).unwrap_err();
    assert!(refused.ends_with("gold: no such group, and no schemata to make it with"), "{refused}");
    let wanted = machine.plan(json!({ "closID": "/" })).unwrap();
    wanted.make().unwrap();
    assert_eq!(wanted.group().path, machine.directory.path());
    let refused = machine.plan(json!({ "closID": "info" })).unwrap_err();
    assert_eq!(refused, "linux.intelRdt.closID: \"info\" is the kernel's own");
}

#[test]
fn monitoring_has_a_group_of_its_own_which_goes_with_the_container() {
    let machine = Machine::new();
    machine.furnish("gold");
    let plan = || machine.plan(json!({ "closID": "gold", "enableMonitoring": true })).unwrap();
    let wanted = plan();
    wanted.make().unwrap();
    let monitoring = machine.path("gold/mon_groups/box");
    assert!(monitoring.is_dir());
    fs::write(monitoring.join("tasks"), "").unwrap();
    assert_eq!(wanted.group().entrance().unwrap().len(), 2);
    wanted.group().enter(7).unwrap();
    for tasks in [machine.path("gold/tasks"), monitoring.join("tasks")] {
        assert_eq!(fs::read_to_string(tasks).unwrap(), "7");
    }
    let taken = plan().make().unwrap_err();
    assert!(taken.to_string().contains("linux.intelRdt.enableMonitoring: make directory"), "{taken}");
    fs::remove_file(monitoring.join("tasks")).unwrap();
    wanted.group().remove().unwrap();
    assert!(!monitoring.exists() && machine.path("gold").exists());
}

#[test]
fn what_the_machine_lacks_is_refused_by_name() {
    let machine = Machine::new();
    for (resource, rdt, field) in [
        ("L3", json!({ "l3CacheSchema": "L3:0=f" }), "l3CacheSchema"),
        ("MB", json!({ "memBwSchema": "MB:0=20" }), "memBwSchema"),
        ("L3_MON", json!({ "enableMonitoring": true }), "enableMonitoring"),
    ] {
        machine.plan(rdt.clone()).unwrap();
        fs::remove_dir_all(machine.path(&format!("info/{resource}"))).unwrap();
        let refused = machine.plan(rdt).unwrap_err();
        let expected = format!("linux.intelRdt.{field}: this machine cannot do that: ");
        assert!(
            refused.starts_with(&expected) && refused.ends_with(&format!("info/{resource} is missing")),
            "{refused}"
        );
    }
    // With code and data apart the cache has other names.
    fs::create_dir(machine.path("info/L3CODE")).unwrap();
    machine.plan(json!({ "l3CacheSchema": "L3CODE:0=f" })).unwrap();
}

#[test]
fn a_change_can_be_taken_back() {
    let machine = Machine::new();
    let wanted = machine.plan(json!({ "closID": "/" })).unwrap();
    let former = wanted.group().change(Some("L3:0=f"), Some("MB:0=50")).unwrap();
    assert_eq!(machine.schemata(""), "L3:0=f\nMB:0=50\n");
    wanted.group().restore(&former).unwrap();
    assert_eq!(machine.schemata(""), "MB:0=100;1=100\nL3:0=7ff;1=7ff\n");
}

#[test]
fn a_refusal_has_the_kernels_words_and_leaves_nothing() {
    let machine = Machine::new();
    fs::write(machine.path("info/last_cmd_status"), "out of CLOSIDs\n").unwrap();
    // A file in the place of a directory refuses like a kernel that has no group left.
    let wanted = machine.plan(json!({ "schemata": ["L3:0=f"] })).unwrap();
    fs::write(machine.path("box"), "").unwrap();
    let refused = wanted.make().unwrap_err().to_string();
    let path = machine.path("box");
    let expected = format!("linux.intelRdt.closID: make directory {}: file exists (out of CLOSIDs)", path.display());
    assert_eq!(refused, expected);
}
