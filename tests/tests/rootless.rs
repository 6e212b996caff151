//! Containers of an ordinary user: with their own id alone, and with those that newuidmap gives them.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test rootless` asks the same of runc.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use brood_tests::cgroups::Layout;
use brood_tests::systemd::Systemd;
use brood_tests::{Bundle, Cmd, Sandbox, binaries, waiting};
use serde_json::{Value, json};

/// The user; no passwd file of the machine knows them.
const USER: u32 = 54_321;
/// Their subordinate ids begin here.
const SUBORDINATE: u32 = 700_000;

/// Becomes the user, on a machine that knows their name and their subordinate ids: in a mount namespace whose /etc has
/// been given these files.
const BECOME: &str = r#"for f in passwd subuid subgid; do mount --bind "$0/$f" /etc/$f || exit 99; done
exec setpriv --reuid 54321 --regid 54321 --clear-groups "$@""#;

/// A user with a bundle and a state root of their own.
struct User {
    sandbox: Sandbox,
    bundle: Bundle,
    id: String,
}

impl User {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let etc = sandbox.path("etc");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("passwd"), format!("root:x:0:0::/:/bin/sh\nnest:x:{USER}:{USER}::/:/bin/sh\n")).unwrap();
        for file in ["subuid", "subgid"] {
            fs::write(etc.join(file), format!("nest:{SUBORDINATE}:65536\n")).unwrap();
            // The machine may have none yet to be covered.
            assert!(Path::new("/etc").join(file).exists(), "/etc/{file} is missing; install uidmap and passwd");
        }
        fs::create_dir(sandbox.root()).unwrap();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.config = template(&sandbox);
        let user = Self { id: sandbox.id("box"), bundle, sandbox };
        for path in [user.sandbox.root(), user.bundle.path().to_owned()] {
            give(&path);
        }
        user
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        let wrapper = self.sandbox.command("unshare").args(["--mount", "sh", "-c", BECOME]);
        wrapper.arg(self.sandbox.path("etc")).arg(program)
    }

    fn oci(&self, args: &[&str]) -> Cmd {
        self.command(binaries::oci()).arg("--root").arg(self.sandbox.root()).args(args)
    }

    fn run(&self) -> brood_tests::Output {
        self.bundle.write();
        self.oci(&["run", "--bundle"]).arg(self.bundle.path()).arg(&self.id).run()
    }

    /// Asks for subordinate ids as well: root is the user, the rest are those.
    fn map_more(&mut self) {
        let mappings = json!([
            { "containerID": 0, "hostID": USER, "size": 1 },
            { "containerID": 1, "hostID": SUBORDINATE, "size": 65536 },
        ]);
        self.bundle.config["linux"]["uidMappings"] = mappings.clone();
        self.bundle.config["linux"]["gidMappings"] = mappings;
    }
}

