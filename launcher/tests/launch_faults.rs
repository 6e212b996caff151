//! Failures of launches in their other forms: by a zygote, into a user namespace that is there already, into a cgroup, with
//! network devices; and of the cloning itself. Nothing may be left of them, in this process or in the zygote.
//!
//! `step_faults` has the kinds of steps.

#![expect(clippy::print_stdout, reason = "a test program without a harness")]

mod faults;
mod rich;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brood_launcher::plan::{FdIndex, IdMaps, Launch, Namespace, NamespaceKind, NetDevice, Step, wire};
use brood_launcher::spawn::{Host, SpawnError, Spawned};
use brood_launcher::state::{ContainerDir, ContainerState, StateRoot};
use brood_launcher::zygote::frame::{Outgoing, receive_reply};
use brood_launcher::{sys, userns, zygote};
use oci_spec::runtime::Spec;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};
use serde_json::Value;

use crate::faults::{FAILED, Traces, assert_failed, no_namespace, own_mounts, read, reap, reap_killed};
use crate::rich::{Rich, bundle, joined_namespaces, spec, user_namespace};

/// The argument that makes this program a zygote on its standard input.
const ZYGOTE: &str = "zygote";

/// Where every plan reports: what is no namespace, no cgroup and no directory.
const STATUS: FdIndex = FdIndex(0);

/// A network device that can leave no network namespace.
const DEVICE: &str = "lo";

/// Longest wait for a zygote.
const PATIENCE: Duration = Duration::from_secs(10);

/// A word of the message, and what is done to a launch that then fails in the cloning process.
type Fault<'a> = (&'static str, Box<dyn Fn(&mut Launch) + 'a>);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == ZYGOTE) {
        return zygote::serve(std::io::stdin().as_fd()).unwrap();
    }
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("nothing_is_left_of_a_failed_launch: test");
        }
        return;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    own_mounts();
    own_devices();
    let temp = tempfile::tempdir().unwrap();
    let _agent = bundle(temp.path());
    let map = b"0 100000 65536\n".to_vec();
    let users = userns::with_maps(&IdMaps { uid_map: map.clone(), gid_map: map }).unwrap();
    let joined = joined_user_namespace(&format!("/proc/self/fd/{}", users.as_raw_fd()));
    let state = StateRoot::open(&temp.path().join("state")).unwrap();
    let container = ContainerState { id: "faults".into(), ..ContainerState::default() };
    let dir = state.reserve(&container).unwrap();
    let (zygote, here) = (Launcher::Zygote(Zygote::start()), Launcher::Here);
    let mut failures = 0;
    for (launcher, config) in [
        (&here, joined.clone()),
        (&zygote, joined),
        (&zygote, user_namespace()),
        (&zygote, joined_namespaces()),
        // Without them a zygote stays in a mount namespace of its own.
        (&zygote, without_hooks(user_namespace())),
        (&zygote, without_hooks(joined_namespaces())),
    ] {
        let world =
            World { bundle: temp.path(), dir: &dir, spec: spec(temp.path(), config), launcher, container: &container };
        failures += world.between_any_two_steps() + world.before_the_first_step() + world.in_a_cgroup();
    }
    failures += zygote.refuses_what_is_no_plan(&dir);
    drop(zygote);
    println!("{failures} failures left nothing behind");
    println!("test result: ok. 1 passed; 0 failed");
}

/// A network namespace of our own, whose one device is up.
fn own_devices() {
    sys::unshare(libc::CLONE_NEWNET).unwrap();
    sys::loopback_up().unwrap();
}

fn device_is_up() -> bool {
    let output =
        Command::new("ip").args(["-o", "link", "show", "dev", DEVICE]).output().expect("iproute2 is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(['<', '>']).nth(1).is_some_and(|flags| flags.split(',').any(|flag| flag == "UP"))
}

fn without_hooks(mut config: Value) -> Value {
    config["hooks"].take();
    config
}

/// As [`user_namespace`], but the user namespace is there already.
fn joined_user_namespace(path: &str) -> Value {
    let mut config = user_namespace();
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "user" {
            namespace["path"] = path.into();
        }
    }
    config
}

/// Who clones.
enum Launcher {
    Here,
    Zygote(Zygote),
}

