//! What goes over the wire comes out the same, and nothing else comes out.

use std::collections::BTreeSet;
use std::error::Error;

use brood_schema::plan_capnp as wire;
use capnp::ErrorKind;
use capnp::message::{self, HeapAllocator};
use capnp::serialize::write_message_to_words;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::strategies::{self, FD_COUNT};
use super::*;
use crate::plan::{FdIndex, Plan, Rlimit, Step};

proptest! {
    #[test]
    fn a_plan_survives_the_round_trip(plan in strategies::plan()) {
        prop_assert_eq!(decode(&encode(&plan), FD_COUNT).unwrap(), plan);
    }

    #[test]
    fn an_unaligned_buffer_is_read_too(plan in strategies::plan(), offset in 1..8_usize) {
        let mut buffer = vec![0; offset];
        buffer.extend(encode(&plan));
        prop_assert_eq!(decode(&buffer[offset..], FD_COUNT).unwrap(), plan);
    }

    #[test]
    fn a_shortened_plan_is_refused(plan in strategies::plan(), end in any::<Index>()) {
        let bytes = encode(&plan);
        prop_assert!(decode(&bytes[..end.index(bytes.len())], FD_COUNT).is_err());
    }

    /// Whatever a damaged plan decodes to is a plan that keeps the promises: it survives the round trip itself.
    #[test]
    fn a_damaged_plan_is_refused_or_sound(
        plan in strategies::plan(),
        damage in vec((any::<Index>(), any::<u8>()), 1..8),
        end in any::<Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = encode(&plan);
        for (position, value) in damage {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if shorten {
            bytes.truncate(end.index(bytes.len()));
        }
        if let Ok(plan) = decode(&bytes, FD_COUNT) {
            prop_assert_eq!(decode(&encode(&plan), FD_COUNT).unwrap(), plan);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..256)) {
        let _ = decode(&bytes, FD_COUNT);
    }
}

/// Defines [`VARIANTS`] and [`variant`] from one list that the compiler holds complete.
macro_rules! variants {
    ($($variant:ident)*) => {
        /// All variants of [`Step`].
        const VARIANTS: &[&str] = &[$(stringify!($variant)),*];

        /// The variant as written in the source. A new variant does not compile until it is listed.
        fn variant(step: &Step) -> &'static str {
            match step {
                $(Step::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants! {
    AwaitParent JoinCgroup EnterUserNamespace JoinNamespace JoinContainer NewSession NewCgroupNamespace NewTimeNamespace LoopbackUp
    Hostname Domainname PrivateMounts RuntimeHooks Hook SessionKeyring Sysctl LimitProcesses Scheduler IoPriority CpuAffinity Personality
    MemoryPolicy Label AttachRoot AdoptRoot OverlayRoot MountFilesystem MountTree Remount Device Symlink PivotRoot MoveRoot CoverRoot ChangeRoot
    RootPropagation MakeWorkingDirectory ReadonlyRoot ReadonlyPath MaskPath Umask OomScoreAdj Rlimit Terminal Stdio WorkingDirectory BoundingSet Identity Capabilities
    NoNewPrivileges Seccomp DieWithParent FindExecutable Park Exec
}

/// One step of each variant, and proof that none is left out: of these, and of the strategies that they come from.
fn one_of_each() -> Vec<Step> {
    let mut runner = TestRunner::deterministic();
    let mut strategies = strategies::each_step_but_exec();
    strategies.push(strategies::exec().boxed());
    let steps: Vec<Step> =
        strategies.iter().map(|strategy| strategy.new_tree(&mut runner).unwrap().current()).collect();
    let found: Vec<&str> = steps.iter().map(variant).collect();
    assert_eq!(found, VARIANTS, "strategies.rs makes each variant, in order");
    steps
}

#[test]
fn every_step_has_a_name_of_its_own() {
    let steps = one_of_each();
    let names: BTreeSet<&str> = steps.iter().map(Step::name).collect();
    assert_eq!(names.len(), steps.len(), "{names:?}");
    assert_eq!(steps.len(), Step::KINDS);
}

#[test]
fn a_plan_of_every_step_survives_the_round_trip() {
    let plan = Plan { steps: one_of_each(), ..Plan::default() };
    assert_eq!(decode(&encode(&plan), FD_COUNT).unwrap(), plan);
}

#[test]
fn a_plan_larger_than_a_segment_survives_the_round_trip() {
    let mut plan = minimal();
    plan.steps.insert(0, Step::NewTimeNamespace { offsets: vec![b'0'; 1 << 20] });
    plan.steps.insert(1, Step::Identity { uid: 1, gid: 2, groups: (0..65536).collect(), set_groups: true });
    assert_eq!(decode(&encode(&plan), 0).unwrap(), plan);
}

#[test]
fn another_version_is_refused() {
    let version = wire::PLAN_VERSION + 1;
    let bytes = message(|mut plan| plan.set_version(version));
    assert!(matches!(decode(&bytes, 0), Err(WireError::Version(found)) if found == version));
    // A message without content has version 0.
    assert!(matches!(decode(&message(|_| ()), 0), Err(WireError::Version(0))));
}

#[test]
fn an_unknown_step_is_named() {
    let mut plan = minimal();
    plan.steps.insert(0, Step::Park { socket: FdIndex(0x5aa5) });
    let mut bytes = encode(&plan);
    // The arm's number is beside the only field that Park has; the descriptor's number leads there.
    let mark = bytes.windows(2).position(|pair| pair == [0xa5, 0x5a]).unwrap();
    let arm = (mark - 2..=mark + 2).find(|&at| bytes[at..at + 2] == [31, 0]).unwrap();
    bytes[arm..arm + 2].copy_from_slice(&999_u16.to_le_bytes());
    assert_eq!(refusal(&bytes, 1), "step 0 of the plan: unknown step 999");
}

#[test]
fn a_nul_inside_a_string_is_refused() {
    let bytes = message(|mut plan| {
        plan.set_version(wire::PLAN_VERSION);
        plan.init_steps(1).get(0).set_hostname(b"brood\0eve");
    });
    assert_eq!(refusal(&bytes, 0), "step 0 of the plan: hostname has a NUL byte at 5");
}

#[test]
fn a_descriptor_that_did_not_come_along_is_refused() {
    let with_status = Plan { status: Some(FdIndex(2)), ..minimal() };
    assert!(decode(&encode(&with_status), 3).is_ok());
    assert_eq!(refusal(&encode(&with_status), 2), "status is descriptor 2, only 2 came along");

    let mut with_root = minimal();
    with_root.steps.insert(0, Step::AttachRoot { tree: FdIndex(0), place: c"/".into() });
    assert_eq!(
        refusal(&encode(&with_root), 0),
        "step 0 of the plan: attachRoot.tree is descriptor 0, only 0 came along"
    );
}

#[test]
fn exec_is_the_last_step_and_only_there() {
    assert_eq!(refusal(&encode(&Plan::default()), 0), "the plan does not end in an exec");

    let mut twice = minimal();
    twice.steps.extend(minimal().steps);
    assert_eq!(refusal(&encode(&twice), 0), "step 0 of the plan: exec is not the last step");

    let mut early = minimal();
    early.steps.push(Step::NewSession);
    assert_eq!(refusal(&encode(&early), 0), "step 0 of the plan: exec is not the last step");

    let no_argv = Plan { steps: vec![Step::Exec { argv: vec![], env: vec![] }], ..Plan::default() };
    assert_eq!(refusal(&encode(&no_argv), 0), "step 0 of the plan: argv is empty");
}

#[test]
fn the_limits_hold() {
    let mut plan = minimal();
    let steps = usize::try_from(MAX_STEPS).unwrap();
    plan.steps.splice(0..0, vec![Step::NewSession; steps - 1]);
    assert!(decode(&encode(&plan), 0).is_ok());
    plan.steps.insert(0, Step::NewSession);
    assert!(matches!(decode(&encode(&plan), 0), Err(WireError::TooManySteps(_))));

    assert!(matches!(decode(&vec![0; MAX_PLAN_BYTES + 1], 0), Err(WireError::TooLarge(_))));

    let mut bytes = encode(&minimal());
    bytes.extend([0; 8]);
    assert!(matches!(decode(&bytes, 0), Err(WireError::TrailingBytes(8))));
}

/// A message of 80 KiB in which 200 strings are the same 64 KiB: 13 MB once decoded.
#[test]
fn a_message_that_unfolds_is_refused() {
    const STRINGS: u32 = 200;
    let mut message = message::Builder::new(HeapAllocator::new().first_segment_words(10_000));
    let mut plan: wire::plan::Builder<'_> = message.init_root();
    plan.set_version(wire::PLAN_VERSION);
    let mut argv = plan.init_steps(1).get(0).init_exec().init_argv(STRINGS);
    argv.set(0, &[b'x'; 64 * 1024]);
    let mut bytes = write_message_to_words(&message);
    assert!(bytes.len() < 80 * 1024 && decode(&bytes, 0).is_ok(), "sound as yet");

    // The list's pointers lie right before the string. All but the first are null; let each lead to the string as well:
    // bits 2 to 31 of a pointer are the distance from its end, in words.
    let string = bytes.windows(8).position(|word| word == b"xxxxxxxx").unwrap();
    let list = string - 8 * STRINGS as usize;
    let first = u64::from_le_bytes(bytes[list..list + 8].try_into().unwrap());
    for i in 1..STRINGS as usize {
        let pointer = first - ((i as u64) << 2);
        bytes[list + 8 * i..list + 8 * (i + 1)].copy_from_slice(&pointer.to_le_bytes());
    }
    let Err(WireError::Step { position: 0, source }) = decode(&bytes, 0) else { panic!("decoded") };
    assert!(matches!(*source, WireError::Message(error) if error.kind == ErrorKind::ReadLimitExceeded));
}

/// A list of a million resource limits that take no room on the wire: 24 MB once decoded.
#[test]
fn a_long_list_of_nothing_is_refused() {
    let limit = Rlimit { resource: 1, soft: 2, hard: 3 };
    let mut bytes = encode(&Plan { rlimits: vec![limit], ..minimal() });
    // The word before the elements tells their number (from bit 2 on), and of each the words of data and of pointers.
    let tag = bytes.windows(8).position(|word| word == [1 << 2, 0, 0, 0, 3, 0, 0, 0]).unwrap();
    bytes[tag..tag + 8].copy_from_slice(&(1_000_000_u64 << 2).to_le_bytes());
    assert!(matches!(decode(&bytes, 0), Err(WireError::Message(error)) if error.kind == ErrorKind::ReadLimitExceeded));
}

/// The shortest plan that is one.
fn minimal() -> Plan {
    Plan { steps: vec![Step::Exec { argv: vec![c"true".into()], env: vec![] }], ..Plan::default() }
}

/// A message that `encode` would not make.
fn message(fill: impl FnOnce(wire::plan::Builder<'_>)) -> Vec<u8> {
    let mut message = message::Builder::new_default();
    fill(message.init_root());
    write_message_to_words(&message)
}

/// The error's text with those of its sources, as a log shows it.
fn refusal(bytes: &[u8], fd_count: usize) -> String {
    let error = decode(bytes, fd_count).expect_err("the plan is refused");
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
