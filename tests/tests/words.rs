//! What callers of an OCI runtime read: one line for each failure, in words that they look for, and what they pass in.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test words` asks the same of runc.

use std::fs;

use brood_tests::{Bundle, Container, Output, Sandbox, binaries};
use serde_json::{Value, json};

/// Insists on a failure that is told by one line of ours with these words in it.
#[track_caller]
fn fails(output: &Output, words: &[&str]) {
    // Foreign runtimes print their usage as well.
    let line = if binaries::oracle() { &output.stderr } else { output.one_line_error() };
    assert_ne!(output.code(), 0, "{output}");
    if !binaries::oracle() {
        assert!(line.starts_with("time=\"") && line.contains("\" level=error msg=\""), "{output}");
        assert_eq!(output.stdout, "", "{output}");
    }
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {output}");
    }
}

/// Words of ours only.
fn ours<'a>(words: &'a [&'a str]) -> &'a [&'a str] {
    if binaries::oracle() { &[] } else { words }
}

#[test]
fn command_lines_that_make_no_sense() {
    let sandbox = Sandbox::new();
    let cases: [(&[&str], &str); 13] = [
        (&["no-such-command"], "no-such-command"),
        (&["update"], "CONTAINER-ID"),
        (&["state"], "CONTAINER-ID"),
        (&["state", "a", "b"], "'b'"),
        (&["start", "--no-such-flag", "a"], "--no-such-flag"),
        (&["--no-such-flag", "list"], "--no-such-flag"),
        (&["--log-format", "poem", "list"], "poem"),
        (&["--rootless", "perhaps", "list"], "perhaps"),
        (&["create"], "CONTAINER-ID"),
        (&["kill"], "CONTAINER-ID"),
        (&["kill", "a", "KILL", "b"], "'b'"),
        (&["pause", "a", "b"], "'b'"),
        (&["list", "a"], "'a'"),
    ];
    for (line, word) in cases {
        // runc asks for a subcommand's help when it does not know one, with success.
        if binaries::oracle() && (line.len() == 1 || line[0].starts_with("--") || line[0] == "kill") {
            continue;
        }
        fails(&sandbox.oci().args(line).run(), ours(&[word]));
    }
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn an_empty_or_impossible_id() {
    let sandbox = Sandbox::new();
    let bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.write();
    for command in ["state", "start", "delete", "kill", "pause", "resume", "ps"] {
        fails(&sandbox.oci().args([command, ""]).run(), &["container id cannot be empty"]);
        fails(&sandbox.oci().args([command, "a/b"]).run(), ours(&["invalid container ID format", "a/b"]));
        fails(&sandbox.oci().args([command, "nobody"]).run(), &["container does not exist"]);
    }
    fails(&sandbox.oci().args(["exec", "nobody", "true"]).run().expect(255), &["container does not exist"]);
    for command in ["create", "run"] {
        let with = |id: &str| sandbox.oci().args([command, "--bundle"]).arg(bundle.path()).arg(id).run();
        fails(&with(""), &["container id cannot be empty"]);
        fails(&with("a/b"), &["invalid container ID format"]);
    }
}

#[test]
fn a_name_that_is_taken() {
    let container = Container::long_lived();
    container.create();
    let again = container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run();
    fails(&again, &["container with given ID already exists"]);
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn a_program_that_cannot_be_run() {
    let cases = [
        ("nosuch", "executable file not found in $PATH"),
        ("/nosuch", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/bin", "permission denied"),
    ];
    for (program, words) in cases {
        // runc of today says "is a directory".
        if binaries::oracle() && program == "/bin" {
            continue;
        }
        let container = Container::new(|bundle| bundle.args(&[program, "x"]));
        let created = container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run();
        fails(&created, &["exec: \\\"", program, words]);
        assert_eq!(container.sandbox.containers(), Vec::<String>::new());
    }
    let container = Container::long_lived().up();
    for (program, words) in &cases[..3] {
        let output = container.oci(&["exec", &container.id, program]).run().expect(255);
        fails(&output, &["exec failed: ", "exec: \\\"", program, words]);
    }
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn globals_in_every_form() {
    let container = Container::long_lived();
    let log = container.sandbox.path("log");
    let log = log.to_str().unwrap();
    let mut lines: Vec<Vec<&str>> = vec![
        vec!["--debug", "--log", log, "--log-format", "json", "--rootless", "auto", "state"],
        vec!["--rootless=false", "--log-format=text", "--systemd-cgroup=false", "state"],
        vec!["--rootless", "true", "state"],
    ];
    if !binaries::oracle() {
        lines.remove(1);
        lines.push(vec!["--rootless=false", "--log-format=text", "state"]);
        lines.push(vec!["--systemd-cgroup", "--cgroup-manager", "systemd", "--log-level", "error", "state"]);
        lines.push(vec!["--cgroup-manager=disabled", "--log-level=info", "state", "--debug"]);
        lines.push(vec!["--log-level=warning", "--log", "/nowhere/at/all", "--log", log, "state"]);
    }
    for line in lines {
        fails(&container.call(&line), &["container does not exist"]);
    }
    if !binaries::oracle() {
        let state = container.oci(&["state", &container.id, "--log", log, "--log-format", "json"]).run();
        fails(&state, &["container does not exist"]);
        let systemd = container.oci(&["--systemd-cgroup", "create", "--bundle"]).arg(container.bundle.path());
        fails(&systemd.arg(&container.id).run(), &["systemd is not running: /run/systemd/private"]);
        for root in ["", "/"] {
            fails(&container.oci(&["--root", root, "list"]).run(), &["--root"]);
        }
    }
    fails(
        &container.oci(&["--log", "/nowhere/at/all", "list"]).run(),
        &["/nowhere/at/all", "no such file or directory"],
    );
}

#[test]
fn levels_are_thresholds() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc has no levels");
        return;
    }
    // A warning of ours: a capability that nobody knows.
    let warned = |level: &[&str]| {
        let container = Container::new(|bundle| {
            bundle.config["process"]["capabilities"] = json!({ "bounding": ["CAP_NO_SUCH"] });
        });
        let words = [level, &["run", "--bundle"]].concat();
        container.oci(&words).arg(container.bundle.path()).arg(&container.id).run().expect(0).stderr
    };
    assert_eq!(warned(&["--log-level", "error"]), "");
    for level in [&[][..], &["--log-level", "warn"], &["--log-level=info"], &["--log-level", "debug"], &["--debug"]] {
        assert!(warned(level).contains("level=warning"), "{level:?}");
    }
}

#[test]
fn users_of_an_exec_are_numbers() {
    let container = Container::long_lived().up();
    let id = |user: &str| container.oci(&["exec", "--user", user, &container.id, "id"]).run();
    assert!(id("1000:100").ok().starts_with("uid=1000 gid=100"));
    assert!(id("0").ok().starts_with("uid=0(root) gid=0(root)"));
    for wrong in ["root", "1000:users", "", "1x", "1.5", "99999999999999999999"] {
        // runc takes an empty word for no word.
        if !(binaries::oracle() && wrong.is_empty()) {
            fails(&id(wrong), &[]);
        }
    }
    if !binaries::oracle() {
        // runc lets these wrap around.
        for wrong in ["-1", "4294967295", "4294967296", "+1", "1:4294967296", "1:-1"] {
            fails(&id(wrong), &["--user", "is not a number from 0"]);
        }
        fails(&container.oci(&["exec", "-g", "-1", &container.id, "id"]).run(), &["--additional-gids"]);
    }
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn an_exec_adds_to_what_the_container_has() {
    let container = Container::new(|bundle| {
        bundle.live_until_term(0);
        bundle.config["process"]["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [100] });
        bundle.config["process"]["noNewPrivileges"] = json!(false);
    })
    .up();
    let exec = |options: &[&str], script: &str| {
        let words = [&["exec"], options, &[&container.id, "sh", "-c", script]].concat();
        container.oci(&words).run()
    };
    let groups = exec(&["-g", "200", "-g", "300"], "id -G").ok();
    assert_eq!(groups, "0 100 200 300\n");
    let script = "grep -E 'CapEff|NoNewPrivs' /proc/self/status; pwd; echo $A-$B";
    let plain = exec(&[], script).ok();
    let changed =
        exec(&["--cap", "CAP_SYS_TIME", "--no-new-privs", "--cwd=/tmp", "-e", "A=1:2", "-e", "B=x y"], script).ok();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (plain, changed) = (lines(&plain), lines(&changed));
    let bits = |line: &str| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(bits(&changed[0]), bits(&plain[0]) | 1 << 25);
    assert!(plain[1].ends_with('0') && changed[1].ends_with('1'));
    assert_eq!((plain[2].as_str(), changed[2].as_str()), ("/", "/tmp"));
    assert_eq!((plain[3].as_str(), changed[3].as_str()), ("-", "1:2-x y"));
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn an_exec_from_a_file() {
    let container = Container::long_lived().up();
    let file = container.sandbox.path("process.json");
    let process = json!({
        "terminal": false, "user": { "uid": 5, "gid": 6 }, "cwd": "/tmp", "env": ["PATH=/bin"],
        "args": ["sh", "-c", "id -u; pwd; exit 9"],
    });
    fs::write(&file, process.to_string()).unwrap();
    let file = file.to_str().unwrap();
    for words in [["exec", "--process", file, &container.id], ["exec", &container.id, "-p", file]] {
        // runc stops looking for options at the ID.
        if !(binaries::oracle() && words[1] == container.id) {
            assert_eq!(container.oci(&words).run().expect(9).stdout, "5\n/tmp\n");
        }
    }
    for (broken, word) in [("{", "process.json"), ("{\"args\": 7}", "args")] {
        fs::write(file, broken).unwrap();
        let output = container.oci(&["exec", "--process", file, &container.id]).run().expect(255);
        fails(&output, ours(&[word]));
    }
    fails(&container.oci(&["exec", "--process", "/nowhere", &container.id]).run(), &["/nowhere", "no such file"]);
    fails(&container.oci(&["exec", &container.id]).run().expect(255), &["exec failed"]);
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn the_log_has_the_message_as_json() {
    let container = Container::long_lived();
    let log = container.sandbox.path("log.json");
    container.oci(&["--log", log.to_str().unwrap(), "--log-format", "json", "pause", &container.id]).run();
    let record: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(record["level"], "error");
    assert!(record["msg"].as_str().unwrap().contains("container does not exist"), "{record}");
}
