//! Redis in a container: the bundle of containerd 0.2's documentation (2016), with today's server.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::command::Cmd;
use crate::sandbox::Sandbox;

const SERVER: &str = "/usr/bin/redis-server";

/// A rootfs with Debian's redis-server and the libraries that it names, and the config of that time.
///
/// # Panics
/// When redis-server is not installed.
#[must_use]
pub fn bundle(sandbox: &Sandbox, port: u16) -> Bundle {
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

/// A port of 127.0.0.1 that nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}
