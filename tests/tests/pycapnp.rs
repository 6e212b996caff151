//! The RPC as another language sees it: `tests/clients/brood_client.py` knows nothing but schema/brood.capnp.
//! And the promise of the schema: create, start and wait take one round trip.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use brood_tests::{Bundle, Cmd, Daemon, Sandbox, binaries, waiting};
use serde_json::{Value, json};

/// Today's schema, below the repository.
const SCHEMA: &str = "schema/brood.capnp";

/// The client with its command line up to the socket.
fn client(sandbox: &Sandbox, socket: &Path) -> Cmd {
    client_of(SCHEMA, sandbox, socket)
}

/// One that was made with another schema.
fn client_of(schema: &str, sandbox: &Sandbox, socket: &Path) -> Cmd {
    let repository = binaries::repository();
    let program = repository.join("tests/clients/brood_client.py");
    sandbox.command(python()).arg(program).arg(repository.join(schema)).arg(socket)
}

/// Runs the client and gives what it printed.
#[track_caller]
fn ask(sandbox: &Sandbox, daemon: &Daemon, command: &str, args: &[&str]) -> Value {
    ask_with(SCHEMA, sandbox, daemon, command, args)
}

#[track_caller]
fn ask_with(schema: &str, sandbox: &Sandbox, daemon: &Daemon, command: &str, args: &[&str]) -> Value {
    let text = client_of(schema, sandbox, &daemon.socket()).arg(command).args(args).run().ok();
    serde_json::from_str(&text).expect("the client prints JSON")
}

/// Python with pycapnp, where `tests/run` puts it: in the target directory.
fn python() -> PathBuf {
    let brood = binaries::brood();
    let target = brood.parent().and_then(Path::parent).expect("target/<profile>/brood");
    let python = target.join("test-venv/bin/python");
    assert!(python.exists(), "{} is missing: tests/run makes it (pip install pycapnp)", python.display());
    python
}

fn bundle(sandbox: &Sandbox, script: &str) -> Bundle {
    let mut bundle = Bundle::busybox(sandbox, "bundle");
    bundle.sh(script);
    bundle.write();
    bundle
}

fn path(bundle: &Bundle) -> &str {
    bundle.path().to_str().expect("our paths are text")
}

#[test]
fn version() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--reactor", "epoll"]);
    let reply = ask(&sandbox, &daemon, "version", &[]);
    assert_eq!(reply["pid"], daemon.supervisor().pid);
    assert_eq!((&reply["reactor"], &reply["root"]), (&json!("epoll"), &json!(sandbox.root())));
}

