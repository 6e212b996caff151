//! The guest of `tests/guest/run`: Debian 12 with Linux 6.1, nothing but cgroup v2, and the kernel's modules.
//!
//! A test for it is marked `#[ignore = "runs in the guest: tests/guest/run"]`, wherever it stands, and calls [`insist`]
//! before it does what a host should not suffer.

use crate::command::Cmd;

/// The environment variable by which a test knows that it is in there.
const VARIABLE: &str = "BROOD_GUEST";

/// Insists on being in the guest.
///
/// # Panics
/// Anywhere else.
#[track_caller]
pub fn insist() {
    assert!(std::env::var_os(VARIABLE).is_some(), "this test is for the guest: use tests/guest/run");
}

/// Loads a module of the kernel's.
///
/// # Panics
/// Outside of the guest, or when there is no such module.
#[track_caller]
pub fn load_module(name: &str) {
    insist();
    Cmd::new("modprobe").arg(name).run().ok();
}
