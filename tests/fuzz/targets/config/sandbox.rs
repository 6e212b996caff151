//! Where paths of an invented config.json do no harm: a thread with a mount namespace of its own, whose root is an
//! otherwise empty tmpfs with a bundle in it. Its /proc is three files: no magic link leads out.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// The bundle, as the thread sees it.
pub const BUNDLE: &str = "/bundle";
/// Where the tmpfs is mounted; seen by the thread alone.
const PLACE: &str = "/tmp";

type Outcome = Result<Vec<u8>, String>;
type Answer = std::thread::Result<Outcome>;

/// A thread that runs one input after the other.
pub struct Sandbox(Mutex<(Sender<Vec<u8>>, Receiver<Answer>)>);

impl Sandbox {
    /// Starts the thread.
    pub fn start(work: fn(&[u8]) -> Outcome) -> Sandbox {
        // The fuzzer's own hook ends the process where it stands, and the input that is at fault would be written into
        // the sandbox. So panics are handed over, and end the process outside.
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
        }));
        let (to, inputs) = channel::<Vec<u8>>();
        let (answers, from) = channel();
        std::thread::spawn(move || {
            enter();
            for input in inputs {
                let answer = std::panic::catch_unwind(|| work(&input));
                answers.send(answer).expect("somebody waits");
            }
        });
        Sandbox(Mutex::new((to, from)))
    }

    /// One input, and the process ends if it panics.
    pub fn run(&self, input: &[u8]) -> Outcome {
        let channels = self.0.lock().expect("no panic in here");
        channels.0.send(input.to_vec()).expect("the sandbox stands");
        match channels.1.recv() {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => std::process::abort(),
        }
    }
}

/// What is read of /proc: a host with both versions of cgroups.
const FILES: [(&str, &str); 3] = [
    (
        "proc/self/mountinfo",
        "1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
         2 0 0:2 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n",
    ),
    ("proc/self/cgroup", "1:cpu,cpuacct:/\n0::/\n"),
    ("bundle/rootfs/etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"),
];
/// Empty directories, some of them for the files.
const DIRECTORIES: [&str; 7] =
    ["dev", "ns", "proc/self", "sys/fs/cgroup/cpu", "sys/fs/cgroup/unified", "bundle/rootfs/etc", "bundle/data"];
/// Devices; all but the first are empty files.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Namespaces to join, as `/ns/KIND`.
const NAMESPACES: [&str; 5] = ["net", "ipc", "uts", "user", "pid"];

/// Makes the root and goes there, for good.
fn enter() {
    let none = None::<&str>;
    let bind = |from: String, to: &Path| {
        mount(Some(from.as_str()), to, none, MsFlags::MS_BIND, none).expect("a bind mount");
    };
    let place = Path::new(PLACE);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("a private tree");
    mount(Some("tmpfs"), PLACE, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("a tmpfs");
    for directory in DIRECTORIES {
        fs::create_dir_all(place.join(directory)).expect("a directory");
    }
    for (path, text) in FILES {
        fs::write(place.join(path), text).expect("a file");
    }
    for name in DEVICES {
        File::create(place.join("dev").join(name)).expect("a file");
    }
    bind("/dev/null".to_owned(), &place.join("dev/null"));
    // Its own binary, for who seals a copy of it; by its path, since the link leads to a mount of the namespace before.
    let exe = std::env::current_exe().expect("/proc is mounted").to_string_lossy().into_owned();
    File::create(place.join("proc/self/exe")).expect("a file");
    bind(exe, &place.join("proc/self/exe"));
    for name in NAMESPACES {
        let path = place.join("ns").join(name);
        File::create(&path).expect("a file");
        bind(format!("/proc/thread-self/ns/{name}"), &path);
    }
    nix::unistd::chroot(PLACE).expect("root");
    nix::unistd::chdir("/").expect("the root");
}
