//! Supervisors, zygotes and keepers are killed, keeper and supervisor together too, and upgraded, at random moments under a
//! stream of containers and execs. Each container knows how it will end and what it will say; afterwards Brood must have said
//! the same, of each once.
//!
//! A status may be lost, and must then be said to be, of what lived while a supervisor died whose children had no keeper to
//! go to: the keeper had died before or with it. Nothing else may be.
//!
//! `BROOD_CHAOS_SEED=7 BROOD_CHAOS_KILLS=2000 cargo test -p brood-tests --test chaos -- --nocapture`

use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brood_tests::procfs::{self, Process};
use brood_tests::{Cmd, Daemon, Output, Sandbox, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Ends of our processes.
const KILLS: usize = 200;
/// Threads that start containers and execs.
const WORKERS: usize = 3;
/// Keeper and supervisor are dead, and the next ones not there yet.
const NOBODY: &str = "cannot reach the daemon";
const ARGUMENTS: &[&str] = &["--retain-count", "1000000"];

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// SplitMix64: everything that is drawn follows from the seed, and one seed's from no other's.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 33) % bound
    }
}

/// What a process is to say and how it is to end.
struct Truth {
    lines: u64,
    status: i32,
}

impl Truth {
    fn draw(random: &mut Random) -> Truth {
        Truth { lines: random.below(400), status: random.below(120) as i32 }
    }

    /// Slow enough that something happens meanwhile.
    fn script(&self) -> String {
        let Truth { lines, status } = self;
        format!(
            "i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.05; done; exit {status}"
        )
    }

    fn text(&self) -> String {
        (0..self.lines).map(|line| format!("line {line}\n")).collect()
    }
}

/// What was seen.
#[derive(Default)]
struct Tally {
    processes: AtomicUsize,
    bytes: AtomicUsize,
    refused: AtomicUsize,
    lost: AtomicUsize,
}

/// How often what was ended.
#[derive(Default)]
struct Ends {
    supervisors: usize,
    zygotes: usize,
    keepers: usize,
    both: usize,
    upgrades: usize,
}

/// From the end of a supervisor whose children went to a stranger, until the next one had them under its eyes.
struct Gap {
    began: Instant,
    over: Instant,
}

struct Chaos<'a> {
    sandbox: &'a Sandbox,
    /// The one that lives, and those before it.
    daemons: Mutex<Vec<Daemon<'a>>>,
    gaps: Mutex<Vec<Gap>>,
    seed: u64,
    over: AtomicBool,
    tally: Tally,
    /// Exit statuses by container, and by container and exec.
    ended: Mutex<HashMap<(String, String), i32>>,
}

