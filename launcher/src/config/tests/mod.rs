//! config.json as a whole: good files, old files, and a table of wrong ones.

mod old;
mod unsupported;
mod wrong;

use std::fs;
use std::os::unix::fs::symlink;

use oci_spec::runtime::{Capability, Spec};
use serde_json::{Value, json};

use super::*;

const RUNC_SPEC: &[u8] = include_bytes!("../../../tests/fixtures/runc-spec-1.0.2.json");

/// The smallest file that passes without a note.
fn minimal() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "env": ["PATH=/bin"], "cwd": "/" },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }] }
    })
}

/// The minimal file with a JSON merge patch (RFC 7396) applied.
fn patched(patch: &Value) -> Vec<u8> {
    let mut config = minimal();
    merge(&mut config, patch);
    serde_json::to_vec(&config).unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    let (Value::Object(target), Value::Object(patch)) = (&mut *target, patch) else {
        *target = patch.clone();
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let entry = target.entry(name.clone()).or_insert(json!({}));
            if !entry.is_object() || !value.is_object() {
                *entry = if value.is_object() { json!({}) } else { Value::Null };
            }
            merge(entry, value);
        }
    }
}

fn notes_of(patch: &Value) -> Vec<String> {
    check(&patched(patch), LoadOptions::default()).unwrap().1
}

#[test]
fn the_minimal_file_passes_without_a_note() {
    assert_eq!(notes_of(&json!({})), Vec::<String>::new());
}

#[test]
fn the_fast_path_reads_the_same_as_serde_json() {
    let (spec, notes) = parse(RUNC_SPEC).unwrap();
    assert_eq!(spec, serde_json::from_slice::<Spec>(RUNC_SPEC).unwrap());
    assert_eq!(notes, Vec::<String>::new());
}

#[test]
fn the_template_of_runc_passes() {
    let (_, notes) = check(RUNC_SPEC, LoadOptions::default()).unwrap();
    assert_eq!(notes, Vec::<String>::new());
}

#[test]
fn unknown_fields_are_fine() {
    assert_eq!(notes_of(&json!({ "future": { "x": [1] }, "linux": { "future": 1 } })), Vec::<String>::new());
}

#[test]
fn unlimited_rlimits_keep_their_value() {
    let limits = json!([{ "type": "RLIMIT_CORE", "soft": u64::MAX, "hard": u64::MAX }]);
    let (spec, _) = parse(&patched(&json!({ "process": { "rlimits": limits } }))).unwrap();
    let limits = spec.process().as_ref().unwrap().rlimits().clone().unwrap();
    assert_eq!((limits[0].soft(), limits[0].hard()), (u64::MAX, u64::MAX));
}

#[test]
fn what_is_odd_passes_with_a_note() {
    for (patch, note) in [
        (
            json!({ "process": { "execCPUAffinity": { "initial": "0", "final": "" } } }),
            "process.execCPUAffinity.final: empty, taken as absent",
        ),
        (json!({ "process": { "env": ["LANG"] } }), "process.env[0]: no = in \"LANG\", passed on as it is"),
        (
            json!({ "mounts": [{ "destination": "tmp", "type": "tmpfs" }] }),
            "mounts[0].destination: \"tmp\" is not absolute, taken as relative to /",
        ),
        (
            json!({ "mounts": [{ "destination": "/a/../b", "type": "tmpfs" }] }),
            "mounts[0].destination: \"/a/../b\" has a .. component, which does not leave the root",
        ),
    ] {
        assert_eq!(notes_of(&patch), [note]);
    }
}

#[test]
fn what_asks_for_nothing_is_supported() {
    for patch in [
        json!({ "hooks": { "prestart": [], "poststop": [] } }),
        json!({ "process": { "consoleSize": { "height": 65_535, "width": 0 }, "scheduler": { "policy": "SCHED_OTHER" } } }),
        json!({ "linux": { "memoryPolicy": { "mode": "MPOL_PREFERRED" }, "personality": { "domain": "LINUX" } } }),
        json!({ "process": { "apparmorProfile": "", "selinuxLabel": "", "terminal": false } }),
        json!({ "linux": { "resources": { "memory": {}, "cpu": {}, "blockIO": {}, "network": {}, "unified": {} } } }),
        json!({ "linux": { "resources": { "memory": { "limit": -1 }, "pids": { "limit": 0 }, "cpu": { "shares": 0 } } } }),
        json!({ "linux": { "sysctl": {}, "mountLabel": "", "rootfsPropagation": "rslave", "resources": {} } }),
        json!({ "linux": { "namespaces": [{ "type": "mount" }, { "type": "network", "path": "/run/netns/x" }] } }),
        json!({ "mounts": [{ "destination": "/x", "type": "tmpfs", "uidMappings": [], "options": ["ro"] }] }),
    ] {
        assert_eq!(notes_of(&patch), Vec::<String>::new(), "{patch}");
    }
}

