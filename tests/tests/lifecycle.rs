//! The OCI runtime command: create, start, state, kill, delete, list and what callers rely on beside them.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test lifecycle` asks the same of runc.

use std::fs;
use std::path::Path;

use brood_tests::procfs::process;
use brood_tests::{Bundle, Container, Sandbox, binaries, waiting};
use serde_json::{Value, json};

#[test]
fn create_parks_and_start_releases() {
    let container = Container::new(|bundle| bundle.sh("echo $$ > /ran"));
    let ran = container.bundle.rootfs().join("ran");
    container.create();
    assert_eq!(container.status(), "created");
    assert!(!ran.exists(), "the program ran before `start`");
    let pid = container.pid();
    assert!(process(pid).is_some(), "the init process exists");
    container.call(&["start"]).ok();
    waiting::gone(pid);
    assert_eq!(fs::read_to_string(ran).unwrap(), "1\n");
    assert_eq!(container.status(), "stopped");
    container.call(&["delete"]).ok();
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn state_has_the_fields_of_the_specification() {
    let container = Container::new(|bundle| {
        bundle.live_until_term(0);
        bundle.config["annotations"] = json!({ "org.example.colour": "brown" });
    })
    .up();
    let state = container.state();
    assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
    assert_eq!(state["id"], json!(container.id));
    assert_eq!(state["status"], "running");
    assert_eq!(state["bundle"], json!(container.bundle.path()));
    assert_eq!(state["annotations"]["org.example.colour"], "brown");
    assert!(process(container.pid()).unwrap().cmdline.starts_with("sh -c"));
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn state_after_the_init_process_has_died() {
    let container = Container::long_lived().up();
    container.end();
    assert_eq!(container.status(), "stopped");
    container.call(&["start"]).one_line_error();
    container.oci(&["kill", &container.id, "TERM"]).run().one_line_error();
    container.call(&["delete"]).ok();
}

/// Signal 0 asks and sends nothing; with the obsolete `--all` a stopped container is no error (runc's kill.bats).
#[test]
fn signal_0_only_asks() {
    let container = Container::long_lived().up();
    let ask = |options: &[&str]| container.oci(&["kill"]).args(options).args([&container.id, "0"]).run();
    ask(&[]).ok();
    ask(&["--all"]).ok();
    assert_eq!(container.status(), "running");
    container.end();
    assert!(ask(&[]).one_line_error().contains("container not running"));
    ask(&["--all"]).ok();
    container.call(&["delete"]).ok();
}

/// As the first process of its pid namespace a container that waits for its start would not even receive them.
#[test]
fn a_created_container_ends_when_it_is_asked_to() {
    for signal in ["HUP", "INT", "QUIT", "TERM"] {
        let container = Container::long_lived();
        container.create();
        let pid = container.pid();
        container.oci(&["kill", &container.id, signal]).run().ok();
        waiting::gone(pid);
        assert_eq!(container.status(), "stopped", "{signal}");
        container.call(&["start"]).one_line_error();
        container.call(&["delete"]).ok();
    }
}

#[test]
fn start_is_for_created_containers_only() {
    let container = Container::long_lived().up();
    container.call(&["start"]).one_line_error();
    assert_eq!(container.status(), "running");
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn kill_takes_names_and_numbers() {
    let container = Container::new(|bundle| {
        bundle.sh("for s in HUP USR1 USR2 TERM; do trap \"echo $s >> /got\" $s; done; touch /tmp/up; \
                   while :; do sleep 1000 & wait; done");
    })
    .up();
    let got = container.bundle.rootfs().join("got");
    let mut expected = String::new();
    for (given, meant) in [("HUP", "HUP"), ("SIGUSR1", "USR1"), ("12", "USR2"), ("TERM", "TERM")] {
        container.oci(&["kill", &container.id, given]).run().ok();
        expected += &format!("{meant}\n");
        waiting::until(given, || (fs::read_to_string(&got).ok()? == expected).then_some(()));
    }
    container.call(&["kill"]).ok();
    expected += "TERM\n";
    waiting::until("SIGTERM as the default", || (fs::read_to_string(&got).ok()? == expected).then_some(()));
    for wrong in ["NOSUCH", "SIGNOSUCH", "x9"] {
        container.oci(&["kill", &container.id, wrong]).run().one_line_error();
    }
    container.end();
    container.call(&["delete"]).ok();
}

#[test]
fn delete_refuses_what_runs() {
    let container = Container::long_lived().up();
    let refused = container.call(&["delete"]);
    assert!(refused.one_line_error().contains(&container.id) || refused.stderr.contains("running"), "{refused}");
    assert_eq!(container.status(), "running");
    let pid = container.pid();
    container.call(&["delete", "--force"]).ok();
    waiting::gone(pid);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn delete_takes_a_created_container() {
    let container = Container::long_lived();
    container.create();
    let pid = container.pid();
    container.call(&["delete", "--force"]).ok();
    waiting::gone(pid);
    assert!(!container.bundle.rootfs().join("tmp/up").exists());
}

#[test]
fn delete_with_force_does_not_mind_a_missing_container() {
    Container::long_lived().call(&["delete", "--force"]).ok();
}

#[test]
fn a_missing_container_is_said_to_be_missing() {
    let container = Container::long_lived();
    for command in ["state", "start", "delete", "kill"] {
        let output = container.call(&[command]);
        assert!(output.one_line_error().contains("container does not exist"), "{output}");
    }
}

#[test]
fn a_name_is_given_once() {
    let container = Container::long_lived();
    container.create();
    let pid = container.pid();
    for command in ["create", "run"] {
        let output = container.oci(&[command, "--bundle"]).arg(container.bundle.path()).arg(&container.id).run();
        assert!(output.one_line_error().contains("exist"), "{output}");
    }
    assert_eq!((container.status().as_str(), container.pid()), ("created", pid));
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn list_as_table_json_and_names() {
    let container = Container::long_lived();
    fs::create_dir(container.sandbox.root()).unwrap();
    assert_eq!(container.oci(&["list", "-q"]).run().ok(), "");
    let container = container.up();
    let (id, pid) = (container.id.as_str(), container.pid());

    let table = container.oci(&["list"]).run().ok();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let bundle = container.bundle.path().to_str().unwrap();
    assert_eq!(lines[1][..4], [id, &pid.to_string(), "running", bundle]);
    assert_eq!(lines.len(), 2);

    assert_eq!(container.oci(&["list", "-q"]).run().ok(), format!("{id}\n"));
    let json: Value = serde_json::from_str(&container.oci(&["list", "--format", "json"]).run().ok()).unwrap();
    assert_eq!(json.as_array().map(Vec::len), Some(1));
    assert_eq!((&json[0]["id"], &json[0]["pid"], &json[0]["status"]), (&json!(id), &json!(pid), &json!("running")));
    container.oci(&["list", "--format", "poem"]).run().one_line_error();
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn options_in_every_place() {
    let container = Container::new(|bundle| bundle.args(&["echo", "hello"]));
    let bundle = container.bundle.path().to_str().unwrap();
    let equals = format!("--bundle={bundle}");
    let mut lines: Vec<Vec<&str>> = vec![
        vec!["run", &equals, &container.id],
        vec!["run", "--bundle", bundle, &container.id],
        vec!["run", "-b", bundle, &container.id],
    ];
    if !binaries::oracle() {
        lines.push(vec!["run", &container.id, "--bundle", bundle]);
        lines.push(vec!["run", &container.id, &equals]);
    }
    for line in lines {
        assert_eq!(container.oci(&line).run().ok(), "hello\n", "{line:?}");
    }
    let here = container.oci(&["run", &container.id]).current_dir(bundle).run();
    assert_eq!(here.ok(), "hello\n", "the bundle is the working directory by default");
}

#[test]
fn pid_files_and_detached_runs() {
    let container = Container::long_lived();
    let pid_file = container.sandbox.path("pid");
    let words = ["run", "--detach", "--pid-file", pid_file.to_str().unwrap(), "--bundle"];
    container.oci(&words).arg(container.bundle.path()).arg(&container.id).run().ok();
    container.bundle.await_up();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), container.pid().to_string());
    container.call(&["delete", "--force"]).ok();

    fs::remove_file(&pid_file).unwrap();
    let words = ["create", "--pid-file", pid_file.to_str().unwrap(), "--bundle"];
    container.oci(&words).arg(container.bundle.path()).arg(&container.id).run().ok();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), container.pid().to_string());
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn spec_writes_once() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("fresh");
    fs::create_dir(&directory).unwrap();
    sandbox.oci().arg("spec").current_dir(&directory).run().ok();
    let config: Value = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["terminal"], true);
    assert_eq!(config["root"]["path"], "rootfs");
    let refused = sandbox.oci().arg("spec").arg("--bundle").arg(&directory).run();
    assert!(refused.one_line_error().contains("exist"), "{refused}");
}

#[test]
fn spec_can_be_run() {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    sandbox.oci().args(["spec", "--bundle"]).arg(bundle.path()).run().ok();
    bundle.config = serde_json::from_slice(&fs::read(bundle.config_path()).unwrap()).unwrap();
    bundle.config["process"]["terminal"] = json!(false);
    bundle.sh("hostname && touch /etc/x 2> /dev/null || echo read-only");
    bundle.write();
    let output = sandbox.oci().args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run().expect(0);
    assert!(output.stdout.ends_with("read-only\n"), "{output}");
}

#[test]
fn features_are_json() {
    let sandbox = Sandbox::new();
    let features: Value = serde_json::from_str(&sandbox.oci().arg("features").run().ok()).unwrap();
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(), "{features}");
    let namespaces = features["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!("pid")) && namespaces.contains(&json!("user")), "{features}");
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("nosuid")), "{features}");
}

