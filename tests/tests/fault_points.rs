//! Wherever a supervisor dies, right before or right after anything that it does: no status is lost or told twice, what was
//! half made is finished or undone, whoever waits is answered by the next one, and nothing is left.
//!
//! The points are those of `core/src/fault.rs`; only debug builds have them.

use std::fs;
use std::path::PathBuf;

use brood_tests::{Bundle, Daemon, Output, Sandbox, procfs, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SOURCE: &str = include_str!("../../core/src/fault.rs");

fn points() -> Vec<&'static str> {
    let (_, list) = SOURCE.split_once("POINTS: &[&str] = &[").expect("the list");
    let (list, _) = list.split_once("];").expect("its end");
    let quoted = list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    quoted.collect()
}

/// A daemon, and the file by which its supervisor is told where to die.
struct Scene<'a> {
    sandbox: &'a Sandbox,
    daemon: &'a Daemon<'a>,
    bundle: &'a Bundle,
    file: PathBuf,
    /// What is tried now, for messages.
    what: String,
    id: String,
    /// Which container's process has ended how.
    ended: Vec<(String, String, i64)>,
}

impl Scene<'_> {
    fn run(&self, args: &[&str]) -> Output {
        self.daemon.brood().args(args).run()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.code(), 0, "{}: {output}\n{}", self.what, self.daemon.log());
        output.stdout
    }

    /// A creation whose supervisor died may have been undone; then it says so, and the name is soon free.
    fn made(&self, output: &Output) -> bool {
        let words = ["whether its program has begun is not known", "its program never ran"];
        let undone = output.code() == 125 && words.iter().any(|word| output.stderr.contains(word));
        assert!(!undone || !self.file.exists(), "{}: {output}", self.what);
        !undone
    }

    fn create(&self) {
        let args = ["create", "--name", &self.id, "--bundle", self.bundle.path().to_str().unwrap()];
        let created = self.run(&args);
        if self.made(&created) {
            assert_eq!(created.code(), 0, "{}: {created}\n{}", self.what, self.daemon.log());
        } else {
            let folder = self.sandbox.root().join(&self.id);
            waiting::until("its removal", || (!folder.exists()).then_some(()));
            self.ok(&args);
        }
    }

    /// Something attached that says a word and ends; once more if its supervisor has taken it along.
    fn attached(&mut self, args: &dyn Fn(&str) -> Vec<String>, container: Option<&str>, status: i64) {
        for name in ["first", "second"] {
            let name = format!("{}-{name}", self.id);
            let args = args(&name);
            let output = self.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
            if self.made(&output) {
                assert_eq!(
                    (i64::from(output.code()), output.stdout.as_str()),
                    (status, "said\n"),
                    "{}: {output}",
                    self.what
                );
                let (id, process) = container.map_or((name.as_str(), "init"), |id| (id, name.as_str()));
                self.ended.push((id.to_owned(), process.to_owned(), status));
                return;
            }
        }
        panic!("{}: undone twice", self.what);
    }

    /// A program that is not there.
    fn failing(&self) {
        let name = format!("{}-failing", self.id);
        let output = self.run(&["run", "--rm", "--name", &name, "--", "no-such-program"]);
        if self.made(&output) {
            assert_eq!(output.code(), 127, "{}: {output}", self.what);
        }
    }

    /// A whole life. What is armed strikes on the way.
    fn play(&mut self) {
        let id = self.id.clone();
        self.create();
        self.ok(&["start", &id]);
        let said = self.sandbox.root().join(&id).join("init/stdout");
        waiting::until("its word", || fs::read_to_string(&said).is_ok_and(|said| said == "said\n").then_some(()));
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let exec = |name: &str| words(&["exec", "--name", name, &id, "sh", "-c", "echo said; exit 3"]);
        self.attached(&exec, Some(&id), 3);
        let run = |name: &str| words(&["run", "--rm", "--name", name, "--", "sh", "-c", "echo said; exit 5"]);
        self.attached(&run, None, 5);
        self.failing();
        self.ok(&["pause", &id]);
        self.ok(&["resume", &id]);
        let waiter = self.daemon.brood().args(["wait", &id]).start();
        self.ok(&["kill", "--signal", "TERM", &id]);
        let waited = waiter.finish();
        assert_eq!(waited.code(), 7, "{}: {waited}\n{}", self.what, self.daemon.log());
        self.ended.push((id.clone(), "init".to_owned(), 7));
        assert_eq!(self.run(&["wait", &id]).code(), 7, "{}", self.what);
        assert_eq!(fs::read_to_string(&said).unwrap(), "said\n", "{}", self.what);
        self.ok(&["rm", &id]);
    }
}

