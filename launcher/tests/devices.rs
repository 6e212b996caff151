//! Device rules in force: a process in a cgroup opens devices. Takes root, `/dev/fuse` and `/dev/kmsg`, which no container
//! has by default, cgroup v2, and the devices controller of v1.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use brood_launcher::devices::{Compiled, DeviceError, program};
use brood_launcher::plan::CapabilitySets;
use brood_launcher::sys;
use serde_json::{Value, json};

const REFUSED: &str = "Operation not permitted";

#[test]
fn a_program_decides_what_is_opened() {
    let cgroup = Cgroup::v2();
    decides(&cgroup, |rules, _| rules.apply_v2(File::open(&cgroup.path).unwrap().as_fd()));
}

#[test]
fn the_devices_controller_decides_what_is_opened() {
    let cgroup = Cgroup::v1();
    decides(&cgroup, |rules, previous| match previous {
        Some(previous) => rules.update_v1(previous, &cgroup.path),
        None => rules.apply_v1(&cgroup.path),
    });
}

/// The same for both versions: at first, and after an update while a process is there.
fn decides(cgroup: &Cgroup, apply: impl Fn(&Compiled, Option<&Compiled>) -> Result<(), DeviceError>) {
    let fuse = rules(json!([deny_all(), fuse("rw")]));
    apply(&fuse, None).unwrap();
    let mut probe = Probe::new(cgroup);
    for always in ["null", "zero", "full", "random", "urandom"] {
        assert_eq!(probe.opens("<", always), "yes", "{always}");
    }
    assert_eq!(probe.opens("<>", "fuse"), "yes");
    assert!(probe.opens("<", "kmsg").ends_with(REFUSED));
    assert!(probe.opens("<", "loop0").ends_with(REFUSED));

    let kmsg = rules(json!([deny_all(), { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" }]));
    apply(&kmsg, Some(&fuse)).unwrap();
    assert_eq!(probe.opens("<", "kmsg"), "yes");
    assert!(probe.opens("<>", "kmsg").ends_with(REFUSED), "all that is asked for has to be allowed");
    assert!(probe.opens("<", "fuse").ends_with(REFUSED));
    assert_eq!(probe.opens("<>", "null"), "yes");

    let everything = rules(json!([{ "allow": true, "access": "rwm" }]));
    apply(&everything, Some(&kmsg)).unwrap();
    assert_eq!(probe.opens("<>", "kmsg"), "yes");
    let but_writing = rules(
        json!([{ "allow": true, "access": "rwm" }, { "allow": false, "type": "c", "major": 10, "minor": 229, "access": "w" }]),
    );
    apply(&but_writing, Some(&everything)).unwrap();
    assert_eq!(probe.opens("<", "fuse"), "yes");
    assert!(probe.opens("<>", "fuse").ends_with(REFUSED), "nothing of what is asked for may be denied");
    apply(&everything, Some(&but_writing)).unwrap();
    assert_eq!(probe.opens("<>", "fuse"), "yes");
}

#[test]
fn there_is_no_moment_without_a_program() {
    let cgroup = Cgroup::v2();
    // A descriptor that is only a path is enough.
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&cgroup.path).unwrap();
    let both = [rules(json!([deny_all(), fuse("r")])), rules(json!([deny_all(), fuse("rw")]))];
    never_opens(&cgroup, |turn| both[turn % 2].apply_v2(directory.as_fd()).unwrap());
}

#[test]
fn there_is_no_moment_without_the_controllers_list() {
    let cgroup = Cgroup::v1();
    let both = [rules(json!([deny_all(), fuse("r")])), rules(json!([deny_all(), fuse("rw")]))];
    never_opens(&cgroup, |turn| both[turn % 2].apply_v1(&cgroup.path).unwrap());
}

/// A process tries to open kmsg thousands of times, while rules are exchanged that do not allow it.
fn never_opens(cgroup: &Cgroup, exchange: impl Fn(usize)) {
    exchange(0);
    let folder = tempfile::tempdir().unwrap();
    let tried = folder.path().join("tried");
    let mut probe = Probe::new(cgroup);
    probe.say(&format!("try {}", tried.display()));
    assert_eq!(probe.answer(), "trying");
    let deadline = Instant::now() + Duration::from_secs(60);
    let exchanges = (1..).take_while(|_| !tried.exists() && Instant::now() < deadline).map(exchange).count();
    assert_eq!(probe.answer(), "opened 0 times");
    assert!(exchanges > 1);
}

#[test]
fn the_controllers_list_is_what_was_asked_for() {
    let cgroup = Cgroup::v1();
    rules(json!([deny_all(), fuse("rw")])).apply_v1(&cgroup.path).unwrap();
    let list = fs::read_to_string(cgroup.path.join("devices.list")).unwrap();
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    let expected = [
        "b *:* m",
        "c *:* m",
        "c 10:200 rwm",
        "c 10:229 rw",
        "c 136:* rwm",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn the_controller_has_no_safe_way_to_a_deny_list() {
    let cgroup = Cgroup::v1();
    rules(json!([deny_all()])).apply_v1(&cgroup.path).unwrap();
    let all_but_fuse = rules(json!([
        { "allow": true, "access": "rwm" },
        { "allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm" },
    ]));
    let mut probe = Probe::new(&cgroup);
    let refused = all_but_fuse.apply_v1(&cgroup.path).unwrap_err();
    assert!(matches!(refused, DeviceError::Exposes { .. }), "{refused:?}");
    assert!(probe.opens("<", "kmsg").ends_with(REFUSED), "nothing has changed");
    drop(probe);
    all_but_fuse.apply_v1(&cgroup.path).unwrap();
    let mut probe = Probe::new(&cgroup);
    assert_eq!(probe.opens("<", "kmsg"), "yes");
    assert!(probe.opens("<", "fuse").ends_with(REFUSED));
}

#[test]
fn a_cgroup_cannot_allow_more_than_the_one_above() {
    let above = Cgroup::v1();
    rules(json!([deny_all()])).apply_v1(&above.path).unwrap();
    let below = Cgroup::below(&above.path);
    rules(json!([deny_all()])).apply_v1(&below.path).unwrap();
    let refused = rules(json!([deny_all(), fuse("rwm")])).apply_v1(&below.path).unwrap_err();
    let text = format!("{}: c 10:229 rwm", below.path.join("devices.allow").display());
    assert!(matches!(&refused, DeviceError::NotPermitted { what, .. } if *what == text), "{refused:?}");
}

#[test]
fn without_caps_it_is_not_permitted() {
    let (v1, v2) = (Cgroup::v1(), Cgroup::v2());
    let rules = rules(json!([deny_all(), fuse("w")]));
    // Caps belong to a thread.
    let refusals = std::thread::scope(|scope| {
        let refused = || {
            sys::capset(&CapabilitySets::default()).unwrap();
            [rules.apply_v1(&v1.path), rules.apply_v2(File::open(&v2.path).unwrap().as_fd())]
        };
        scope.spawn(refused).join().unwrap()
    });
    for refused in refusals {
        assert!(matches!(refused, Err(DeviceError::NotPermitted { .. })), "{refused:?}");
    }
    let v1 = fs::read_to_string(v1.path.join("devices.list")).unwrap();
    assert_eq!(v1, "a *:* rwm\n", "nothing was changed");
}

#[test]
fn errors_name_what_is_missing() {
    let missing = Path::new("/sys/fs/cgroup/devices/brood-no-such-directory");
    let refused = rules(json!([])).apply_v1(missing).unwrap_err();
    assert_eq!(refused.to_string(), missing.join("devices.list").to_str().unwrap());
    let no_cgroup = File::open("/").unwrap();
    let refused = rules(json!([])).apply_v2(no_cgroup.as_fd()).unwrap_err();
    assert_eq!(refused.to_string(), "query the cgroup's device programs");
    assert!(matches!(refused, DeviceError::System { .. }), "{refused:?}");
}

fn deny_all() -> Value {
    json!({ "allow": false, "access": "rwm" })
}

fn fuse(access: &str) -> Value {
    json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": access })
}

fn rules(rules: Value) -> Arc<Compiled> {
    let rules: Vec<_> = serde_json::from_value(rules).unwrap();
    program(&rules).unwrap()
}

/// A cgroup of this test's own.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn v1() -> Self {
        Self::below(Path::new("/sys/fs/cgroup/devices"))
    }

    fn v2() -> Self {
        let mut roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(Path::new);
        Self::below(roots.find(|root| root.join("cgroup.procs").exists()).expect("a mounted cgroup v2"))
    }

    fn below(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("brood-devices-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}; takes root and that cgroup", path.display()));
        Self { path }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.path).unwrap();
    }
}

/// A shell in the cgroup that opens what it is told to. Dropped, it ends.
struct Probe {
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Probe {
    fn new(cgroup: &Cgroup) -> Self {
        const SCRIPT: &str = r#"
            echo 0 > "$1/cgroup.procs" || exit
            echo ready
            while read -r how device; do
                case $how in
                '<') said=$( { true < "$device"; } 2>&1) && said=yes ;;
                '<>') said=$( { true <> "$device"; } 2>&1) && said=yes ;;
                try)
                    echo trying
                    opened=0 tries=3000
                    while [ $((tries -= 1)) -gt 0 ]; do true < /dev/kmsg && opened=$((opened + 1)); done 2> /dev/null
                    : > "$device"
                    said="opened $opened times" ;;
                esac
                echo "$said"
            done"#;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&cgroup.path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let (orders, answers) = (shell.stdin.take(), BufReader::new(shell.stdout.take().unwrap()));
        let mut probe = Self { shell, orders, answers };
        assert_eq!(probe.answer(), "ready");
        probe
    }

    /// `yes`, or the shell's words.
    fn opens(&mut self, how: &str, device: &str) -> String {
        self.say(&format!("{how} /dev/{device}"));
        self.answer()
    }

    fn say(&mut self, order: &str) {
        writeln!(self.orders.as_ref().unwrap(), "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.shell.kill().unwrap();
        self.shell.wait().unwrap();
    }
}
