//! Filters in force: a child installs one and calls.

#![expect(unsafe_code, reason = "the tests fork and make raw system calls")]

use brood_launcher::seccomp::{Filter, compile, install};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde_json::{Value, json};

use crate::docker;

#[test]
fn dockers_default_profile_is_in_force() {
    let filter = compile(&docker::default_profile(docker::ORDINARY)).unwrap();
    let status = under(&filter, || {
        let checks = [
            raw(libc::SYS_getppid, 0) > 0,
            raw(libc::SYS_personality, 0xffff_ffff) >= 0,
            raw(libc::SYS_personality, 7) == -libc::ENOSYS,
            raw(libc::SYS_swapoff, 0) == -libc::EPERM,
            raw(libc::SYS_bpf, 0) == -libc::EPERM,
            raw(5000, 0) == -libc::ENOSYS,
        ];
        checks.iter().position(|holds| !holds).map_or(0, |failed| failed as i32 + 1)
    });
    assert_eq!(
        status,
        WaitStatus::Exited(status.pid().unwrap(), 0),
        "the exit code counts the checks up to a failed one"
    );
}

#[test]
fn an_error_number_is_returned_where_all_conditions_hold() {
    let filter = filter(json!({ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99,
        "args": [{ "index": 0, "value": 1u64 << 40, "op": "SCMP_CMP_GE" }] }));
    let status = under(&filter, || {
        let within = raw(libc::SYS_getpriority, (1 << 40) - 1) != -99;
        i32::from(!(within && raw(libc::SYS_getpriority, 1 << 40) == -99))
    });
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

#[test]
fn a_killed_process_dies_of_sigsys() {
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let filter = filter(json!({ "names": ["getppid"], "action": action }));
        let status = under(&filter, || raw(libc::SYS_getppid, 0));
        assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)), "{action}: {status:?}");
    }
}

#[test]
fn a_trace_without_a_tracer_is_no_such_call() {
    let filter = filter(json!({ "names": ["getppid"], "action": "SCMP_ACT_TRACE" }));
    let status = under(&filter, || i32::from(raw(libc::SYS_getppid, 0) != -libc::ENOSYS));
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

#[test]
fn a_notifying_filter_has_a_listener() {
    let filter = filter(json!({ "names": ["getppid"], "action": "SCMP_ACT_NOTIFY" }));
    assert!(filter.needs_listener);
    let child = in_child(|| i32::from(!matches!(install(&filter.program, filter.flags), Ok(Some(_)))));
    assert!(matches!(child, WaitStatus::Exited(_, 0)), "{child:?}");
}

#[test]
fn a_program_that_the_kernel_refuses_is_an_error() {
    let child = in_child(|| i32::from(install(&[], 0).err() != Some(rustix::io::Errno::INVAL)));
    assert!(matches!(child, WaitStatus::Exited(_, 0)), "{child:?}");
}

/// Everything allowed but for one entry.
fn filter(entry: Value) -> Filter {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry] });
    compile(&serde_json::from_value(profile).unwrap()).unwrap()
}

/// How a child ends that runs this under the filter; its result is the exit code.
fn under(filter: &Filter, calls: impl Fn() -> i32) -> WaitStatus {
    in_child(|| if install(&filter.program, filter.flags).is_ok() { calls() } else { 100 })
}

fn in_child(work: impl Fn() -> i32) -> WaitStatus {
    // SAFETY: the child only makes system calls: no allocation, no lock.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        ForkResult::Child => {
            // SAFETY: integers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let code = work();
            // SAFETY: _exit runs no handlers.
            unsafe { libc::_exit(code) }
        }
    }
}

/// A call with one argument and zeroes; a failure as the negated error number.
fn raw(number: i64, argument: u64) -> i32 {
    // SAFETY: the calls of these tests fail at null pointers instead of using them, or take integers only.
    let result = unsafe { libc::syscall(number, argument, 0, 0, 0, 0, 0) };
    if result < 0 { -nix::errno::Errno::last_raw() } else { result as i32 }
}