#[test]
fn a_containers_life() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let id = sandbox.id("box");
    let bundle = bundle(&sandbox, "sleep 1000");
    let life = ask(&sandbox, &daemon, "life", &[path(&bundle), &id]);
    let found = json!({ "ids": [id], "processes": ["init"], "labels": { "colour": "brown" }, "others": 0 });
    assert_eq!(life["steps"], json!(["ok", "created", "ok", "running", "ok", "stopped", "ok"]));
    assert_eq!(life["found"], found);
    assert_eq!((&life["status"], &life["signal"]), (&json!(128 + 9), &json!(9)));
    assert!(life["time"].as_u64().unwrap() > 0);

    let told = ask(&sandbox, &daemon, "events", &[&id]);
    let told = told["events"].as_array().unwrap();
    let types: Vec<&str> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["create", "start-container", "exit", "delete"]);
    assert!(told.iter().all(|event| event["id"] == json!(id)));
    assert!(told.windows(2).all(|pair| pair[0]["seq"].as_u64() < pair[1]["seq"].as_u64()));
    assert_eq!(told[2]["status"], life["status"]);
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn one_shot_with_output() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let bundle = bundle(&sandbox, "echo out; echo err >&2; exit 7");
    let reply = ask(&sandbox, &daemon, "run", &[path(&bundle)]);
    assert_eq!(reply, json!({ "status": 7, "stdout": "out\n", "stderr": "err\n" }));
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn expected_failures_are_results() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let bundle = bundle(&sandbox, "true");
    let reply = ask(&sandbox, &daemon, "failures", &[path(&bundle), &sandbox.id("box")]);
    let expected = [
        ("missing", "notFound"),
        ("started", "notFound"),
        ("badName", "invalidRequest"),
        ("noBundle", "invalidConfig"),
    ];
    for (case, kind) in expected {
        assert_eq!(reply[case]["kind"], kind, "{case}: {reply}");
        assert_eq!(reply[case]["exitStatus"], 125, "{case}: {reply}");
        assert!(reply[case]["message"].as_str().is_some_and(|message| !message.contains('\n')), "{case}: {reply}");
    }
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn create_start_and_wait_take_one_round_trip() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let bundle = bundle(&sandbox, "exit 7");
    let id = sandbox.id("box");

    // Between client and daemon sits a gate that lets all requests pass and no answer.
    let gate = Gate::before(&daemon.socket(), &sandbox.path("gate.sock"));
    let asking = client(&sandbox, &gate.socket).args(["pipelined", path(&bundle), &id]).start();
    let exit = sandbox.root().join(&id).join("init/exit");
    waiting::until("the container to have come and gone", || exit.exists().then_some(()));
    assert_eq!(gate.round_trips(), 0, "no answer has reached the client, yet all was done");
    gate.open();

    let reply: Value = serde_json::from_str(&asking.finish().ok()).unwrap();
    assert_eq!(reply, json!({ "create": "ok", "start": "ok", "status": 7 }));
    daemon.brood().args(["rm", &id]).run().ok();
}

#[test]
fn an_execs_life() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let id = sandbox.id("box");
    let bundle = bundle(&sandbox, "sleep 1000");
    let life = ask(&sandbox, &daemon, "exec", &[path(&bundle), &id]);
    assert_eq!(life["steps"], json!(["ok", "created", "ok", 5, "stopped", "ok"]));
    let expected = [
        ("taken", "alreadyExists"),
        ("waited", "alreadyExists"),
        ("missing", "notFound"),
        ("all", "invalidRequest"),
        ("resize", "wrongState"),
        ("closeStdin", "wrongState"),
        ("gone", "notFound"),
    ];
    for (case, kind) in expected {
        assert_eq!(life["refused"][case]["kind"], kind, "{case}: {life}");
    }
    assert_eq!(life["whole"], 4);
    let names = life["names"].as_array().unwrap();
    assert_eq!((names.len(), &names[0]), (2, &json!("init")), "{names:?}");
    assert!(names[1].as_str().unwrap().starts_with("exec-"), "{names:?}");
    let told = ask(&sandbox, &daemon, "events", &[&id]);
    let types = told["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap());
    let expected = ["create", "start-container", "exec-added", "start-process", "exit", "exec-added", "start-process"];
    assert_eq!(types.take(expected.len()).collect::<Vec<_>>(), expected);
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn exec_and_wait_take_one_round_trip() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let bundle = bundle(&sandbox, "sleep 1000");
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--bundle", path(&bundle)]).run().ok();
    let gate = Gate::before(&daemon.socket(), &sandbox.path("gate.sock"));
    let asking = client(&sandbox, &gate.socket).args(["exec_pipelined", &id]).start();
    let exit = sandbox.root().join(&id).join("quick/exit");
    waiting::until("the exec to have come and gone", || exit.exists().then_some(()));
    assert_eq!(gate.round_trips(), 0, "no answer has reached the client, yet all was done");
    gate.open();
    let reply: Value = serde_json::from_str(&asking.finish().ok()).unwrap();
    assert_eq!(reply, json!({ "exec": "ok", "status": 6 }));
    daemon.brood().args(["rm", "--force", &id]).run().ok();
}

