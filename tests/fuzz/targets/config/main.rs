//! Any bytes as a config.json, up to the plan: nothing panics, a refusal is one line, and what is planned survives the
//! wire.

#![no_main]

mod mutate;
mod sandbox;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use brood_launcher::cgroup::Entrance;
use brood_launcher::config::{check_supported, parse, validate};
use brood_launcher::plan::{self, BuildOptions, Io, Launch, Stdio, wire};
use brood_launcher::state::ContainerState;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use oci_spec::runtime::Spec;

use sandbox::Sandbox;

fuzz_target!(|bytes: &[u8]| {
    static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::start(one));
    keep(SANDBOX.run(bytes));
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::config(data, size, max_size, seed).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});

/// Takes one input all the way: the plan's wire form, or why there is none.
fn one(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let planned = load(bytes).and_then(|spec| plan(&spec));
    let launch = planned.inspect_err(|refusal| one_line(refusal))?;
    launch.details.iter().for_each(|detail| one_line(detail));
    let encoded = wire::encode(&launch.plan);
    let decoded = wire::decode(&encoded, launch.fds.len()).expect("a plan that was built is well-formed");
    assert_eq!(decoded, launch.plan, "a plan is the same after the wire");
    Ok(encoded)
}

fn load(bytes: &[u8]) -> Result<Spec, String> {
    let (spec, notes) = parse(bytes).map_err(|error| error.to_string())?;
    notes.iter().for_each(|note| one_line(note));
    validate(&spec).map_err(|error| error.to_string())?.iter().for_each(|note| one_line(note));
    let ignored = check_supported(&spec, true).map_err(|error| error.to_string())?;
    ignored.iter().for_each(|note| one_line(note));
    let strict = check_supported(&spec, false);
    assert_eq!(strict.is_ok(), ignored.is_empty(), "strictness decides between a refusal and notes");
    if let Err(error) = strict {
        one_line(&error.to_string());
    }
    Ok(spec)
}

fn plan(spec: &Spec) -> Result<Launch, String> {
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    let io = if terminal {
        Io::Terminal(UnixStream::pair().expect("a socket pair").0.into())
    } else {
        Io::Descriptors(Stdio { stdin: null(), stdout: null(), stderr: null() })
    };
    let annotations = spec.annotations().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let options = BuildOptions {
        bundle: sandbox::BUNDLE.into(),
        host_overlay: false,
        container: ContainerState { id: "fuzz".into(), annotations, ..ContainerState::default() },
        io,
        preserve: vec![null()],
        status: null(),
        no_pivot: false,
        new_keyring: true,
        park: Some(null()),
        cgroups: Entrance { birth: Some(null()), tasks: vec![null()] },
        few_processes: None,
        from_zygote: false,
        die_with_parent: None,
    };
    plan::build(spec, options).map_err(|error| error.to_string())
}

fn null() -> OwnedFd {
    File::open("/dev/null").expect("the sandbox has a /dev/null").into()
}

fn one_line(text: &str) {
    assert!(!text.contains(char::is_control), "a message is one line: {text:?}");
}

/// Plans are the seeds of the other target.
fn keep(outcome: Result<Vec<u8>, String>) {
    static DIRECTORY: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("BROOD_FUZZ_PLANS"));
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let Some(directory) = DIRECTORY.as_ref() else { return };
    match outcome {
        Ok(plan) => {
            let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
            std::fs::write(Path::new(directory).join(name), plan).expect("a place for plans");
        }
        Err(refusal) => eprintln!("no plan: {refusal}"),
    }
}