impl Chaos<'_> {
    fn brood(&self) -> Cmd {
        let socket = self.sandbox.root().join("brood.sock");
        self.sandbox.brood().arg("--host").arg(format!("unix://{}", socket.display()))
    }

    fn log(&self) -> String {
        self.daemons.lock().unwrap().last().map(Daemon::log).unwrap_or_default()
    }

    /// Our processes of this name. Whose child they are changes.
    fn named(&self, name: &str) -> Vec<Process> {
        let (title, root) = (format!("brood: {name}"), self.sandbox.root().display().to_string());
        let ours = |process: &Process| process.cmdline.starts_with(&title) && process.cmdline.contains(&root);
        procfs::processes().into_iter().filter(ours).collect()
    }

    fn one(&self, name: &str) -> i32 {
        waiting::until(name, || match self.named(name).as_slice() {
            [one] => Some(one.pid),
            _ => None,
        })
    }

    /// A command that may be given again, until somebody is there whom it reaches.
    fn insist(&self, args: &[&str]) -> Output {
        waiting::until("a daemon", || {
            let output = self.brood().args(args).run();
            let nobody = output.code() == 125 && output.stderr.contains(NOBODY);
            (!nobody).then_some(output)
        })
    }

    /// A launch that died with its zygote, or with the supervisor, or reached nobody, is refused, and so says its caller's
    /// status.
    fn is_refused(&self, output: &Output) -> bool {
        let words = ["zygote", "whether its program has begun is not known", "its program never ran", NOBODY];
        let refused = output.code() == 125 && words.iter().any(|word| output.stderr.contains(word));
        self.tally.refused.fetch_add(usize::from(refused), Ordering::Relaxed);
        refused
    }

    /// Whether its status is said to be lost, with the reason, and may be: it was waited for since `began`.
    fn is_lost(&self, waited: &Output, began: Instant) -> bool {
        let reasons = ["it ended while neither supervisor nor keeper was there", "reaped by another process"];
        let lost = waited.code() == 255
            && reasons.iter().any(|reason| waited.stderr.contains(&format!("exit status unknown: {reason}")));
        if lost {
            // It is asked for when the next supervisor is there, before that gap is noted as over.
            let in_a_gap =
                || self.gaps.lock().unwrap().iter().any(|gap| gap.over >= began && gap.began <= Instant::now());
            waiting::until("a reason for the loss of a status", || in_a_gap().then_some(()));
            self.tally.lost.fetch_add(1, Ordering::Relaxed);
        }
        lost
    }

    fn check(&self, truth: &Truth, output: &str, waited: &Output, began: Instant) {
        let seed = self.seed;
        if !self.is_lost(waited, began) {
            let log = self.log();
            assert_eq!(waited.code(), truth.status, "seed {seed}: {waited}: exit status\nthe daemon's log:\n{log}");
        }
        let (said, expected) = (output.len(), truth.text().len());
        assert!(
            output == truth.text(),
            "seed {seed}: {waited}: {said} bytes of output, not the {expected} that it wrote"
        );
        self.tally.processes.fetch_add(1, Ordering::Relaxed);
        self.tally.bytes.fetch_add(expected, Ordering::Relaxed);
    }

    fn told(&self, id: &str, process: &str, status: i32) {
        self.ended.lock().unwrap().insert((id.to_owned(), process.to_owned()), status);
    }

    fn work(&self, worker: u64) {
        let mut random = Random(self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(worker + 1));
        let long = self.sandbox.id(&format!("long{worker}"));
        while self.brood().args(["run", "-d", "--name", &long, "sleep", "100000"]).run().code() != 0 {}
        let mut number = 0;
        while !self.over.load(Ordering::Relaxed) {
            number += 1;
            let id = self.sandbox.id(&format!("box{worker}-{number}"));
            let truth = Truth::draw(&mut random);
            match random.below(3) {
                0 => self.attached(&id, &truth),
                1 => self.detached(&id, &truth),
                _ => self.exec(&long, &format!("exec{number}"), &truth),
            }
        }
        self.insist(&["rm", "--force", &long]).ok();
    }

    fn attached(&self, id: &str, truth: &Truth) {
        let began = Instant::now();
        let ran = self.brood().args(["run", "--rm", "--name", id, "sh", "-c", &truth.script()]).run();
        if !self.is_refused(&ran) {
            self.check(truth, &ran.stdout, &ran, began);
            self.told(id, "init", ran.code());
        }
    }

    fn detached(&self, id: &str, truth: &Truth) {
        let began = Instant::now();
        let ran = self.brood().args(["run", "-d", "--name", id, "sh", "-c", &truth.script()]).run();
        if self.is_refused(&ran) {
            return;
        }
        assert_eq!(ran.code(), 0, "seed {}: {ran}", self.seed);
        let waited = self.insist(&["wait", id]);
        let output = fs::read_to_string(self.sandbox.root().join(id).join("init/stdout")).expect("its output");
        self.check(truth, &output, &waited, began);
        self.told(id, "init", waited.code());
        self.insist(&["rm", id]).ok();
    }

    fn exec(&self, id: &str, name: &str, truth: &Truth) {
        let began = Instant::now();
        let ran = self.brood().args(["exec", "--name", name, id, "sh", "-c", &truth.script()]).run();
        if !self.is_refused(&ran) {
            self.check(truth, &ran.stdout, &ran, began);
            self.told(id, name, ran.code());
        }
    }

    /// A child on its way to its program still has the name of the zygote that has cloned it; but it is in a pid namespace of
    /// its container's, and to kill it would be to kill that.
    fn zygotes(&self, supervisor: i32) -> Vec<i32> {
        let children = procfs::processes().into_iter().filter(|process| process.ppid == supervisor);
        let zygotes =
            children.filter(|process| process.cmdline.starts_with("brood: zygote")).map(|process| process.pid);
        let outside =
            |pid: &i32| procfs::status(*pid, "NSpid").is_some_and(|pids| pids.split_whitespace().count() == 1);
        zygotes.filter(outside).collect()
    }

    /// Kills until there were enough kills. How long nobody answered after each end of a supervisor.
    fn kill(&self, kills: usize) -> (Ends, Vec<Duration>) {
        let mut random = Random(self.seed);
        let (mut ends, mut answers) = (Ends::default(), Vec::new());
        // Whether the supervisor's children go to the keeper when it dies.
        let mut kept = true;
        for _ in 0..kills {
            // Not always at the same distance from what it does.
            std::thread::sleep(Duration::from_millis(random.below(60)));
            let (supervisor, began) = (self.one("supervisor"), Instant::now());
            let ended = match random.below(20) {
                0..=8 => {
                    ends.supervisors += 1;
                    send(supervisor, Signal::KILL);
                    true
                }
                9..=13 => {
                    ends.zygotes += 1;
                    let zygotes = self.zygotes(supervisor);
                    if let Some(zygote) = zygotes.get(random.below(zygotes.len().max(1) as u64) as usize) {
                        send(*zygote, Signal::KILL);
                    }
                    false
                }
                14..=15 => {
                    ends.keepers += 1;
                    let keeper = self.one("keeper");
                    send(keeper, Signal::KILL);
                    waiting::until("another keeper", || {
                        self.named("keeper").iter().any(|other| other.pid != keeper).then_some(())
                    });
                    kept = false;
                    false
                }
                16..=17 => {
                    ends.both += 1;
                    self.kill_both(supervisor);
                    kept = false;
                    true
                }
                _ => {
                    ends.upgrades += 1;
                    drop(self.brood().args(["daemon", "--upgrade"]).run());
                    self.one("supervisor") != supervisor
                }
            };
            if ended {
                self.brood().arg("version").run().ok();
                answers.push(began.elapsed());
                if !std::mem::replace(&mut kept, true) {
                    self.gaps.lock().unwrap().push(Gap { began, over: Instant::now() });
                }
            }
        }
        (ends, answers)
    }

    /// Keeper and supervisor at once, and another daemon in their place.
    fn kill_both(&self, supervisor: i32) {
        let keeper = self.one("keeper");
        // Neither may start the other again.
        for signal in [Signal::STOP, Signal::KILL] {
            send(keeper, signal);
            send(supervisor, signal);
        }
        waiting::gone(supervisor);
        waiting::gone(keeper);
        let daemon = Daemon::start(self.sandbox, ARGUMENTS);
        self.daemons.lock().unwrap().push(daemon);
    }

    /// SIGTERM to whichever keeper there is by now.
    fn stop(&self) {
        let (keeper, supervisor) = (self.one("keeper"), self.one("supervisor"));
        send(keeper, Signal::TERM);
        waiting::gone(supervisor);
        waiting::gone(keeper);
    }
}