#[test]
fn version_names_program_and_specification() {
    let sandbox = Sandbox::new();
    let text = sandbox.oci().arg("--version").run().ok();
    assert!(text.contains("version") && text.contains("spec: 1."), "{text}");
    if !binaries::oracle() {
        assert_eq!(sandbox.oci().arg("version").run().ok(), text);
    }
}

#[test]
fn errors_go_to_the_log_file() {
    let container = Container::long_lived();
    for given in ["log", "file:log"] {
        if given.starts_with("file:") && binaries::oracle() {
            continue;
        }
        let log = container.sandbox.path("log");
        let argument = given.replace("log", log.to_str().unwrap());
        container.oci(&["--log", &argument, "--log-format", "json", "state", &container.id]).run();
        let record = last_json_line(&log);
        assert_eq!(record["level"], "error");
        assert!(record["msg"].as_str().unwrap().contains("container does not exist"), "{record}");
        assert!(record["time"].as_str().unwrap().contains('T'), "{record}");
        fs::remove_file(log).unwrap();
    }
    let log = container.sandbox.path("text");
    container.oci(&["--log", log.to_str().unwrap(), "state", &container.id]).run();
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("level=error") && text.contains("msg=") && text.contains("time="), "{text}");
}

#[test]
fn run_gives_the_exit_status_and_leaves_nothing() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("sh -c 'kill -9 $$'; exit $?", 137)] {
        let container = Container::new(|bundle| bundle.sh(script));
        container.oci(&["run", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run().expect(code);
        assert_eq!(container.sandbox.containers(), Vec::<String>::new());
    }
}

fn last_json_line(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("the log was written");
    serde_json::from_str(text.lines().last().expect("a line")).expect("a line of JSON")
}

#[test]
fn a_parked_container_runs_no_file_that_it_could_overwrite() {
    // CVE-2019-5736: until its exec a container's process runs the runtime's own binary.
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: where it keeps its binary is its own affair");
        return;
    }
    let container = Container::long_lived();
    container.create();
    let pid = container.state()["pid"].as_i64().unwrap();
    let running = fs::metadata(format!("/proc/{pid}/exe")).unwrap();
    let on_disk = fs::metadata(binaries::oci()).unwrap();
    let identity =
        |file: &fs::Metadata| (std::os::unix::fs::MetadataExt::dev(file), std::os::unix::fs::MetadataExt::ino(file));
    assert_eq!(running.len(), on_disk.len(), "it is a copy of the binary");
    assert_ne!(identity(&running), identity(&on_disk));
    container.call(&["delete", "--force"]).ok();
}