#[test]
fn execs_with_captured_output() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let bundle = bundle(&sandbox, "sleep 1000");
    let reply = ask(&sandbox, &daemon, "exec_sync", &[path(&bundle), &sandbox.id("box")]);
    let whole = json!({ "status": 7, "stdout": "out\n", "stderr": "err\n", "cut": [false, false], "late": false });
    assert_eq!(reply["whole"], whole);
    let cut =
        json!({ "status": 0, "stdout": "y\ny\ny\ny\ny\n", "stderr": "err\n", "cut": [true, false], "late": false });
    assert_eq!(reply["cut"], cut, "CVE-2022-31030");
    assert_eq!((&reply["late"]["status"], &reply["late"]["late"]), (&json!(128 + 9), &json!(true)));
    assert_eq!(reply["late"]["stdout"], "begun\n");
    assert_eq!((&reply["missing"]["kind"], &reply["missing"]["exitStatus"]), (&json!("setupFailed"), &json!(127)));
    assert_eq!(reply["tooMuch"]["failure"]["kind"], "invalidRequest");
    assert_eq!(reply["left"], json!(["init"]));
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

/// What the schemas promise one another is in schema/tests/evolution.rs; this is a daemon that keeps it.
#[test]
fn clients_of_earlier_apis_see_no_difference() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let quick = bundle(&sandbox, "echo out; exit 7");
    let mut long = Bundle::busybox(&sandbox, "long");
    long.sh("sleep 1000");
    long.write();
    for api in ["tests/clients/schemas/api-1.capnp", "tests/clients/schemas/api-2.capnp"] {
        let id = sandbox.id(api.trim_start_matches("tests/clients/schemas/").trim_end_matches(".capnp"));
        let ask = |command: &str, args: &[&str]| ask_with(api, &sandbox, &daemon, command, args);
        assert_eq!(ask("version", &[])["root"], json!(sandbox.root()), "{api}");
        let life = ask("life", &[path(&long), &id]);
        assert_eq!(life["steps"], json!(["ok", "created", "ok", "running", "ok", "stopped", "ok"]), "{api}");
        assert_eq!((&life["status"], &life["found"]["labels"]), (&json!(137), &json!({ "colour": "brown" })), "{api}");
        assert_eq!(ask("run", &[path(&quick)]), json!({ "status": 7, "stdout": "out\n", "stderr": "" }), "{api}");
        assert_eq!(ask("failures", &[path(&quick), &id])["missing"]["kind"], "notFound", "{api}");
        let exec = ask("exec", &[path(&long), &id]);
        assert_eq!(exec["steps"], json!(["ok", "created", "ok", 5, "stopped", "ok"]), "{api}");
        assert_eq!(ask("exec_sync", &[path(&long), &id])["whole"]["stdout"], "out\n", "{api}");
        let told = ask("events", &[&id]);
        assert_eq!(told["events"][2]["type"], "exit", "{api}");
        assert_eq!(told["events"][2]["status"], 137, "{api}");
    }
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

/// A relay between one client and a socket that holds back every answer until it is opened.
struct Gate {
    socket: PathBuf,
    answers: Arc<AtomicUsize>,
    open: Sender<()>,
}

impl Gate {
    fn before(server: &Path, socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("our directory");
        let server = UnixStream::connect(server).expect("the daemon listens");
        let answers = Arc::new(AtomicUsize::new(0));
        let (open, opened) = channel();
        let counter = Arc::clone(&answers);
        // The threads end with the connection.
        thread::spawn(move || relay(&listener, &server, &opened, &counter));
        Self { socket: socket.to_owned(), answers, open }
    }

    /// How often an answer has gone to the client so far: each may have been waited for.
    fn round_trips(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }

    fn open(&self) {
        self.open.send(()).expect("the relay waits for this");
    }
}

fn relay(listener: &UnixListener, server: &UnixStream, opened: &Receiver<()>, answers: &AtomicUsize) {
    let (client, _) = listener.accept().expect("a client comes");
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &client, &mut &*server);
            let _ = server.shutdown(Shutdown::Write);
        });
        if opened.recv().is_ok() {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = (&*server).read(&mut buffer) {
                answers.fetch_add(1, Ordering::SeqCst);
                if (&client).write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}
