//! A container on its way: what others may do with it meanwhile, what its creator leaves when it is killed, and several who
//! delete it at a time.

use std::fs;
use std::path::{Path, PathBuf};

use brood_tests::{Bundle, Cmd, Container, Output, Sandbox, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// A hook that tells that it has begun, and goes on once somebody writes to the pipe.
struct Gate {
    log: PathBuf,
    pipe: PathBuf,
}

impl Gate {
    fn new(sandbox: &Sandbox, bundle: &mut Bundle, kind: &str) -> Gate {
        let gate = Gate { log: sandbox.path("log"), pipe: sandbox.path("pipe") };
        Cmd::new("mkfifo").arg(&gate.pipe).run().ok();
        let script = format!("echo begun >> {}; read line < {}", gate.log.display(), gate.pipe.display());
        bundle.config["hooks"][kind] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
        bundle.live_until_term(0);
        bundle.write();
        gate
    }

    fn reached(&self) {
        waiting::until("the hook", || fs::read_to_string(&self.log).ok().filter(|log| !log.is_empty()));
    }

    fn open(&self) {
        fs::write(&self.pipe, "go on\n").unwrap();
    }
}

/// A container with a gate in its way, not created.
fn gated(kind: &str) -> (Container, Gate) {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    let gate = Gate::new(&sandbox, &mut bundle, kind);
    (Container { id: sandbox.id("box"), bundle, sandbox }, gate)
}

fn create(container: &Container) -> Cmd {
    container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(&container.id)
}

#[track_caller]
fn says(output: &Output, words: &str) {
    assert!(output.one_line_error().contains(words), "{output}");
}

fn nothing_is_left(container: &Container) {
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn what_is_being_made_is_only_deleted_by_force() {
    let (container, gate) = gated("createRuntime");
    let creating = create(&container).start();
    gate.reached();
    assert_eq!(container.status(), "creating");
    says(&container.call(&["start"]), "cannot start a container in the creating state");
    says(&container.call(&["pause"]), "it is creating");
    says(&container.call(&["delete"]), "not stopped: creating");
    assert_eq!(container.status(), "creating");
    container.call(&["delete", "--force"]).ok();
    gate.open();
    let created = creating.finish().expect(1);
    says(&created, "was killed while it was being set up");
    nothing_is_left(&container);
}

#[test]
fn what_a_killed_creator_leaves_can_be_deleted() {
    let (container, gate) = gated("createRuntime");
    let creating = create(&container).start();
    gate.reached();
    kill_process(Pid::from_raw(creating.pid()).unwrap(), Signal::KILL).unwrap();
    creating.finish();
    gate.open();
    // Nobody answers its process, which ends.
    waiting::until("its end", || (container.status() == "stopped").then_some(()));
    container.call(&["delete"]).ok();
    nothing_is_left(&container);
}

/// As if the creator had been killed right before the clone.
#[test]
fn what_never_got_a_process_is_stopped() {
    let container = Container::long_lived();
    container.create();
    container.end();
    fs::remove_file(container.sandbox.root().join(&container.id).join("init/pid")).unwrap();
    assert_eq!(container.status(), "stopped");
    container.call(&["delete"]).ok();
    nothing_is_left(&container);
}

#[test]
fn of_several_who_delete_one_runs_the_last_hooks() {
    let (container, gate) = gated("poststop");
    container.create();
    container.call(&["start"]).ok();
    let deletes: Vec<_> = (0..4).map(|_| container.oci(&["delete", "--force", &container.id]).start()).collect();
    gate.reached();
    gate.open();
    for delete in deletes {
        delete.finish().ok();
    }
    assert_eq!(fs::read_to_string(&gate.log).unwrap(), "begun\n");
    assert!(!Path::new(&container.sandbox.root().join(&container.id)).exists());
    nothing_is_left(&container);
}
