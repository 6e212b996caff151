//! A program that counts in a variable, which no checkpoint may lose, and shows it.
//!
//! It shows it as the target of a link: at no moment has it a file open that is another, or gone, when it is restored after the
//! original went on, as a file that is written anew for every count would be.

use std::fs;
use std::path::PathBuf;

use crate::{Bundle, waiting};

/// What the program's `sh -c` runs.
pub const PROGRAM: &str = "\
i=0
while true; do
    i=$((i+1))
    ln -sfn $i /tmp/new
    mv /tmp/new /tmp/count
    sleep 0.05
done";

fn shown(bundle: &Bundle) -> PathBuf {
    bundle.rootfs().join("tmp/count")
}

/// What it has counted to, if it shows it.
pub fn count(bundle: &Bundle) -> Option<u64> {
    fs::read_link(shown(bundle)).ok()?.to_str()?.parse().ok()
}

/// What it has counted to, as soon as that is `least` or more.
pub fn counted_to(bundle: &Bundle, least: u64) -> u64 {
    waiting::until("the count", || count(bundle).filter(|count| *count >= least))
}

/// Takes away what it shows, so that a count that is read afterwards is one that it came to later.
pub fn forget(bundle: &Bundle) {
    fs::remove_file(shown(bundle)).expect("it has shown its count");
}
