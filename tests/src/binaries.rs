//! Where the programs under test are.
//!
//! They are not built by the tests: `cargo build --workspace` puts them beside the test executables, which sit in
//! `target/<profile>/deps`.

use std::path::{Path, PathBuf};

/// Names another OCI runtime (`runc`, `crun`, a path) to take the place of `brood-oci`, as an oracle of the tests.
pub const OCI_UNDER_TEST: &str = "BROOD_OCI_UNDER_TEST";

/// The `brood` binary.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn brood() -> PathBuf {
    built("brood")
}

/// The OCI runtime under test: `brood-oci`, or what [`OCI_UNDER_TEST`] names.
///
/// # Panics
/// When `brood-oci` has not been built.
#[must_use]
pub fn oci() -> PathBuf {
    std::env::var_os(OCI_UNDER_TEST).map_or_else(|| built("brood-oci"), PathBuf::from)
}

/// True when a foreign runtime is tested: then messages and exit statuses of our own are not asked for.
#[must_use]
pub fn oracle() -> bool {
    std::env::var_os(OCI_UNDER_TEST).is_some()
}

/// The top of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("/proc is mounted");
    let profile = test.parent().and_then(Path::parent).expect("a test executable lies in target/<profile>/deps");
    let path = profile.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first (tests/run does)", path.display());
    path
}
