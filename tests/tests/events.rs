//! `events`: figures at intervals, notices when memory runs out, and the end with the container's.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test events` asks the same of runc.

use std::collections::BTreeMap;

use brood_tests::cgroups::Layout;
use brood_tests::{Container, binaries, waiting};
use serde_json::{Value, json};

use Layout::{Hybrid, V1, V2};

fn up(layout: Layout, resources: &Value) -> Container {
    let container = Container::new(|bundle| {
        bundle.live_until_term(7);
        bundle.config["linux"]["resources"] = resources.clone();
    });
    let create = layout.oci(&container.sandbox).args(["create", "--bundle"]).arg(container.bundle.path());
    create.arg(&container.id).run().ok();
    layout.oci(&container.sandbox).args(["start", &container.id]).run().ok();
    container.bundle.await_up();
    container
}

fn delete(layout: Layout, container: &Container) {
    layout.oci(&container.sandbox).args(["delete", "--force", &container.id]).run().ok();
}

fn stats(layout: Layout, container: &Container) -> Value {
    let line = layout.oci(&container.sandbox).args(["events", "--stats", &container.id]).run().ok();
    assert_eq!(line.lines().count(), 1, "{line}");
    let event: Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(container.id)), "{line}");
    event["data"].clone()
}

/// Paths of all fields, and what kind of value each has. Of `raw` the kernel chooses the names.
fn fields(path: &str, value: &Value, all: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    all.insert(path.to_owned(), kind);
    if let Value::Object(members) = value {
        for (name, value) in members {
            fields(&format!("{path}.{name}"), value, all);
        }
    }
}

#[test]
fn every_field_of_runc_s_statistics_is_there() {
    let resources =
        json!({ "cpu": { "quota": 50_000, "cpus": "0" }, "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
    // On cgroup v1 alone everything is counted where runc counts it; but in cgroup v2 there are more fields.
    let container = up(V1, &resources);
    let ours = stats(V1, &container);
    let (root, id) = (container.sandbox.path("runc"), container.sandbox.id("runc"));
    std::fs::remove_file(container.bundle.rootfs().join("tmp/up")).unwrap();
    let runc = || container.sandbox.command("runc").arg("--root").arg(&root);
    runc().args(["create", "--bundle"]).arg(container.bundle.path()).arg(&id).run().ok();
    runc().args(["start", &id]).run().ok();
    container.bundle.await_up();
    let line = runc().args(["events", "--stats", &id]).run().ok();
    runc().args(["delete", "--force", &id]).run().ok();
    delete(V1, &container);
    let theirs: Value = serde_json::from_str(&line).expect("a line of JSON");
    let (mut known, mut expected) = (BTreeMap::new(), BTreeMap::new());
    fields("data", &ours, &mut known);
    fields("data", &theirs["data"], &mut expected);
    assert!(expected.len() > 60, "{line}");
    // What Go leaves out as a zero may be one with us, and the other way round.
    let by_chance = ["data.cpu.throttling.", "data.memory.cache", "data.memory.kernelTCP.", "data.memory.usage.max"];
    for (path, kind) in expected.iter().filter(|(path, _)| !by_chance.iter().any(|start| path.starts_with(start))) {
        assert_eq!(known.get(path), Some(kind), "{path} of {line}\n{ours}");
    }
    for path in ["data.memory.usage.limit", "data.pids.limit"] {
        let at = |value: &Value| value.pointer(&path.replace("data", "").replace('.', "/")).cloned();
        assert_eq!(at(&ours), at(&theirs["data"]), "{path}");
    }
}

fn figures_are_those_of_the_container(layout: Layout) {
    let container =
        up(layout, &json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 }, "cpu": { "quota": 50_000 } }));
    let exec = ["exec", &container.id, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"];
    // A period counts once it is over.
    let data = waiting::until("a period that was counted", || {
        layout.oci(&container.sandbox).args(exec).run().ok();
        let data = stats(layout, &container);
        data["cpu"]["throttling"]["periods"].is_u64().then_some(data)
    });
    let number = |path: &str| data.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    assert_eq!(number("/memory/usage/limit"), 64 << 20, "{data}");
    assert!(number("/memory/usage/usage") > 0 && number("/memory/usage/max") > 0, "{data}");
    assert_eq!((number("/pids/current"), number("/pids/limit")), (2, 50), "{data}");
    // Nanoseconds: the loop takes a few milliseconds at least, and no hour.
    assert!((1_000_000..3_600_000_000_000).contains(&number("/cpu/usage/total")), "{data}");
    delete(layout, &container);
}

#[test]
fn figures_are_those_of_the_container_on_a_hybrid_host() {
    figures_are_those_of_the_container(Hybrid);
}

#[test]
fn figures_are_those_of_the_container_on_cgroup_v1() {
    figures_are_those_of_the_container(V1);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn figures_are_those_of_the_container_on_cgroup_v2() {
    figures_are_those_of_the_container(V2);
}

/// One stream: figures again and again, a notice, and the end.
fn a_stream_tells_of_memory_and_ends_with_the_container(layout: Layout) {
    let container = up(layout, &json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } }));
    let events = ["events", "--interval", "100ms", &container.id];
    let mut stream = layout.oci(&container.sandbox).args(events).start();
    let is = |line: &str, kind: &str| line.starts_with(&format!("{{\"type\":\"{kind}\",\"id\":\"{}\"", container.id));
    stream.output_until(|text| text.lines().filter(|line| is(line, "stats")).count() >= 2);
    // 64 MiB of 32; the shell goes on.
    let hog = ["exec", &container.id, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1; true"];
    layout.oci(&container.sandbox).args(hog).run().ok();
    let notice = format!("{{\"type\":\"oom\",\"id\":\"{}\"}}", container.id);
    stream.output_until(|text| text.lines().any(|line| line == notice));
    delete(layout, &container);
    let output = stream.finish().expect(0);
    assert!(output.stdout.lines().all(|line| line == notice || is(line, "stats")), "{output}");
}

#[test]
fn a_stream_tells_of_memory_and_ends_with_the_container_on_a_hybrid_host() {
    a_stream_tells_of_memory_and_ends_with_the_container(Hybrid);
}

#[test]
fn a_stream_tells_of_memory_and_ends_with_the_container_on_cgroup_v1() {
    a_stream_tells_of_memory_and_ends_with_the_container(V1);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_stream_tells_of_memory_and_ends_with_the_container_on_cgroup_v2() {
    a_stream_tells_of_memory_and_ends_with_the_container(V2);
}

#[test]
fn what_cannot_be_watched_is_refused_in_one_line() {
    let container = up(Hybrid, &json!({}));
    for interval in ["0", "0s", "-1s"] {
        let refused = container.oci(&["events", "--interval", interval, &container.id]).run();
        // A foreign runtime may not know `0` without a unit.
        let expected = binaries::oracle() || refused.one_line_error().contains("interval must be greater than 0");
        assert!(expected && refused.code() != 0, "{refused}");
    }
    for interval in ["", "5", "x", "5 s", "5d"] {
        let refused = container.oci(&["events", "--interval", interval, &container.id]).run();
        assert!(binaries::oracle() || refused.one_line_error().contains("--interval"), "{refused}");
    }
    let nobody = container.oci(&["events", "nobody"]).run();
    assert!(nobody.one_line_error().contains("does not exist"), "{nobody}");
    let pid = container.pid();
    container.oci(&["kill", &container.id, "KILL"]).run().ok();
    waiting::gone(pid);
    let stopped = container.call(&["events", "--stats"]);
    assert!(stopped.one_line_error().contains("is not running"), "{stopped}");
    delete(Hybrid, &container);
}
