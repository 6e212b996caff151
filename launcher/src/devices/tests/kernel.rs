//! Programs before the kernel's own verifier, and how many a cgroup has. Takes root and a mounted cgroup v2.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{policy, rule};
use crate::devices::bpf;
use crate::devices::ebpf::{EXIT, Instruction, assemble};
use crate::devices::error::DeviceError;
use crate::devices::policy::Policy;
use crate::devices::rules::MOST;
use crate::devices::v2::{self, load};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_program_is_accepted((_, policy) in policy()) {
        load(&assemble(&policy)).unwrap();
    }
}

#[test]
fn the_longest_program_is_accepted() {
    for allow in [true, false] {
        let mut rules = vec![rule(!allow, "a *:* rwm")];
        rules.extend((1..MOST).map(|minor| rule(allow, &format!("c {}:{minor} {}", 300 + minor % 7, "rw"))));
        load(&assemble(&Policy::of(&rules).unwrap())).unwrap();
    }
}

#[test]
fn the_verifiers_reason_is_told() {
    let no_answer = [Instruction { code: EXIT, registers: 0, offset: 0, immediate: 0 }];
    let refused = load(&no_answer).unwrap_err();
    assert_eq!(refused.to_string(), "load the device program: R0 !read_ok");
    assert!(matches!(refused, DeviceError::Verifier { .. }), "{refused:?}");
    assert!(bpf::load(&[], bpf::NAME, &mut []).is_err());
}

#[test]
fn a_cgroup_has_one_program_of_ours_beside_those_of_others() {
    let cgroup = Cgroup::new("one-program");
    let directory = File::open(&cgroup.0).unwrap();
    let attached = || bpf::attached(directory.as_fd()).unwrap();
    let apply = |policy: &Policy, loaded| v2::apply(policy, loaded, directory.as_fd()).unwrap();
    let all = Policy { allow: true, ..Policy::default() };
    let [none, some] = [Policy::default(), Policy::of(&[]).unwrap()];
    let [loaded_all, loaded_none, loaded_some] = [const { OnceLock::new() }; 3];

    apply(&all, &loaded_all);
    assert_eq!(attached(), [0; 0], "everything is allowed without a program");
    let foreign = bpf::load(&assemble(&all), *b"foreign\0\0\0\0\0\0\0\0\0", &mut []).unwrap();
    bpf::attach(directory.as_fd(), foreign.as_fd(), None).unwrap();
    let foreign = bpf::info(foreign.as_fd()).unwrap().id;

    apply(&none, &loaded_none);
    let [kept, first] = attached()[..] else { panic!("{:?}", attached()) };
    assert_eq!(kept, foreign);
    apply(&none, &loaded_none);
    assert_eq!(attached(), [foreign, first], "nothing to do");
    apply(&some, &loaded_some);
    let [kept, second] = attached()[..] else { panic!("{:?}", attached()) };
    assert!(kept == foreign && second != first, "exchanged");
    apply(&all, &loaded_all);
    let [kept, third] = attached()[..] else { panic!("{:?}", attached()) };
    assert!(kept == foreign && third != second, "exchanged for one that allows everything");

    // Two of ours, as two at the same time would leave them.
    let more = bpf::load(&assemble(&none), bpf::NAME, &mut []).unwrap();
    bpf::attach(directory.as_fd(), more.as_fd(), None).unwrap();
    assert_eq!(attached().len(), 3);
    apply(&none, &loaded_none);
    assert_eq!(attached(), [foreign, first]);
}

/// A directory of cgroup v2 of this test's own.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(Path::new);
        let root = root.into_iter().find(|root| root.join("cgroup.procs").exists()).expect("a mounted cgroup v2");
        let path = root.join(format!("brood-devices-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup v2, made as root");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}
