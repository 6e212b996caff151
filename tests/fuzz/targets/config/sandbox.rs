//! Where paths of an invented config.json do no harm: a thread with a mount namespace of its own, whose root is an
//! otherwise empty tmpfs with a bundle in it. No /proc beyond two copied files: there is no way out by a magic link.

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

type Answer = std::thread::Result<Option<Vec<u8>>>;

/// A thread that runs one input after the other.
pub struct Sandbox(Mutex<(Sender<Vec<u8>>, Receiver<Answer>)>);

impl Sandbox {
    /// Starts the thread.
    pub fn start(work: fn(&[u8]) -> Option<Vec<u8>>) -> Sandbox {
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
    pub fn run(&self, input: &[u8]) -> Option<Vec<u8>> {
        let channels = self.0.lock().expect("no panic in here");
        channels.0.send(input.to_vec()).expect("the sandbox stands");
        match channels.1.recv() {
            Ok(Ok(plan)) => plan,
            Ok(Err(_)) | Err(_) => std::process::abort(),
        }
    }
}

/// Makes the root and goes there, for good.
fn enter() {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("a private tree");
    let [mountinfo, cgroup] = ["mountinfo", "cgroup"].map(|name| {
        let path = format!("/proc/thread-self/{name}");
        (name, fs::read(path).expect("/proc"))
    });
    let null = Path::new(PLACE).join("dev/null");
    let namespaces = ["net", "ipc", "uts", "user", "pid"];
    mount(Some("tmpfs"), PLACE, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("a tmpfs");
    for directory in ["dev", "ns", "proc/self", "bundle/rootfs/etc", "bundle/data"] {
        fs::create_dir_all(Path::new(PLACE).join(directory)).expect("a directory");
    }
    for (name, text) in [mountinfo, cgroup] {
        fs::write(Path::new(PLACE).join("proc/self").join(name), text).expect("a file");
    }
    let passwd = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    fs::write(Path::new(PLACE).join("bundle/rootfs/etc/passwd"), passwd).expect("a file");
    File::create(&null).expect("a file");
    mount(Some("/dev/null"), &null, none, MsFlags::MS_BIND, none).expect("a bind mount");
    for name in namespaces {
        let place = Path::new(PLACE).join("ns").join(name);
        File::create(&place).expect("a file");
        let own = format!("/proc/thread-self/ns/{name}");
        mount(Some(own.as_str()), &place, none, MsFlags::MS_BIND, none).expect("a bind mount");
    }
    nix::unistd::chroot(PLACE).expect("root");
    nix::unistd::chdir("/").expect("the root");
}
