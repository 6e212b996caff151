//! create -> start -> wait in one round trip: counted at a relay between a client and a real daemon.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use brood::client::{Client, Create, CreateSource};
use brood_launcher::plan::{DefaultBundle, default_spec};
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_capnp::message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// A daemon of our own, stopped at the end.
struct Daemon {
    process: Child,
    root: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Daemon {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_brood"));
        let process = command.arg("--root").arg(root.path()).args(["daemon", "--zygotes", "1", "--kill-on-exit"]);
        Daemon { process: process.spawn().unwrap(), root }
    }

    fn socket(&self) -> PathBuf {
        self.root.path().join("brood.sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.process),
            rustix::process::Signal::TERM,
        );
        let _ = self.process.wait();
    }
}

/// Lets a client's messages through and counts its calls; holds the daemon's answers back until the gate is open.
#[derive(Default)]
struct Relay {
    sent: RefCell<Vec<u8>>,
    calls: Cell<usize>,
    called: Notify,
    gate: Notify,
}

impl Relay {
    /// Counts the whole messages that have come so far.
    fn count(&self) {
        let bytes = self.sent.borrow();
        let (mut rest, mut calls) = (&bytes[..], 0);
        while let Ok(Some(read)) = capnp::serialize::try_read_message(&mut rest, ReaderOptions::new()) {
            let message: message::Reader<'_> = read.get_root().unwrap();
            calls += usize::from(matches!(message.which(), Ok(message::Call(_))));
        }
        self.calls.set(calls);
        self.called.notify_one();
    }

    async fn run(self: Rc<Self>, listener: UnixListener, daemon: PathBuf) {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_daemon, mut to_daemon) = UnixStream::connect(daemon).await.unwrap().into_split();
        let requests = async {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                self.sent.borrow_mut().extend_from_slice(&buffer[..length]);
                self.count();
                to_daemon.write_all(&buffer[..length]).await.unwrap();
            }
        };
        let answers = async {
            self.gate.notified().await;
            let _ = tokio::io::copy(&mut from_daemon, &mut to_client).await;
        };
        tokio::join!(requests, answers);
    }

    async fn until_calls(&self, count: usize) {
        while self.calls.get() < count {
            self.called.notified().await;
        }
    }
}

async fn connect_when_there(path: &Path) {
    while UnixStream::connect(path).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn create_start_and_wait_take_one_round_trip() {
    let daemon = Daemon::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        connect_when_there(&daemon.socket()).await;
        let path = daemon.root.path().join("relay.sock");
        let relay = Rc::new(Relay::default());
        let listener = UnixListener::bind(&path).unwrap();
        tokio::task::spawn_local(relay.clone().run(listener, daemon.socket()));
        let client = Client::connect(&path).await.unwrap();

        let args = ["sh", "-c", "exit 7"].map(str::to_owned).to_vec();
        let bundle = DefaultBundle { args, hostname: "one-trip".into(), ..DefaultBundle::default() };
        let config = default_spec(&bundle).to_string().into_bytes();
        let source = CreateSource::Config { text: config, host_overlay: true };
        let (container, created) = client.create(&Create { id: "one-trip".into(), source, ..Create::default() });
        let (started, exited) = (container.start(), container.wait());

        // All three are on their way before the daemon has said a word.
        relay.until_calls(3).await;
        relay.gate.notify_one();
        created.await.unwrap();
        started.await.unwrap();
        assert_eq!(exited.await.unwrap().status, 7);
        assert_eq!(relay.calls.get(), 3, "a call was made after the first answer: a second round trip");

        container.delete(false).await.unwrap();
        assert_eq!(relay.calls.get(), 4, "the relay counts");
    };
    let limited = async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time") };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}