struct Zygote {
    process: Child,
    socket: OwnedFd,
}

impl Zygote {
    fn start() -> Zygote {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let program = std::env::current_exe().unwrap();
        let process = Command::new(program).arg(ZYGOTE).stdin(Stdio::from(theirs)).spawn().unwrap();
        Zygote { process, socket: ours }
    }

    fn ask(&self, plan: &[u8], fds: Vec<OwnedFd>) -> Result<Spawned, SpawnError> {
        let mut request = Outgoing::new(plan, fds).unwrap();
        while !request.send_next(self.socket.as_fd()).unwrap() {}
        receive_reply(self.socket.as_fd()).unwrap().expect("the zygote lives")
    }

    /// What its failures could leave in it.
    fn traces(&self) -> (String, usize, Vec<PathBuf>) {
        let path = |file: &str| format!("/proc/{}/{file}", self.process.id());
        let namespaces = ["mnt", "net", "user", "uts", "ipc", "cgroup", "pid"].map(|kind| path(&format!("ns/{kind}")));
        let mut places: Vec<PathBuf> = namespaces.iter().map(|link| fs::read_link(link).unwrap()).collect();
        places.extend(["root", "cwd"].map(|link| fs::read_link(path(link)).unwrap()));
        (fs::read_to_string(path("mountinfo")).unwrap(), fs::read_dir(path("fd")).unwrap().count(), places)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Launcher {
    fn spawn(&self, Launch { plan, fds, .. }: Launch) -> Result<Spawned, SpawnError> {
        match self {
            Launcher::Here => Host::open(false).unwrap().spawn(&plan, &fds),
            Launcher::Zygote(zygote) => zygote.ask(&wire::encode(&plan), fds),
        }
    }

    /// Runs something that fails, here and in the zygote if there is one, and looks for what is left of it.
    fn traceless(&self, dir: &ContainerDir, what: &str, fail: impl FnOnce()) {
        let of_zygote = || match self {
            Launcher::Zygote(zygote) => Some(zygote.traces()),
            Launcher::Here => None,
        };
        let (before, zygote) = (Traces::look(dir), of_zygote());
        fail();
        before.assert_same(dir, what);
        // It closes what was the child's after its reply.
        let deadline = Instant::now() + PATIENCE;
        while of_zygote() != zygote && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(of_zygote(), zygote, "{what}: the zygote");
    }

    /// Requests that do not come to a clone.
    fn refuses_what_is_no_plan(&self, dir: &ContainerDir) -> usize {
        let Launcher::Zygote(zygote) = self else { return 0 };
        let plan = brood_launcher::plan::Plan {
            status: Some(STATUS),
            steps: vec![Step::Exec { argv: Vec::new(), env: Vec::new() }],
            ..Default::default()
        };
        let requests = [Vec::new(), vec![1; 100], vec![0; 70_000], wire::encode(&plan)];
        for bytes in &requests {
            self.traceless(dir, "no plan", || {
                let error = zygote.ask(bytes, Vec::new()).unwrap_err();
                assert!(error.what.contains("plan") && error.killed.is_empty(), "{error}");
            });
        }
        requests.len()
    }
}

/// A configuration, and where and by whom it is tried.
struct World<'a> {
    bundle: &'a Path,
    dir: &'a ContainerDir,
    spec: Spec,
    launcher: &'a Launcher,
    container: &'a ContainerState,
}

impl World<'_> {
    fn build(&self) -> Rich {
        let from_zygote = matches!(self.launcher, Launcher::Zygote(_));
        Rich::build(from_zygote, &self.spec, self.bundle, self.container.clone(), None)
    }

    fn between_any_two_steps(&self) -> usize {
        let count = self.build().launch.plan.steps.len();
        for position in 0..=count {
            let what = format!("at {position} of {count}");
            self.launcher.traceless(self.dir, &what, || {
                let mut rich = self.build();
                if position < count {
                    rich.launch.plan.steps.insert(position, no_namespace());
                }
                self.fails(rich, position.min(count - 1), &what);
            });
        }
        count + 1
    }