fn send(pid: i32, signal: Signal) {
    // It may just have been gone.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

#[test]
fn nothing_is_lost_whatever_is_killed() {
    let (seed, kills) = (parameter("BROOD_CHAOS_SEED", 1), parameter("BROOD_CHAOS_KILLS", KILLS as u64) as usize);
    let sandbox = Sandbox::new();
    // Orphans of a double fault go to the machine's init, which reaps them; we would not.
    rustix::process::set_child_subreaper(None).expect("PR_SET_CHILD_SUBREAPER");
    let daemons = Mutex::new(vec![Daemon::start(&sandbox, ARGUMENTS)]);
    let (over, tally, ended) = (AtomicBool::new(false), Tally::default(), Mutex::default());
    let chaos = Chaos { sandbox: &sandbox, daemons, gaps: Mutex::default(), seed, over, tally, ended };
    let (ends, mut gaps) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS as u64)
            .map(|worker| {
                scope.spawn({
                    let chaos = &chaos;
                    move || chaos.work(worker)
                })
            })
            .collect();
        let killed = chaos.kill(kills);
        chaos.over.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        killed
    });
    gaps.sort();
    // The journal has the exit of each process once, and the one that its caller was told.
    let events = chaos.brood().args(["events", "--format", "json"]).run().ok();
    let mut journaled: HashMap<(String, String), Vec<i32>> = HashMap::new();
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["type"] == "exit" {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            let status = event["exit"]["status"].as_i64().unwrap() as i32;
            journaled.entry((text("id"), text("process"))).or_default().push(status);
        }
    }
    for (process, status) in chaos.ended.lock().unwrap().iter() {
        assert_eq!(journaled.get(process), Some(&vec![*status]), "seed {seed}: {process:?} in the journal");
    }
    let twice: Vec<_> = journaled.iter().filter(|(_, exits)| exits.len() > 1).collect();
    assert!(twice.is_empty(), "seed {seed}: told more than once: {twice:?}");
    waiting::until("an empty list", || {
        chaos.brood().args(["list", "--quiet"]).run().ok().trim().is_empty().then_some(())
    });
    chaos.stop();
    let Tally { processes, bytes, refused, lost } = &chaos.tally;
    let [processes, bytes, refused, lost] =
        [processes, bytes, refused, lost].map(|count| count.load(Ordering::Relaxed));
    let Ends { supervisors, zygotes, keepers, both, upgrades } = ends;
    let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    eprintln!(
        "seed {seed}: {kills} ends: {supervisors} of supervisors, {keepers} of keepers, {both} of both at once, {zygotes} of \
         zygotes, {upgrades} upgrades; {processes} exit statuses and {bytes} bytes of output, none wrong or doubled, {lost} \
         statuses that nobody knew told as lost; {refused} launches refused; back after {median:?} (median), {most:?} (longest)"
    );
    assert!(processes > kills / 10, "hardly anything ran");
}
