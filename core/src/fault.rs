//! Fault points: a supervisor that kills itself where a test says, right before or right after something is done.
//!
//! Only debug builds have them: they are what the tests run, and a second build of everything, with a feature, would be all
//! that the difference is. [`VARIABLE`] names a file. A test writes `POINT before` or `POINT after` into it, with a number
//! behind that for the so manieth time; whoever comes by there removes the file and dies of SIGKILL, as by somebody else's
//! hand. The next supervisor has the same environment and finds no file.

/// Names the file.
pub const VARIABLE: &str = "BROOD_FAULT_FILE";

/// All points: the effects of the core, then the steps of those that have some. The tests read this list.
pub const POINTS: &[&str] = &[
    "launch",
    "release",
    "signal",
    "freeze",
    "thaw",
    "record exit",
    "reap",
    "discard",
    "publish",
    "remove",
    "forget",
    "reply",
    // Of launch.
    "prepare",
    "clone",
    "write pid",
    "hear reports",
    "announce",
    // Of release.
    "connect",
    "hear start",
    // Of record exit.
    "append to journal",
    "write exit",
    // Of remove.
    "empty cgroup",
    "remove folder",
    // Of a recovery.
    "adopt",
];

/// On which side of what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing has been done.
    Before,
    /// It has, and nobody has heard of that.
    After,
}

/// Does something between its two points.
pub fn around<T>(point: &'static str, work: impl FnOnce() -> T) -> T {
    at(point, When::Before);
    let done = work();
    at(point, When::After);
    done
}

/// The same of what is waited for.
pub async fn around_async<T>(point: &'static str, work: impl Future<Output = T>) -> T {
    at(point, When::Before);
    let done = work.await;
    at(point, When::After);
    done
}

/// Comes by a point.
#[cfg(debug_assertions)]
fn at(point: &'static str, when: When) {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    debug_assert!(POINTS.contains(&point), "{point}");
    let Some(file) = FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)) else { return };
    let Ok(text) = std::fs::read_to_string(file) else { return };
    let word = if when == When::Before { " before" } else { " after" };
    let Some(times) = text.strip_prefix(point).and_then(|rest| rest.strip_prefix(word)) else { return };
    let times: u32 = times.trim().parse().unwrap_or(1);
    if times > 1 {
        let _ = std::fs::write(file, format!("{point}{word} {}", times - 1));
    } else if std::fs::remove_file(file).is_ok() {
        // It does not return (kill(2)).
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
fn at(_: &'static str, _: When) {}