#[test]
fn a_user_namespace_with_mappings_passes() {
    let mappings = json!([
        { "containerID": 0, "hostID": 1000, "size": 1 },
        { "containerID": 1, "hostID": 100_000, "size": 65_535 }
    ]);
    let namespaces = json!([{ "type": "mount" }, { "type": "user" }]);
    let patch = json!({ "linux": { "namespaces": namespaces, "uidMappings": mappings, "gidMappings": mappings } });
    assert_eq!(notes_of(&patch), Vec::<String>::new());
}

#[test]
fn load_keeps_the_bytes_and_names_the_file() {
    let bundle = tempfile::tempdir().unwrap();
    let file = bundle.path().join(FILE_NAME);
    let shown = file.display().to_string();
    let message = || load(bundle.path(), LoadOptions::default()).unwrap_err().to_string();

    assert_eq!(message(), format!("{shown}: no such file"));
    fs::write(&file, "{\n  \"process\": }").unwrap();
    assert_eq!(message(), format!("{shown}: line 2, column 14: expected value"));
    fs::write(&file, patched(&json!({ "process": { "cwd": "foo" } }))).unwrap();
    assert_eq!(message(), format!("{shown}: process.cwd: must be an absolute path, not \"foo\""));

    let raw = patched(&json!({}));
    fs::write(&file, &raw).unwrap();
    assert_eq!(load(bundle.path(), LoadOptions::default()).unwrap().raw, raw);
    assert_eq!(load_file(&file, LoadOptions::default()).unwrap().raw, raw);
}

#[test]
fn what_cannot_be_read_says_why_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let message = |bundle: &str| load(&path(bundle), LoadOptions::default()).unwrap_err().to_string();
    let shown = |name: &str| path(name).display().to_string();

    assert_eq!(message("gone"), format!("bundle {}: no such directory", shown("gone")));
    fs::write(path("file"), "").unwrap();
    assert_eq!(message("file"), format!("bundle {}: not a directory", shown("file")));

    for bundle in ["folder", "loop", "fifo", "large"] {
        fs::create_dir(path(bundle)).unwrap();
    }
    fs::create_dir(path("folder/config.json")).unwrap();
    assert_eq!(message("folder"), format!("{}: is a directory", shown("folder/config.json")));
    symlink("config.json", path("loop/config.json")).unwrap();
    assert!(message("loop").starts_with(&format!("{}: too many", shown("loop/config.json"))), "{}", message("loop"));
    // Opening a FIFO must not wait for a writer that never comes.
    nix::unistd::mkfifo(&path("fifo/config.json"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(message("fifo"), format!("{}: not a regular file", shown("fifo/config.json")));
    fs::File::create(path("large/config.json")).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    assert_eq!(message("large"), format!("{}: larger than 16 MiB", shown("large/config.json")));
}

#[test]
fn bottomless_nesting_is_an_error_and_no_crash() {
    let depth = 1_000_000;
    let text = format!("{{\"x\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    let error = parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("recursion limit exceeded"), "{error}");
    // Many brackets are not deep brackets.
    let many = patched(&json!({ "x": vec![json!({}); 10_000] }));
    parse(&many).unwrap();
}

#[test]
fn errors_keep_their_source() {
    use std::error::Error;
    let error = load(Path::new("/nonexistent-bundle"), LoadOptions::default()).unwrap_err();
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
}

proptest::proptest! {
    /// Whatever the bytes are: no panic, and one line if they are refused.
    #[test]
    fn damaged_files_are_answered_in_one_line(
        at in 0..RUNC_SPEC.len(),
        length in 0_usize..40,
        junk in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..8),
    ) {
        let mut raw = RUNC_SPEC.to_vec();
        raw.splice(at..(at + length).min(RUNC_SPEC.len()), junk);
        if let Err(error) = check(&raw, LoadOptions { ignore_unsupported: true }) {
            let message = error.to_string();
            proptest::prop_assert!(!message.contains(char::is_control), "{:?}", message);
        }
    }
}
