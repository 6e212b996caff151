//! The harness itself: a leak check that finds nothing proves nothing unless it can find something.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use brood_tests::world::World;
use brood_tests::{Cmd, Sandbox, waiting};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

#[test]
fn a_sandbox_is_empty_at_first() {
    let sandbox = Sandbox::new();
    assert!(World::of(sandbox.token()).is_empty());
    assert!(sandbox.containers().is_empty());
}

#[test]
fn a_mount_is_found() {
    let sandbox = Sandbox::new();
    let target = sandbox.path("mounted");
    fs::create_dir(&target).unwrap();
    mount("probe", &target, "tmpfs", MountFlags::empty(), None).unwrap();
    let world = World::of(sandbox.token());
    unmount(&target, UnmountFlags::empty()).unwrap();
    assert_eq!(world.mounts, [target.to_str().unwrap()]);
    sandbox.assert_clean();
}

#[test]
fn a_cgroup_is_found() {
    let sandbox = Sandbox::new();
    let parent = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().map(Path::new).find(|path| path.is_dir());
    let directory = parent.expect("cgroups are mounted").join(sandbox.id("probe"));
    fs::create_dir(&directory).unwrap();
    let world = World::of(sandbox.token());
    fs::remove_dir(&directory).unwrap();
    assert_eq!(world.cgroups, [directory]);
    sandbox.assert_clean();
}

#[test]
fn a_process_left_behind_fails_the_test_and_is_ended() {
    let sandbox = Sandbox::new();
    // The environment tells whose the orphan is; its pid comes through a file.
    let file = sandbox.path("pid");
    sandbox.command("sh").args(["-c", &format!("sleep 1000 & echo $! > {}", file.display())]).run().ok();
    let orphan: i32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let found: Vec<i32> = World::of(sandbox.token()).processes.iter().map(|process| process.pid).collect();
    assert_eq!(found, [orphan]);
    let verdict = catch_unwind(AssertUnwindSafe(|| drop(sandbox)));
    let words = verdict.unwrap_err().downcast::<String>().unwrap();
    assert!(words.contains("sleep 1000"), "{words}");
    waiting::gone(orphan);
}

#[test]
fn outputs_status_and_input() {
    let output = Cmd::new("sh").args(["-c", "cat; echo error >&2; exit 3"]).stdin("input").run();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.code()), ("input", "error\n", 3));
    assert_eq!(Cmd::new("sh").args(["-c", "kill -TERM $$"]).run().code(), 128 + 15);
}

#[test]
fn large_input_and_output_at_once() {
    let input = "0123456789abcde\n".repeat(1 << 16);
    assert!(Cmd::new("cat").stdin(input.clone()).run().ok() == input);
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let slow = Cmd::new("sleep").arg("1000").patience(Duration::from_millis(50));
    let verdict = catch_unwind(AssertUnwindSafe(|| slow.run()));
    assert!(verdict.unwrap_err().downcast::<String>().unwrap().contains("sleep 1000"));
}

#[test]
fn who_holds_the_output_is_not_waited_for() {
    let sandbox = Sandbox::new();
    let output = sandbox.command("sh").args(["-c", "sleep 1000 & echo $!"]).run().ok();
    let orphan = output.trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(orphan).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    waiting::gone(orphan);
}

#[test]
fn output_can_be_followed() {
    let mut running = Cmd::new("sh").args(["-c", "echo one; read word; echo $word"]).stdin("two\n").start();
    running.output_until(|text| text.contains("one"));
    running.output_until(|text| text.contains("two"));
    running.finish().expect(0);
}