#[test]
fn a_supervisor_may_die_at_every_effect() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("fault");
    let variable = format!("BROOD_FAULT_FILE={}", file.display());
    let daemon = Daemon::start_through(&sandbox, &["env", &variable], &["--retain-count", "1000000"]);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.sh("trap 'exit 7' TERM; echo said; sleep 1000 & wait");
    bundle.write();
    let (keeper, first) = (daemon.pid(), daemon.supervisor().pid);
    let what = "nothing".to_owned();
    let mut scene = Scene {
        sandbox: &sandbox,
        daemon: &daemon,
        bundle: &bundle,
        file,
        what,
        id: sandbox.id("none"),
        ended: Vec::new(),
    };
    scene.play();
    let held = || [keeper, daemon.supervisor().pid].map(|pid| procfs::descriptors(pid).len());
    let before = held();
    assert_eq!(daemon.supervisor().pid, first, "nobody was to die");
    for (number, point) in points().into_iter().enumerate() {
        for when in ["before", "after"] {
            scene.what = format!("{point}, {when}");
            scene.id = sandbox.id(&format!("box{number}{when}"));
            let supervisor = daemon.supervisor().pid;
            // A recovery has nothing to adopt without something that runs.
            let kept = (point == "adopt").then(|| sandbox.id(&format!("kept{when}")));
            if let Some(kept) = &kept {
                scene.ok(&["run", "-d", "--name", kept, "--", "sleep", "1000"]);
            }
            fs::write(&scene.file, format!("{point} {when}")).unwrap();
            if kept.is_some() {
                kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
            }
            scene.play();
            assert!(!scene.file.exists(), "{}: nobody came by", scene.what);
            if let Some(kept) = kept {
                assert_eq!(scene.ok(&["list", "--quiet"]).trim(), kept);
                scene.ok(&["rm", "--force", &kept]);
            }
            waiting::until("an empty list", || scene.ok(&["list", "--quiet"]).trim().is_empty().then_some(()));
            waiting::until("empty folders", || sandbox.containers().is_empty().then_some(()));
            assert_ne!(daemon.supervisor().pid, supervisor, "{}", scene.what);
        }
    }
    // The journal has each exit once, and as it was.
    for (id, process, status) in &scene.ended {
        let events = scene.ok(&["events", "--format", "json", "--id", id]);
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let exits: Vec<i64> = events
            .filter(|event| event["type"] == "exit" && event["process"] == process.as_str())
            .map(|event| event["exit"]["status"].as_i64().unwrap())
            .collect();
        assert_eq!(exits, [*status], "{id}, {process}");
    }
    // Nothing is held that was not before, and nobody waits to be reaped.
    waiting::until("as many descriptors as before", || (held() == before).then_some(()));
    let children =
        procfs::processes().into_iter().filter(|process| [keeper, daemon.supervisor().pid].contains(&process.ppid));
    let dead: Vec<_> = children.filter(|process| process.state == 'Z').collect();
    assert!(dead.is_empty(), "{dead:?}");
}

/// What is being set up while its supervisor dies goes on; should it not get as far as its program, nobody hears of an exit.
#[test]
fn what_was_being_set_up_goes_on_or_is_undone() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("fault");
    let variable = format!("BROOD_FAULT_FILE={}", file.display());
    let daemon = Daemon::start_through(&sandbox, &["env", &variable], &["--zygotes", "1"]);
    let [good, bad] = ["good", "bad"].map(|name| sandbox.id(name));
    let run = |id: &str, program: &[&str]| {
        fs::write(&file, "write pid after").unwrap();
        let run = daemon.brood().args(["run", "--name", id, "--"]).args(program).run();
        assert!(!file.exists(), "nobody came by");
        run
    };
    let ran = run(&good, &["sh", "-c", "echo said; exit 5"]).expect(5);
    assert_eq!(ran.stdout, "said\n");
    let failed = run(&bad, &["no-such-program"]).expect(125);
    let words = ["its program never ran", "whether its program has begun is not known"];
    assert!(words.iter().any(|word| failed.one_line_error().contains(word)), "{failed}");
    waiting::until("its removal", || (sandbox.containers() == [good.as_str()]).then_some(()));
    let events = |id: &str| daemon.brood().args(["events", "--id", id]).run().ok();
    // Nothing but the head of the table.
    assert_eq!(events(&bad).lines().count(), 1);
    assert_eq!(events(&good).matches(" exit ").count(), 1, "{}", events(&good));
    daemon.brood().args(["rm", &good]).run().ok();
}
