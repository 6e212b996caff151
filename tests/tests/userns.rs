//! User namespaces: joined by path, several mappings, and what only the cloning process may set.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test userns` asks the same of runc, which up to 1.1 joins a user
//! namespace only when its mappings are given as well.

use std::fs;
use std::os::unix::fs::chown;

use brood_tests::{Bundle, Container, Face, Running, Sandbox, binaries, config};
use serde_json::{Value, json};

/// Where the container's ids begin on the host.
const FIRST: u32 = 100_000;

/// A process that holds namespaces: a user namespace with [`FIRST`] as its root, and others that belong to it.
struct Pod {
    process: Running,
    pid: i32,
}

impl Pod {
    fn up(sandbox: &Sandbox, options: &[&str]) -> Self {
        let hold = ["sh", "-c", "echo up; exec sleep 1000"];
        let mut process = sandbox.command("unshare").arg("--user").args(options).args(hold).start();
        process.output_until(|text| text.contains("up"));
        let pid = process.pid();
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), format!("0 {FIRST} 65536\n")).unwrap();
        }
        Self { process, pid }
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/ns/{file}", self.pid)
    }

    fn namespace(&self, file: &str) -> String {
        fs::read_link(self.path(file)).unwrap().to_string_lossy().into_owned()
    }

    fn end(self) {
        self.process.signal(rustix::process::Signal::KILL);
        self.process.finish();
    }
}

fn owned_by_first(bundle: &Bundle) {
    for path in [bundle.rootfs(), bundle.rootfs().join("tmp")] {
        chown(path, Some(FIRST), Some(FIRST)).unwrap();
    }
}

/// As Kubernetes does for a pod: user, network, ipc and uts namespaces of the pod, the rest new.
fn join(bundle: &mut Bundle, pod: &Pod) {
    let joined = [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    let mut namespaces: Vec<Value> =
        joined.iter().map(|(kind, file)| json!({ "type": kind, "path": pod.path(file) })).collect();
    namespaces.extend(["mount", "pid", "cgroup"].map(|kind| json!({ "type": kind })));
    bundle.config["linux"]["namespaces"] = namespaces.into();
    owned_by_first(bundle);
}

const SHOW: &str =
    "id -u; cat /proc/self/uid_map; for n in user net ipc uts; do readlink /proc/self/ns/$n; done; echo $$";

#[test]
fn the_namespaces_of_a_pod_are_joined() {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let pod = Pod::up(&sandbox, &["--net", "--ipc", "--uts"]);
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh(SHOW);
        join(&mut bundle, &pod);
        let printed = face.run(&sandbox, &bundle).ok();
        let words: Vec<&str> = printed.split_whitespace().collect();
        assert_eq!(words[..4], ["0", "0", "100000", "65536"], "{face:?}: {printed}");
        let namespaces = ["user", "net", "ipc", "uts"].map(|kind| pod.namespace(kind));
        assert_eq!(words[4..8], namespaces.each_ref().map(String::as_str), "{face:?}");
        assert_eq!(words[8], "1", "{face:?}: a pid namespace of its own");
        pod.end();
    }
}

/// `idmap` without maps: those of the user namespace that the container joins.
#[test]
fn a_mount_has_the_maps_of_a_joined_user_namespace() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let pod = Pod::up(&sandbox, &["--net", "--ipc", "--uts"]);
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        join(&mut bundle, &pod);
        let volume = bundle.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        chown(volume.join("file"), Some(3), Some(4)).unwrap();
        let mount = json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["bind", "idmap"] });
        config::add_mount(&mut bundle.config, mount);
        bundle.sh("stat -c '%u %g' /volume/file");
        assert_eq!(face.run(&sandbox, &bundle).ok(), "3 4\n", "{face:?}");
        pod.end();
    }
}

#[test]
fn namespaces_of_the_host_are_joined_beside_one() {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let pod = Pod::up(&sandbox, &[]);
        // Not the pod's: only the host's privileges let it in.
        let mut other = sandbox.command("unshare").args(["--uts", "sh", "-c", "echo up; exec sleep 1000"]).start();
        other.output_until(|text| text.contains("up"));
        let uts = format!("/proc/{}/ns/uts", other.pid());
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh("readlink /proc/self/ns/uts; readlink /proc/self/ns/user");
        bundle.config["hostname"] = Value::Null;
        bundle.config["linux"]["namespaces"] = json!([
            { "type": "user", "path": pod.path("user") }, { "type": "uts", "path": uts },
            { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "network" },
        ]);
        owned_by_first(&bundle);
        let printed = face.run(&sandbox, &bundle).ok();
        let uts = fs::read_link(&uts).unwrap().to_string_lossy().into_owned();
        assert_eq!(printed, format!("{uts}\n{}\n", pod.namespace("user")), "{face:?}");
        other.signal(rustix::process::Signal::KILL);
        other.finish();
        pod.end();
    }
}

