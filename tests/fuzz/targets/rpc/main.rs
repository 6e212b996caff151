//! Any bytes from a client of the RPC socket, through the reader, the gate, the library and our own methods: nothing
//! panics, and a connection ends with its client. There are no zygotes, so no container is made.

#![no_main]

#[path = "../config/sandbox.rs"]
mod sandbox;
mod seeds;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brood::reactor::Kind;
use brood::rpc::Door;
use brood::supervisor::{Settings, Supervisor};
use brood_launcher::prepare::CgroupManager;
use brood_launcher::state::{Manager, StateRoot};
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use sandbox::Sandbox;

/// Longer than any patience with a client that has hung up.
const PATIENCE: Duration = Duration::from_secs(8);
/// Set by a panic in a task that nobody waits for.
static PANICKED: AtomicBool = AtomicBool::new(false);

fuzz_target!(|bytes: &[u8]| {
    static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
        seeds::write();
        Sandbox::start(one)
    });
    SANDBOX.run(bytes).expect("no connection is refused");
});

fn one(bytes: &[u8]) -> Result<Vec<u8>, String> {
    thread_local!(static WORLD: World = World::new());
    WORLD.with(|world| world.local.block_on(&world.runtime, world.serve(bytes)));
    assert!(!PANICKED.load(Ordering::Relaxed), "a task panicked");
    Ok(Vec::new())
}

/// A supervisor that is there for every input.
struct World {
    runtime: Runtime,
    local: LocalSet,
    door: Door,
}

impl World {
    fn new() -> World {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.store(true, Ordering::Relaxed);
            report(panic);
        }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = LocalSet::new();
        let door = local.block_on(&runtime, async {
            let root = StateRoot::open(Path::new("/state")).expect("a state directory");
            let stdio: OwnedFd = UnixListener::bind("/state/stdio.sock").expect("a socket").into();
            let settings = Settings {
                root,
                reactor: Kind::Epoll,
                zygotes: 0,
                start_timeout: Duration::from_secs(1),
                retain: 64,
                manager: Manager::Daemon,
                cgroups: CgroupManager::Ourselves,
                container_nofile: None,
            };
            let supervisor = Supervisor::start(settings, None).expect("a supervisor");
            Door::new(&supervisor, stdio).expect("a door")
        });
        World { runtime, local, door }
    }

    async fn serve(&self, bytes: &[u8]) {
        let (client, server) = UnixStream::pair().expect("a socket pair");
        let served = tokio::task::spawn_local(self.door.admit(server).expect("a seat"));
        let (mut answers, mut requests) = client.into_split();
        let reading = tokio::task::spawn_local(async move {
            let _ = tokio::io::copy(&mut answers, &mut tokio::io::sink()).await;
        });
        // The daemon may hang up first.
        let _ = requests.write_all(bytes).await;
        let _ = requests.shutdown().await;
        let ended = tokio::time::timeout(PATIENCE, served).await;
        ended.expect("a connection ends with its client").expect("it does not panic");
        reading.abort();
    }
}
