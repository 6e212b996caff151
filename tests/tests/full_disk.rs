//! The state directory on a disk that is full, read-only, damaged or gone: typed errors that name the path, nothing lost
//! that was told, and service as before once the cause is away.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use brood_tests::{Daemon, Sandbox, procfs, waiting};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The state root as a file system of its own, until dropped.
struct Disk(PathBuf);

impl Disk {
    fn mounted(sandbox: &Sandbox) -> Self {
        let root = sandbox.root();
        fs::DirBuilder::new().mode(0o700).create(&root).unwrap();
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=0700")).unwrap();
        Self(root)
    }

    /// A second mount of the state root over it, read-only: a file system refuses to become that itself while files are
    /// open for writing.
    fn read_only(sandbox: &Sandbox) -> Self {
        let root = sandbox.root();
        rustix::mount::mount_bind(&root, &root).unwrap();
        mount_change(&root, MountPropagationFlags::PRIVATE).unwrap();
        mount_remount(&root, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        Self(root)
    }

    /// Fills it to the last byte.
    fn fill(&self) -> Filling {
        let path = self.0.join("filling");
        let mut file = fs::File::create(&path).unwrap();
        for size in [4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Filling(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What fills a disk, until dropped.
struct Filling(PathBuf);

impl Drop for Filling {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn run_detached(daemon: &Daemon<'_>, id: &str, args: &[&str]) {
    daemon.brood().args(["run", "-d", "--name", id, "--"]).args(args).run().ok();
}

fn state(daemon: &Daemon<'_>, id: &str) -> Value {
    let states = daemon.brood().args(["list", "--format", "json"]).run().ok();
    let states: Vec<Value> = serde_json::from_str(&states).unwrap();
    states.into_iter().find(|state| state["id"] == id).unwrap_or(Value::Null)
}

/// Exit statuses of a container in the journal's file.
fn journaled(sandbox: &Sandbox, id: &str) -> Vec<i64> {
    let bytes = fs::read(sandbox.root().join("events.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.split_once(' ')?.1).ok());
    events.filter(|event| event["id"] == id).filter_map(|event| event["exit"]["status"].as_i64()).collect()
}

fn kill_supervisor(daemon: &Daemon<'_>) {
    let supervisor = daemon.supervisor().pid;
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    waiting::gone(supervisor);
}

#[test]
fn a_create_on_a_full_disk_is_refused_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let disk = Disk::mounted(&sandbox);
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    let id = sandbox.id("box");
    {
        let _filling = disk.fill();
        for _ in 0..20 {
            let refused = daemon.brood().args(["run", "--name", &id, "--", "true"]).run().expect(125);
            let error = refused.one_line_error();
            assert!(error.contains("no space left on device"), "{refused}");
            assert!(error.contains(sandbox.root().to_str().unwrap()), "{refused}");
            assert_eq!(sandbox.containers(), Vec::<String>::new());
        }
        let left = fs::read_dir(sandbox.root()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(".new")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    daemon.brood().args(["run", "--rm", "--name", &id, "--", "true"]).run().ok();
    assert_eq!(daemon.supervisor().pid, supervisor);
}

#[test]
fn an_exit_on_a_full_disk_is_told_at_once_and_written_when_there_is_room() {
    let sandbox = Sandbox::new();
    let disk = Disk::mounted(&sandbox);
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let id = sandbox.id("box");
    run_detached(&daemon, &id, &["sleep", "1000"]);
    let filling = disk.fill();
    daemon.brood().args(["kill", "--signal", "KILL", &id]).run().ok();
    daemon.brood().args(["wait", &id]).run().expect(137);
    assert!(!sandbox.root().join(&id).join("init/exit").exists());
    assert!(daemon.log().contains("no space left on device"), "{}", daemon.log());
    drop(filling);
    waiting::until("the exit file", || sandbox.root().join(&id).join("init/exit").exists().then_some(()));
    waiting::until("the journal", || (!journaled(&sandbox, &id).is_empty()).then_some(()));
    assert_eq!(sandbox.record(&id, "init/exit")["status"], 137);
    assert_eq!(journaled(&sandbox, &id), [137]);
    daemon.brood().args(["rm", &id]).run().ok();
}

#[test]
fn an_exit_on_a_full_disk_outlives_the_supervisor() {
    let sandbox = Sandbox::new();
    let disk = Disk::mounted(&sandbox);
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let id = sandbox.id("box");
    run_detached(&daemon, &id, &["sleep", "1000"]);
    let filling = disk.fill();
    daemon.brood().args(["kill", "--signal", "KILL", &id]).run().ok();
    daemon.brood().args(["wait", &id]).run().expect(137);
    for _ in 0..2 {
        kill_supervisor(&daemon);
        daemon.brood().args(["wait", &id]).run().expect(137);
        assert_eq!(state(&daemon, &id)["exit"]["status"], 137);
    }
    drop(filling);
    waiting::until("the exit file", || sandbox.root().join(&id).join("init/exit").exists().then_some(()));
    assert_eq!(sandbox.record(&id, "init/exit")["status"], 137);
    daemon.brood().args(["rm", &id]).run().ok();
}

#[test]
fn a_container_is_removed_from_a_full_disk() {
    let sandbox = Sandbox::new();
    let disk = Disk::mounted(&sandbox);
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let id = sandbox.id("box");
    run_detached(&daemon, &id, &["sleep", "1000"]);
    let filling = disk.fill();
    daemon.brood().args(["rm", "--force", &id]).run().ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    drop(filling);
    waiting::until("the journal", || (journaled(&sandbox, &id) == [137]).then_some(()));
    run_detached(&daemon, &id, &["sleep", "1000"]);
    assert!(!sandbox.root().join(&id).join("init/exit").exists(), "the namesake has the other's exit");
    daemon.brood().args(["rm", "--force", &id]).run().ok();
}

#[test]
fn a_program_hears_that_its_log_is_full_and_goes_on_when_there_is_room() {
    let sandbox = Sandbox::new();
    let disk = Disk::mounted(&sandbox);
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let id = sandbox.id("box");
    // The first write fills a page of the disk, the second needs another; it is tried until it is written.
    let script = "trap go=1 USR1; dd if=/dev/zero bs=4096 count=1 2>/dev/null; until [ $go ]; do usleep 10000; done; \
                  until echo second; do touch /tmp/refused; usleep 10000; done 2>/dev/null; exit 5";
    run_detached(&daemon, &id, &["sh", "-c", script]);
    let log = sandbox.root().join(&id).join("init/stdout");
    waiting::until("the first page", || fs::metadata(&log).is_ok_and(|it| it.len() == 4096).then_some(()));
    let filling = disk.fill();
    daemon.brood().args(["kill", "--signal", "USR1", &id]).run().ok();
    let refused = format!("/proc/{}/root/tmp/refused", state(&daemon, &id)["pid"]);
    waiting::until("a refused write", || fs::exists(&refused).unwrap().then_some(()));
    assert_eq!(state(&daemon, &id)["status"], "running");
    assert_eq!(fs::metadata(&log).unwrap().len(), 4096);
    drop(filling);
    daemon.brood().args(["wait", &id]).run().expect(5);
    let text = fs::read(&log).unwrap();
    assert_eq!(text.split_at(4096), ([0; 4096].as_slice(), b"second\n".as_slice()));
    daemon.brood().args(["rm", &id]).run().ok();
}

#[test]
fn a_read_only_state_directory_refuses_a_daemon_in_one_line() {
    let sandbox = Sandbox::new();
    fs::DirBuilder::new().mode(0o700).create(sandbox.root()).unwrap();
    let read_only = Disk::read_only(&sandbox);
    let refused = sandbox.brood().arg("daemon").run().expect(125);
    let error = refused.one_line_error();
    assert!(error.to_lowercase().contains("read-only file system"), "{refused}");
    assert!(error.contains(sandbox.root().to_str().unwrap()), "{refused}");
    drop(read_only);
    let _daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
}

#[test]
fn a_state_directory_that_becomes_read_only_refuses_what_is_new_and_keeps_exits() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    let id = sandbox.id("box");
    run_detached(&daemon, &id, &["sleep", "1000"]);
    let read_only = Disk::read_only(&sandbox);
    let refused = daemon.brood().args(["run", "--", "true"]).run().expect(125);
    assert!(refused.one_line_error().to_lowercase().contains("read-only file system"), "{refused}");
    // Another supervisor finds it as it is.
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    waiting::gone(supervisor);
    assert_eq!(state(&daemon, &id)["status"], "running");
    let supervisor = daemon.supervisor().pid;
    daemon.brood().args(["kill", "--signal", "KILL", &id]).run().ok();
    daemon.brood().args(["wait", &id]).run().expect(137);
    drop(read_only);
    waiting::until("the exit file", || sandbox.root().join(&id).join("init/exit").exists().then_some(()));
    assert_eq!(sandbox.record(&id, "init/exit")["status"], 137);
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    daemon.brood().args(["rm", &id]).run().ok();
    assert_eq!(daemon.supervisor().pid, supervisor);
}

#[test]
fn a_state_directory_that_is_gone_refuses_what_is_new_and_tells_exits() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    let id = sandbox.id("box");
    let script = "echo up; sleep 1000";
    let mut waiter = daemon.brood().args(["run", "--name", &id, "--", "sh", "-c", script]).start();
    waiter.output_until(|text| text.contains("up"));
    let pid = state(&daemon, &id)["pid"].as_i64().unwrap() as i32;
    let away = sandbox.path("away");
    fs::rename(sandbox.root(), &away).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(waiter.finish().code(), 137);
    let refused = daemon.brood().args(["run", "--", "true"]).run().expect(125);
    assert!(refused.one_line_error().contains(sandbox.root().to_str().unwrap()), "{refused}");
    fs::rename(&away, sandbox.root()).unwrap();
    waiting::until("the exit file", || sandbox.root().join(&id).join("init/exit").exists().then_some(()));
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    daemon.brood().args(["rm", &id]).run().ok();
    assert_eq!(daemon.supervisor().pid, supervisor);
}

/// What a damaged file may look like.
const DAMAGED: [&[u8]; 3] = [b"", b"\x93\x1f\x00\xfe\xc4", b"{\"id\":"];

#[test]
fn a_damaged_record_is_named_and_costs_only_its_container() {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let (good, bad) = (sandbox.id("good"), sandbox.id("bad"));
    run_detached(&daemon, &good, &["sleep", "1000"]);
    daemon.brood().args(["run", "-d", "--name", &bad, "--", "sh", "-c", "exit 3"]).run().ok();
    daemon.brood().args(["wait", &bad]).run().expect(3);
    for file in ["init/exit", "state.json"] {
        for bytes in DAMAGED {
            let path = sandbox.root().join(&bad).join(file);
            fs::write(&path, bytes).unwrap();
            let before = daemon.log().len();
            kill_supervisor(&daemon);
            assert_eq!(state(&daemon, &good)["status"], "running");
            let log = daemon.log();
            let named = log[before..].lines().filter(|line| line.contains(path.to_str().unwrap())).count();
            assert_eq!(named, 1, "{file}: {}", &log[before..]);
            assert_eq!(state(&daemon, &bad)["status"], "stopped", "{file}");
        }
    }
    daemon.brood().args(["rm", &bad]).run().ok();
    assert_eq!(sandbox.containers(), std::slice::from_ref(&good));
    daemon.brood().args(["rm", "--force", &good]).run().ok();
    daemon.stop();
}

#[test]
fn a_torn_journal_keeps_all_whole_records() {
    let sandbox = Sandbox::new();
    let id = sandbox.id("box");
    let journal = sandbox.root().join("events.log");
    for tail in [None, Some(&b"\x00garbage\xff"[..]), Some(b"\n\n00000000 {}\nhalf a li")] {
        let mut daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
        daemon.brood().args(["run", "--rm", "--name", &id, "--", "sh", "-c", "exit 4"]).run().expect(4);
        daemon.stop();
        drop(daemon);
        let whole = fs::read(&journal).unwrap();
        match tail {
            // Inside of the last record.
            None => fs::write(&journal, &whole[..whole.len() - 7]).unwrap(),
            Some(tail) => {
                fs::OpenOptions::new().append(true).mode(0o600).open(&journal).unwrap().write_all(tail).unwrap()
            }
        }
        let kept = journaled(&sandbox, &id);
        let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
        assert!(daemon.log().contains("damaged lines"), "{}", daemon.log());
        assert_eq!(journaled(&sandbox, &id), kept);
        daemon.brood().args(["run", "--rm", "--name", &id, "--", "sh", "-c", "exit 4"]).run().expect(4);
        assert_eq!(journaled(&sandbox, &id).len(), kept.len() + 1);
        assert!(procfs::process(daemon.supervisor().pid).is_some());
    }
}