    /// Launches, and expects the report of a failure at that position.
    fn fails(&self, Rich { launch, status, console }: Rich, expected: usize, what: &str) {
        let awaits = matches!(launch.plan.steps.get(1), Some(Step::AwaitParent));
        match self.launcher.spawn(launch) {
            Ok(spawned) => {
                assert_failed(read(&status), expected, what);
                drop(console);
                assert_eq!(reap(&spawned), Some(FAILED), "{what}");
                reap_helper(&spawned);
            }
            // A child that is gone before its parent's half leaves nobody to do it for.
            Err(error) => {
                assert!(expected == 0 && awaits, "{what}: {error}");
                reap_killed(&error);
            }
        }
    }

    /// The cloning process cannot clone, or do its half for the child.
    fn before_the_first_step(&self) -> usize {
        let namespace = Namespace { kind: NamespaceKind::Uts, fd: STATUS };
        let device = |name: &'static str, new_name: &str| {
            let device = NetDevice { name: text(name), new_name: text(new_name) };
            move |launch: &mut Launch| launch.plan.net_devices.push(device.clone())
        };
        let mut faults: Vec<Fault<'_>> = vec![
            ("namespace", Box::new(|launch| launch.plan.born.push(namespace))),
            ("user namespace", Box::new(|launch| launch.plan.user_namespace = Some(STATUS))),
            ("clone3", Box::new(|launch| launch.plan.cgroup = Some(STATUS))),
            ("clone3", Box::new(|launch| launch.plan.cgroup = Some(launch.add_fd(Cgroup::make(self.dir).open())))),
            ("clone3", Box::new(|launch| launch.plan.clone_flags |= 1 << 40)),
            ("oomScoreAdj", Box::new(|launch| launch.plan.oom_score_adj = Some(5000))),
            ("linux.netDevices.nowhere: find the device", Box::new(device("nowhere", "eth0"))),
        ];
        if self.build().launch.plan.clone_flags & libc::CLONE_NEWNET as u64 != 0 {
            faults.push(("linux.netDevices.lo: move it", Box::new(device(DEVICE, "eth0"))));
        }
        if self.build().launch.plan.id_maps.is_some() {
            faults.push((
                "linux.uidMappings",
                Box::new(|launch| {
                    launch.plan.id_maps.as_mut().unwrap().uid_map = b"0 4294967295 2\n".to_vec();
                }),
            ));
        }
        for (word, spoil) in &faults {
            self.launcher.traceless(self.dir, word, || {
                let mut rich = self.build();
                spoil(&mut rich.launch);
                let error = self.launcher.spawn(rich.launch).unwrap_err();
                assert!(error.what.contains(word), "{word}: {error}");
                reap_killed(&error);
            });
            assert!(device_is_up(), "{word}");
        }
        faults.len()
    }

    /// A child that was born in a cgroup leaves it empty.
    fn in_a_cgroup(&self) -> usize {
        let cgroup = Cgroup::make(self.dir);
        let count = self.build().launch.plan.steps.len();
        let positions = [count / 3, count / 2, count];
        for position in positions {
            self.launcher.traceless(self.dir, "in a cgroup", || {
                let mut rich = self.build();
                rich.launch.plan.cgroup = Some(rich.launch.add_fd(cgroup.open()));
                if position < count {
                    rich.launch.plan.steps.insert(position, no_namespace());
                }
                self.fails(rich, position.min(count - 1), "in a cgroup");
            });
            let events = fs::read_to_string(cgroup.0.join("cgroup.events")).unwrap();
            assert!(events.contains("populated 0"), "{events}");
        }
        positions.len()
    }
}

fn text(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap()
}

/// A process in between, which a zygote hands to its supervisor.
fn reap_helper(spawned: &Spawned) {
    if let Some(helper) = &spawned.helper {
        rustix::process::waitid(WaitId::PidFd(helper.as_fd()), WaitIdOptions::EXITED).unwrap();
    }
}

/// A cgroup v2 directory below our own, removed with this.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(dir: &ContainerDir) -> Cgroup {
        let hierarchy =
            brood_launcher::cgroup::Host::find().unified().expect("a writable cgroup v2 hierarchy is mounted");
        let path = hierarchy.place(dir.path(), "launch-faults", None);
        fs::create_dir(&path).unwrap();
        Cgroup(path)
    }

    fn open(&self) -> OwnedFd {
        fs::File::open(&self.0).unwrap().into()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}
