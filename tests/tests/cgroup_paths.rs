//! Where a container's cgroups are: what `linux.cgroupsPath` may say, what is found there, and where an exec may go.
//!
//! Machines with cgroup v1 in a hybrid; the guest has tests of its own in `limits` and `update`.

use std::fs;
use std::path::{Path, PathBuf};

use brood_tests::cgroups::{self, Layout};
use brood_tests::{Bundle, Container, Output, Sandbox, binaries};
use serde_json::json;

/// Cgroups of the test, removed again.
struct Made(Vec<PathBuf>);

impl Made {
    fn new(paths: impl IntoIterator<Item = PathBuf>) -> Made {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        paths
            .iter()
            .for_each(|path| fs::create_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        Made(paths)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

fn hierarchy(controller: &str) -> &'static Path {
    Path::new(match controller {
        "unified" => "/sys/fs/cgroup/unified",
        "cpu" => "/sys/fs/cgroup/cpu",
        "cpuset" => "/sys/fs/cgroup/cpuset",
        "freezer" => "/sys/fs/cgroup/freezer",
        "memory" => "/sys/fs/cgroup/memory",
        other => panic!("{other}"),
    })
}

fn run(path: &str, resources: &serde_json::Value) -> (Sandbox, Output) {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.args(&["cat", "/proc/self/cgroup"]);
    bundle.config["linux"]["cgroupsPath"] = json!(path);
    bundle.config["linux"]["resources"] = resources.clone();
    bundle.write();
    let output = sandbox.oci().args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run();
    (sandbox, output)
}

/// `..` does not lead above a hierarchy, nor beside a place: CVE-2016-8867's kind of mistake.
#[test]
fn a_path_does_not_lead_out_of_its_hierarchy() {
    let token = Sandbox::new().token().to_owned();
    for path in [format!("/{token}/../../{token}"), format!("../../../../{token}"), "/..".to_owned()] {
        let (sandbox, output) = run(&path, &json!({}));
        assert!(!Path::new("/sys/fs").join(&token).exists() && !Path::new("/sys/fs/cgroup").join(&token).exists());
        if !binaries::oracle() {
            let line = output.one_line_error();
            assert!(line.contains("linux.cgroupsPath"), "{path}: {output}");
        }
        assert!(sandbox.containers().is_empty());
    }
}

/// What somebody prepared is found, with its limits: a pod's cgroup above the container's, in hierarchies too that the
/// container would not need.
#[test]
fn a_container_is_below_its_pod_in_every_hierarchy_that_has_it() {
    let pod = format!("pod-{}", Sandbox::new().token());
    let made = Made::new(["cpu", "cpuset"].map(|controller| hierarchy(controller).join(&pod)));
    fs::write(made.0[0].join("cpu.cfs_quota_us"), "50000").unwrap();
    let (_sandbox, output) = run(&format!("/{pod}/box"), &json!({}));
    let places = output.ok();
    for controller in ["cpu", "cpuset"] {
        let place = format!(":{controller}:/{pod}/box");
        assert!(places.lines().any(|line| line.ends_with(&place)), "{place} is not in {places}");
    }
    assert!(!made.0[0].join("box").exists() && made.0[0].exists(), "what was made is removed, and nothing else");
    let (_sandbox, refused) = run(&format!("/{pod}/box"), &json!({ "cpu": { "quota": 60_000 } }));
    assert!(
        binaries::oracle() || refused.one_line_error().contains("linux.resources.cpu.quota: write 60000"),
        "{refused}"
    );
    let (_sandbox, less) = run(&format!("/{pod}/box"), &json!({ "cpu": { "quota": 3000, "period": 10_000 } }));
    less.ok();
}

#[test]
fn a_frozen_cgroup_is_refused() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc 1.1 enters a frozen cgroup v2, and waits for ever");
        return;
    }
    for (controller, file, value) in [("freezer", "freezer.state", "FROZEN"), ("unified", "cgroup.freeze", "1")] {
        let name = format!("frozen-{}", Sandbox::new().token());
        let made = Made::new([hierarchy(controller).join(&name)]);
        fs::write(made.0[0].join(file), value).unwrap();
        let (sandbox, refused) = run(&format!("/{name}"), &json!({}));
        assert!(refused.one_line_error().contains("container's cgroup unexpectedly frozen"), "{refused}");
        assert!(sandbox.containers().is_empty() && made.0[0].exists());
    }
}

/// A cgroup whose name merely begins like the container's is not below it.
#[test]
fn an_exec_stays_below_the_containers_cgroup() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc compares paths as texts, and enters the sibling");
        return;
    }
    let container = Container::new(|bundle| bundle.live_until_term(7)).up();
    let own = cgroups::directory(container.pid(), "memory");
    let name = own.file_name().unwrap().to_str().unwrap().to_owned();
    let beside = Made::new([own.with_file_name(format!("{name}-beside"))]);
    let inside = Made::new([own.join("inside")]);
    let exec = |path: &str| container.oci(&["exec", "--cgroup", path, &container.id, "cat", "/proc/self/cgroup"]).run();
    let memory = |output: Output| {
        let text = output.ok();
        text.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path.to_owned())).unwrap()
    };
    let place = memory(exec("memory:/"));
    assert_eq!(memory(exec("memory:inside")), format!("{place}/inside"));
    assert_eq!(memory(exec("memory:/./inside/")), format!("{place}/inside"));
    for path in [
        format!("memory:../{name}-beside"),
        format!("memory:inside/../../{name}-beside"),
        "memory:-beside".to_owned(),
        "memory:..".to_owned(),
        "..".to_owned(),
        "nonesuch:/".to_owned(),
        "memory:nonesuch".to_owned(),
    ] {
        let refused = exec(&path);
        // 255 is exec's status when nothing ran.
        assert_eq!(refused.code(), 255, "{path}: {refused}");
        assert!(refused.one_line_error().contains("cgroup"), "{path}: {refused}");
    }
    assert!(fs::read_to_string(beside.0[0].join("cgroup.procs")).unwrap().is_empty());
    drop((inside, beside));
    container.call(&["delete", "--force"]).ok();
}

/// On cgroup v1 alone the freezer tells.
#[test]
fn a_paused_container_is_paused_on_every_layout() {
    for layout in [Layout::Hybrid, Layout::V1] {
        let container = Container::new(|bundle| bundle.live_until_term(7));
        let oci = |args: &[&str]| layout.oci(&container.sandbox).args(args).arg(&container.id).run();
        let create = layout.oci(&container.sandbox).args(["create", "--bundle"]).arg(container.bundle.path());
        create.arg(&container.id).run().ok();
        oci(&["start"]).ok();
        container.bundle.await_up();
        oci(&["pause"]).ok();
        assert!(oci(&["state"]).ok().contains("\"paused\""));
        assert!(layout.oci(&container.sandbox).arg("list").run().ok().contains("paused"));
        let pids = layout.oci(&container.sandbox).args(["ps", "--format", "json", &container.id]).run().ok();
        assert_eq!(serde_json::from_str::<Vec<i32>>(&pids).unwrap().len(), 2, "{pids}");
        oci(&["resume"]).ok();
        assert!(oci(&["state"]).ok().contains("\"running\""));
        oci(&["delete", "--force"]).ok();
    }
}