#[test]
fn an_exec_enters_a_joined_user_namespace() {
    let sandbox = Sandbox::new();
    let pod = Pod::up(&sandbox, &["--net", "--ipc", "--uts"]);
    let container = Container::new(|bundle| {
        bundle.live_until_term(7);
        join(bundle, &pod);
    })
    .up();
    let printed = container.oci(&["exec", &container.id, "sh", "-c", "id -u; readlink /proc/self/ns/user"]).run().ok();
    assert_eq!(printed, format!("0\n{}\n", pod.namespace("user")));
    container.end();
    container.call(&["delete"]).ok();
    pod.end();
}

#[test]
fn mappings_beside_a_path_must_be_those_of_the_namespace() {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let pod = Pod::up(&sandbox, &["--net", "--ipc", "--uts"]);
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh("id -u");
        join(&mut bundle, &pod);
        let mut with = |size: u32| {
            let map = json!([{ "containerID": 0, "hostID": FIRST, "size": size }]);
            bundle.config["linux"]["uidMappings"] = map.clone();
            bundle.config["linux"]["gidMappings"] = map;
            face.run(&sandbox, &bundle)
        };
        assert_eq!(with(65536).ok(), "0\n", "{face:?}");
        let refused = with(65535);
        assert_ne!(refused.code(), 0, "{face:?}");
        if !binaries::oracle() {
            let line = refused.one_line_error();
            assert!(line.contains("linux.uidMappings: not those of the user namespace"), "{face:?}: {line}");
        }
        pod.end();
    }
}

#[test]
fn what_is_no_user_namespace_is_refused_by_its_field() {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        config::push(&mut bundle.config["linux"]["namespaces"], json!({ "type": "user", "path": "/proc/self/ns/net" }));
        let refused = face.run(&sandbox, &bundle);
        assert_ne!(refused.code(), 0, "{face:?}");
        if !binaries::oracle() {
            let line = refused.one_line_error();
            assert!(line.contains("linux.namespaces[4].path: /proc/self/ns/net: not a user namespace"), "{line}");
        }
    }
}

fn mapped(bundle: &mut Bundle, mappings: &Value) {
    config::add_namespace(&mut bundle.config, "user");
    // sysfs may be mounted only by the owner of the network namespace.
    config::add_namespace(&mut bundle.config, "network");
    bundle.config["linux"]["uidMappings"] = mappings.clone();
    bundle.config["linux"]["gidMappings"] = mappings.clone();
    owned_by_first(bundle);
}

#[test]
fn several_mappings_hold_and_the_user_is_mapped() {
    let mappings = json!([
        { "containerID": 0, "hostID": FIRST, "size": 1 },
        { "containerID": 1, "hostID": 200_001, "size": 999 },
        { "containerID": 5000, "hostID": 300_000, "size": 7 },
    ]);
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh("id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map; echo made >/tmp/file");
        mapped(&mut bundle, &mappings);
        bundle.config["process"]["user"] = json!({ "uid": 5003, "gid": 17 });
        let printed = face.run(&sandbox, &bundle).ok();
        let words: Vec<&str> = printed.split_whitespace().collect();
        let map = ["0", "100000", "1", "1", "200001", "999", "5000", "300000", "7"];
        assert_eq!(words, [&["5003", "17"][..], &map, &map].concat(), "{face:?}");
        let made = fs::metadata(bundle.rootfs().join("tmp/file")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((made.uid(), made.gid()), (300_003, 200_017), "{face:?}");
    }
}

#[test]
fn limits_and_the_oom_score_are_set_from_outside() {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh("cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; ulimit -c");
        mapped(&mut bundle, &json!([{ "containerID": 0, "hostID": FIRST, "size": 65536 }]));
        bundle.config["process"]["oomScoreAdj"] = json!(321);
        bundle.config["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        ]);
        assert_eq!(face.run(&sandbox, &bundle).ok(), "321\n100\n200\n0\n", "{face:?}");
    }
}
