//! Supervisors and zygotes are killed, and upgraded, at random moments under a stream of containers and execs. Each container
//! knows how it will end and what it will say; afterwards Brood must have said the same, of each once.
//!
//! `BROOD_CHAOS_SEED=7 BROOD_CHAOS_KILLS=2000 cargo test -p brood-tests --features chaos --test chaos -- --nocapture`

use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brood_tests::{Daemon, Output, Sandbox, procfs, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Ends of the supervisor or of a zygote.
const KILLS: usize = 200;
/// Threads that start containers and execs.
const WORKERS: usize = 3;

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// xorshift64*: everything that is drawn follows from the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
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
}

struct Chaos<'a> {
    sandbox: &'a Sandbox,
    daemon: &'a Daemon<'a>,
    seed: u64,
    over: AtomicBool,
    tally: Tally,
    /// Exit statuses by container, and by container and exec.
    ended: Mutex<HashMap<(String, String), i32>>,
}

impl Chaos<'_> {
    /// A launch that died with its zygote, or with the supervisor, is refused, and so says its caller's status.
    fn is_refused(&self, output: &Output) -> bool {
        let words = ["zygote", "whether its program has begun is not known"];
        let refused = output.code() == 125 && words.iter().any(|word| output.stderr.contains(word));
        self.tally.refused.fetch_add(usize::from(refused), Ordering::Relaxed);
        refused
    }

    /// What is being set up while its supervisor dies ends by SIGPIPE at its next report, and its program never runs.
    fn never_ran(output: &str, status: i32) -> bool {
        output.is_empty() && status == 128 + Signal::PIPE.as_raw()
    }

    fn check(&self, truth: &Truth, output: &str, status: i32, what: &str) {
        let seed = self.seed;
        if Chaos::never_ran(output, status) {
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        assert_eq!(status, truth.status, "seed {seed}: {what}: exit status\nthe daemon's log:\n{}", self.daemon.log());
        let (said, expected) = (output.len(), truth.text().len());
        assert!(
            output == truth.text(),
            "seed {seed}: {what}: {said} bytes of output, not the {expected} that it wrote"
        );
        self.tally.processes.fetch_add(1, Ordering::Relaxed);
        self.tally.bytes.fetch_add(expected, Ordering::Relaxed);
    }

    fn told(&self, id: &str, process: &str, status: i32) {
        self.ended.lock().unwrap().insert((id.to_owned(), process.to_owned()), status);
    }

    fn work(&self, worker: u64) {
        let mut random = Random(self.seed.wrapping_mul(31).wrapping_add(worker + 1) | 1);
        let long = self.sandbox.id(&format!("long{worker}"));
        while self.daemon.brood().args(["run", "-d", "--name", &long, "sleep", "100000"]).run().code() != 0 {}
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
        self.daemon.brood().args(["rm", "--force", &long]).run().ok();
    }

    fn attached(&self, id: &str, truth: &Truth) {
        let ran = self.daemon.brood().args(["run", "--rm", "--name", id, "sh", "-c", &truth.script()]).run();
        if !self.is_refused(&ran) {
            self.check(truth, &ran.stdout, ran.code(), &format!("{ran}"));
            self.told(id, "init", ran.code());
        }
    }

    fn detached(&self, id: &str, truth: &Truth) {
        let ran = self.daemon.brood().args(["run", "-d", "--name", id, "sh", "-c", &truth.script()]).run();
        if self.is_refused(&ran) {
            return;
        }
        assert_eq!(ran.code(), 0, "seed {}: {ran}", self.seed);
        let waited = self.daemon.brood().args(["wait", id]).run();
        let output = fs::read_to_string(self.sandbox.root().join(id).join("init/stdout")).expect("its output");
        self.check(truth, &output, waited.code(), &format!("{waited}"));
        self.told(id, "init", waited.code());
        self.daemon.brood().args(["rm", id]).run().ok();
    }

    fn exec(&self, id: &str, name: &str, truth: &Truth) {
        let ran = self.daemon.brood().args(["exec", "--name", name, id, "sh", "-c", &truth.script()]).run();
        if !self.is_refused(&ran) {
            self.check(truth, &ran.stdout, ran.code(), &format!("{ran}"));
            self.told(id, name, ran.code());
        }
    }

    /// A child on its way to its program still has the name of the zygote that has cloned it; but it is in a pid namespace of
    /// its container's, and to kill it would be to kill that.
    fn zygotes(&self) -> Vec<i32> {
        let named = self.daemon.named("zygote").into_iter().map(|process| process.pid);
        let outside =
            |pid: &i32| procfs::status(*pid, "NSpid").is_some_and(|pids| pids.split_whitespace().count() == 1);
        named.filter(outside).collect()
    }

    /// Kills until there were enough kills. How long nobody answered after each end of a supervisor.
    fn kill(&self, kills: usize) -> Vec<Duration> {
        let mut random = Random(self.seed | 1);
        let mut gaps = Vec::new();
        for _ in 0..kills {
            // Not always at the same distance from what it does.
            std::thread::sleep(Duration::from_millis(random.below(60)));
            let supervisor = self.daemon.supervisor().pid;
            match random.below(10) {
                0..=5 => {
                    let began = Instant::now();
                    let _ = kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL);
                    self.daemon.brood().arg("version").run().ok();
                    gaps.push(began.elapsed());
                }
                6..=8 => {
                    let zygotes = self.zygotes();
                    if let Some(zygote) = zygotes.get(random.below(zygotes.len().max(1) as u64) as usize) {
                        let _ = kill_process(Pid::from_raw(*zygote).unwrap(), Signal::KILL);
                    }
                }
                _ => drop(self.daemon.brood().args(["daemon", "--upgrade"]).run()),
            }
        }
        gaps
    }
}

#[test]
fn nothing_is_lost_whatever_is_killed() {
    let (seed, kills) = (parameter("BROOD_CHAOS_SEED", 1), parameter("BROOD_CHAOS_KILLS", KILLS as u64) as usize);
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--retain-count", "1000000"]);
    let (over, tally, ended) = (AtomicBool::new(false), Tally::default(), Mutex::default());
    let chaos = Chaos { sandbox: &sandbox, daemon: &daemon, seed, over, tally, ended };
    let mut gaps = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS as u64)
            .map(|worker| {
                scope.spawn({
                    let chaos = &chaos;
                    move || chaos.work(worker)
                })
            })
            .collect();
        let gaps = chaos.kill(kills);
        chaos.over.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        gaps
    });
    gaps.sort();
    // The journal has the exit of each process once, and the one that its caller was told.
    let events = daemon.brood().args(["events", "--format", "json"]).run().ok();
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
        daemon.brood().args(["list", "--quiet"]).run().ok().trim().is_empty().then_some(())
    });
    let Tally { processes, bytes, refused } = &chaos.tally;
    let [processes, bytes, refused] = [processes, bytes, refused].map(|count| count.load(Ordering::Relaxed));
    let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    eprintln!(
        "seed {seed}: {kills} ends, {} of supervisors; {processes} exit statuses and {bytes} bytes of output, none lost or \
         doubled; {refused} launches refused with their zygote; back after {median:?} (median), {most:?} (longest)",
        gaps.len()
    );
    assert!(processes > kills / 10, "hardly anything ran");
}
