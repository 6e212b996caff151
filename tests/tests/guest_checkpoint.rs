//! Checkpoint and restore with Debian's CRIU.

use std::fs;
use std::path::PathBuf;

use brood_tests::{Bundle, Container, guest, waiting};

/// A program that counts in a file, in a variable that no checkpoint may lose.
fn counting(bundle: &mut Bundle) {
    bundle.sh("i=0; while true; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done");
}

fn count(container: &Container) -> Option<u64> {
    fs::read_to_string(container.bundle.rootfs().join("tmp/count")).ok()?.trim().parse().ok()
}

fn counted_to(container: &Container, at_least: u64) -> u64 {
    waiting::until("the count", || count(container).filter(|count| *count >= at_least))
}

fn up() -> Container {
    guest::insist();
    let container = Container::new(counting);
    container.create();
    container.call(&["start"]).ok();
    counted_to(&container, 3);
    container
}

fn images(container: &Container) -> PathBuf {
    container.sandbox.path("images")
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_process_that_counts_goes_on_where_it_was() {
    let container = up();
    let images = images(&container);
    container.oci(&["checkpoint", "--image-path"]).arg(&images).arg(&container.id).run().ok();
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
    let before = count(&container).unwrap();
    container.oci(&["restore", "-d", "--image-path"]).arg(&images).arg("-b").arg(container.bundle.path()).arg(&container.id).run().ok();
    counted_to(&container, before + 3);
    assert_eq!(container.status(), "running");
    container.end();
    container.call(&["delete"]).ok();
}
