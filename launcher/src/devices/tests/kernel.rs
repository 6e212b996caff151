//! Programs before the kernel's own verifier. Takes root.

use super::{policy, rule};
use crate::devices::bpf;
use crate::devices::ebpf::{EXIT, Instruction, assemble};
use crate::devices::error::DeviceError;
use crate::devices::policy::Policy;
use crate::devices::rules::MOST;
use crate::devices::v2::load;
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
    assert!(bpf::load(&[], &mut []).is_err());
}
