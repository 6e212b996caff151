//! The same test over every source: each exit is told exactly once, whatever the order and however many at a time.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use super::*;

/// A child that ends with the given status when its standard input is closed.
fn child(status: usize) -> (Child, OwnedFd) {
    let script = format!("read line; exit {status}");
    let child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    (child, pidfd)
}

async fn every_exit_once(kind: Kind) -> HashMap<u64, i32> {
    const CHILDREN: usize = 40;
    let exits = Exits::new(kind).unwrap();
    let mut children: Vec<_> = (0..CHILDREN).map(child).collect();
    // Half are watched before they end, half after.
    for (token, (_, pidfd)) in children.iter().enumerate().filter(|(token, _)| token % 2 == 0) {
        exits.watch(pidfd.as_fd(), token as u64).unwrap();
    }
    for (child, _) in &mut children {
        drop(child.stdin.take());
    }
    for (token, (_, pidfd)) in children.iter().enumerate().filter(|(token, _)| token % 2 == 1) {
        exits.watch(pidfd.as_fd(), token as u64).unwrap();
    }
    let mut told = HashMap::new();
    while told.len() < CHILDREN {
        for token in exits.next().await.unwrap() {
            let pidfd = children[token as usize].1.as_fd();
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let peeked = rustix::process::waitid(WaitId::PidFd(pidfd), options).unwrap().unwrap();
            assert!(told.insert(token, peeked.exit_status().unwrap()).is_none(), "{token} told twice");
        }
    }
    for (child, _) in &mut children {
        child.wait().unwrap();
    }
    told
}

#[test]
fn both_sources_tell_every_exit_once() {
    let expected: HashMap<u64, i32> = (0..40).map(|status| (status, status as i32)).collect();
    for kind in [Kind::IoUring, Kind::Epoll] {
        assert_eq!(block_on(kind, every_exit_once(kind)).unwrap(), expected, "{kind:?}");
    }
}

#[test]
fn epoll_can_be_demanded_and_auto_takes_the_ring_where_it_works() {
    assert_eq!(Choice::Epoll.resolve().unwrap(), Kind::Epoll);
    assert_eq!(Choice::Auto.resolve().unwrap(), Choice::IoUring.resolve().unwrap_or(Kind::Epoll));
}