/// `spec --rootless`, as that user.
fn template(sandbox: &Sandbox) -> Value {
    let directory = sandbox.path("template");
    fs::create_dir(&directory).unwrap();
    give(&directory);
    let id = USER.to_string();
    let user = sandbox.command("setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    user.arg(binaries::oci()).args(["spec", "--rootless", "--bundle"]).arg(&directory).run().ok();
    let mut config: Value = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["root"]["readonly"] = false.into();
    config
}

/// Makes the tree theirs.
fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

#[test]
fn the_template_runs_as_it_is() {
    let mut user = User::new();
    user.bundle.sh("id -u; cat /proc/self/uid_map /proc/self/gid_map; test -c /dev/null && echo made >/tmp/file");
    let printed = user.run().ok();
    let words: Vec<&str> = printed.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "54321", "1", "0", "54321", "1"], "{printed}");
    let made = fs::metadata(user.bundle.rootfs().join("tmp/file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (USER, USER));
    assert_eq!(user.sandbox.containers(), Vec::<String>::new());
}

/// The whole life of a container.
fn live(mut user: User, map: &str) {
    user.bundle.live_until_term(7);
    user.bundle.write();
    let id = user.id.clone();
    user.oci(&["create", "--bundle"]).arg(user.bundle.path()).arg(&id).run().ok();
    let state = |key: &str| {
        let state: Value = serde_json::from_str(&user.oci(&["state", &id]).run().ok()).unwrap();
        state[key].clone()
    };
    assert_eq!(state("status"), "created");
    assert_eq!(user.oci(&["exec", &id, "id", "-u"]).run().ok(), "0\n");
    user.oci(&["start", &id]).run().ok();
    user.bundle.await_up();
    assert_eq!(state("status"), "running");
    let listed = user.oci(&["list", "--quiet"]).run().ok();
    assert_eq!(listed, format!("{id}\n"));
    let script = "cat /proc/self/uid_map; for n in user pid mnt uts; do readlink /proc/self/ns/$n /proc/1/ns/$n; done";
    let printed = user.oci(&["exec", &id, "sh", "-c", &script.replace(" /proc/1", "; readlink /proc/1")]).run().ok();
    let words: Vec<&str> = printed.split_whitespace().collect();
    let (mapped, namespaces) = words.split_at(words.len() - 8);
    assert_eq!(mapped.join(" "), map);
    for pair in namespaces.chunks(2) {
        assert_eq!(pair[0], pair[1], "the exec is in all namespaces of the container");
    }
    let pid = i32::try_from(state("pid").as_i64().unwrap()).unwrap();
    user.oci(&["kill", &id, "TERM"]).run().ok();
    waiting::gone(pid);
    assert_eq!(state("status"), "stopped");
    user.oci(&["delete", &id]).run().ok();
    assert_eq!(user.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn a_container_lives_with_the_own_id_alone() {
    live(User::new(), "0 54321 1");
}

#[test]
fn a_container_lives_with_subordinate_ids() {
    let mut user = User::new();
    user.map_more();
    live(user, "0 54321 1 1 700000 65536");
}

#[test]
fn subordinate_ids_can_be_used() {
    let mut user = User::new();
    user.map_more();
    user.bundle.sh("id -u; id -g; grep Groups /proc/self/status; echo made >/tmp/file");
    user.bundle.config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [7] });
    let printed = user.run().ok();
    assert!(printed.starts_with("5\n6\nGroups:") && printed.contains('7'), "{printed}");
    let file = user.bundle.rootfs().join("tmp/file");
    let made = fs::metadata(&file).unwrap();
    assert_eq!((made.uid(), made.gid()), (SUBORDINATE + 4, SUBORDINATE + 5));
    chown(file, Some(USER), Some(USER)).unwrap();
}

#[test]
fn foreign_ids_are_refused_by_the_field() {
    let mut user = User::new();
    user.map_more();
    user.bundle.config["linux"]["uidMappings"][1]["hostID"] = json!(0);
    let output = user.run();
    assert_ne!(output.code(), 0, "{output}");
    if !binaries::oracle() {
        let line = output.one_line_error();
        assert!(line.contains("linux.uidMappings") && line.contains("newuidmap"), "{line}");
    }
    assert_eq!(user.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn what_takes_root_is_refused_or_left_out() {
    let mut user = User::new();
    user.bundle.sh("id -u");
    let run = |user: &User| {
        let output = user.run();
        assert_ne!(output.code(), 0, "{output}");
        output
    };
    user.bundle.config["process"]["user"]["additionalGids"] = json!([5]);
    let groups = run(&user);
    user.bundle.config["process"]["user"]["additionalGids"] = Value::Null;
    let with_users = user.bundle.config.clone();
    for field in ["uidMappings", "gidMappings"] {
        user.bundle.config["linux"][field] = Value::Null;
    }
    user.bundle.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|entry| entry["type"] != "user");
    let namespaces = run(&user);
    if !binaries::oracle() {
        assert!(groups.one_line_error().contains("process.user.additionalGids: "), "{groups}");
        assert!(namespaces.one_line_error().contains("linux.namespaces: an ordinary user needs"), "{namespaces}");
        user.bundle.config = with_users;
        user.bundle.sh("cat /proc/self/oom_score_adj");
        user.bundle.config["process"]["oomScoreAdj"] = json!(-1000);
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert_eq!(user.run().ok(), own);
    }
}

/// A limit that the user may not set is refused by its name: a container without it would not be what was asked for.
#[test]
fn limits_take_a_writable_cgroup() {
    let mut user = User::new();
    user.bundle.sh("echo up");
    for (name, resources) in [
        ("memory.limit", json!({ "memory": { "limit": 64 << 20 } })),
        ("pids.limit", json!({ "pids": { "limit": 20 } })),
        ("cpu.quota", json!({ "cpu": { "quota": 50_000, "period": 100_000 } })),
    ] {
        user.bundle.config["linux"]["resources"] = resources;
        let refused = user.run();
        assert_eq!(refused.stdout, "", "{refused}");
        if !binaries::oracle() {
            let line = format!("linux.resources.{name}: the host has no writable cgroup hierarchy");
            assert!(refused.one_line_error().contains(&line), "{refused}");
        }
    }
}

#[test]
fn state_goes_below_the_users_runtime_directory() {
    let mut user = User::new();
    user.bundle.live_until_term(7);
    user.bundle.write();
    let runtime = user.sandbox.path("runtime");
    fs::create_dir(&runtime).unwrap();
    give(&runtime);
    let oci = |args: &[&str]| user.command(binaries::oci()).env("XDG_RUNTIME_DIR", &runtime).args(args);
    oci(&["create", "--bundle"]).arg(user.bundle.path()).arg(&user.id).run().ok();
    if !binaries::oracle() {
        assert!(runtime.join("brood").join(&user.id).join("state.json").is_file());
    }
    oci(&["delete", "--force", &user.id]).run().ok();
}

#[test]
fn brood_runs_bundles_and_roots_without_a_daemon() {
    let mut user = User::new();
    user.bundle.sh("id -u; cat /proc/self/uid_map; exit 5");
    user.bundle.write();
    let brood = |args: &[&str]| user.command(binaries::brood()).arg("--root").arg(user.sandbox.root()).args(args);
    let (bundle, rootfs) = (user.bundle.path().to_owned(), user.bundle.rootfs());
    let output = brood(&["run", "--bundle"]).arg(&bundle).run().expect(5);
    assert_eq!(output.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "0", "54321", "1"]);
    assert_eq!(output.stderr, "");
    let output = brood(&["run", "--rootfs"]).arg(&rootfs).args(["--", "id", "-u"]).run();
    assert_eq!(output.ok(), "0\n");
    let refused = brood(&["run", "--", "true"]).run().expect(125);
    assert!(refused.one_line_error().contains("--rootfs or --bundle"), "{refused}");
    assert_eq!(user.sandbox.containers(), Vec::<String>::new());
}

/// How their systemd is asked.
#[derive(PartialEq)]
enum Way {
    /// On its own socket.
    Directly,
    /// On the session's bus.
    ByBus,
}

/// A container as a scope of their own systemd's. What needs no controller
/// holds on every host: it is born in there, frozen, entered and removed.
fn live_by_way_of_systemd(layout: Layout, ways: &[Way], limits: &Value, look: impl Fn(&Path, &dyn Fn(&str) -> String)) {
    let mut user = User::new();
    let systemd = Systemd::start_on(&user.sandbox, layout);
    let as_user = systemd.log_in(&user.sandbox, USER);
    let run = |program: &str, args: &[&str]| {
        let (first, words) = as_user.split_first().unwrap();
        user.sandbox.command(first).args(words).arg(program).args(args).run()
    };
    // As a login's shell does: in a scope.
    let oci = |args: &[&str]| {
        let (program, root) = (binaries::oci(), user.sandbox.root());
        let [program, root] = [&program, &root].map(|path| path.to_str().unwrap());
        let scope = ["--user", "--scope", "--quiet", program, "--root", root, "--systemd-cgroup"];
        run("systemd-run", &[&scope[..], args].concat())
    };
    user.bundle.args(&["sleep", "1000"]);
    user.bundle.config["linux"]["cgroupsPath"] = json!("own.slice:pre:box");
    user.bundle.config["linux"]["resources"] = limits.clone();
    user.bundle.write();
    let (id, unit, bundle) = (user.id.as_str(), "pre-box.scope", user.bundle.path().to_str().unwrap().to_owned());
    let property = |name: &str| {
        let shown = run("systemctl", &["--user", "show", "--value", "--property", name, unit]);
        shown.ok().trim_end().to_owned()
    };
    let scope = systemd.cgroup(&format!("user.slice/manager-{USER}.service/own.slice/{unit}"));
    for way in ways {
        if *way == Way::ByBus {
            run("systemctl", &["--user", "start", "dbus.service"]).ok();
        }
        oci(&["run", "--detach", "--bundle", &bundle, id]).ok();
        assert_eq!((property("ActiveState"), property("Delegate")), ("active".to_owned(), "yes".to_owned()));
        let members = fs::read_to_string(scope.join("cgroup.procs")).unwrap();
        assert_eq!(members.lines().count(), 1, "the container's process is alone in there");
        look(&scope, &property);
        oci(&["exec", id, "true"]).ok();
        oci(&["pause", id]).ok();
        assert_eq!(fs::read_to_string(scope.join("cgroup.freeze")).unwrap().trim(), "1");
        oci(&["resume", id]).ok();
        oci(&["delete", "--force", id]).ok();
        assert!(!scope.exists());
        assert_eq!(property("LoadState"), "not-found");
        assert_eq!(user.sandbox.containers(), Vec::<String>::new());
    }
    if layout == Layout::Hybrid {
        user.bundle.config["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
        user.bundle.write();
        let refused = oci(&["run", "--bundle", &bundle, id]);
        let expected = "linux.resources.pids.limit: the host has no writable cgroup hierarchy with the pids controller";
        assert!(refused.one_line_error().contains(expected), "{refused}");
        assert!(!scope.exists());
    }
}

#[test]
fn a_container_is_a_scope_of_their_own_systemd() {
    live_by_way_of_systemd(Layout::V2, &[Way::Directly, Way::ByBus], &json!({}), |_, _| {});
}

/// Nobody gives cgroup v1 to an ordinary user: limits of it are refused, and the rest is as on cgroup v2.
#[test]
fn a_container_is_a_scope_of_their_own_systemd_on_a_hybrid_host() {
    live_by_way_of_systemd(Layout::Hybrid, &[Way::Directly, Way::ByBus], &json!({}), |_, _| {});
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn limits_are_properties_of_their_own_systemds_units() {
    let limits = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
    live_by_way_of_systemd(Layout::V2, &[Way::Directly], &limits, |scope, property| {
        let file = |name: &str| fs::read_to_string(scope.join(name)).unwrap().trim().to_owned();
        assert_eq!((property("MemoryMax"), file("memory.max")), ("67108864".to_owned(), "67108864".to_owned()));
        assert_eq!((property("TasksMax"), file("pids.max")), ("50".to_owned(), "50".to_owned()));
    });
}
