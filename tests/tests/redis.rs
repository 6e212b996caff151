//! The walk-through of containerd 0.2's documentation (2016), with today's Redis: bundle, run, list, talk, kill.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use brood_tests::{Bundle, Cmd, Daemon, Sandbox, resp, waiting};
use serde_json::{Value, json};

const SERVER: &str = "/usr/bin/redis-server";

#[test]
fn the_walk_through_of_2016() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    // The config shares the host's network, as it did then.
    let port = free_port();
    let bundle = redis_bundle(&sandbox, port);
    let id = sandbox.id("redis");
    let brood = |args: &[&str]| daemon.brood().args(args);

    brood(&["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();

    let table = brood(&["list"]).run().ok();
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let path = bundle.path().to_str().unwrap();
    assert_eq!(words, [vec!["ID", "PATH", "STATUS", "PROCESSES"], vec![&id, path, "running", "init"]]);

    let stream = waiting::until("Redis to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut redis = resp::Client::new(stream);
    assert_eq!(redis.call(&["PING"]).unwrap(), "PONG");
    assert_eq!(redis.call(&["SET", "bird", "nightingale"]).unwrap(), "OK");
    assert_eq!(redis.call(&["GET", "bird"]).unwrap(), "nightingale");

    assert_state_on_disk(&sandbox, &id);

    brood(&["kill", &id]).run().ok();
    // Redis answers to SIGTERM by shutting down in order.
    brood(&["wait", &id]).run().expect(0);
    brood(&["rm", &id]).run().ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    assert_eq!(brood(&["list", "-q"]).run().ok(), "");
}

fn assert_state_on_disk(sandbox: &Sandbox, id: &str) {
    assert_eq!(sandbox.containers(), [id]);
    assert_eq!(sandbox.record(id, "state.json")["id"], id);
    assert_eq!(sandbox.record(id, "init/process.json")["args"][0], "redis-server");
    let pid = &sandbox.record(id, "init/pid")["pid"];
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().take(2).collect::<Vec<_>>(), ["1024", "1024"]);
}

/// A rootfs with Debian's redis-server and the libraries that it names, and the config of that time.
fn redis_bundle(sandbox: &Sandbox, port: u16) -> Bundle {
    let mut bundle = Bundle::empty(sandbox, "redis");
    assert!(Path::new(SERVER).exists(), "{SERVER} is missing: install redis-server");
    let libraries = Cmd::new("ldd").arg(SERVER).run().ok();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain([SERVER]) {
        let inside = bundle.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(path, inside).unwrap();
    }
    bundle.config = config_of_2016(port);
    bundle.write();
    bundle
}

/// ociVersion 0.4.0: a flat list of caps, an empty user, a platform, null where there is nothing.
fn config_of_2016(port: u16) -> Value {
    let port = port.to_string();
    json!({
        "ociVersion": "0.4.0",
        "platform": { "os": "linux", "arch": "amd64" },
        "process": {
            "terminal": false,
            "user": {},
            "args": ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "runc",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] }
        ],
        "hooks": {},
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            "devices": null
        }
    })
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}
