//! Wrong files, and the one line that each is answered with: a table for each part of the specification.

mod linux;
mod mounts;
mod process;
mod types;

use super::*;

/// Name, change to the minimal file, what the message says after `config.json: `.
type Case = (&'static str, Value, &'static str);

/// Fewer wrong files than this mean that some were lost.
const CASES_MIN: usize = 310;

pub(super) fn linux(patch: &Value) -> Value {
    json!({ "linux": patch })
}

pub(super) fn process(patch: &Value) -> Value {
    json!({ "process": patch })
}

pub(super) fn mount(mount: &Value) -> Value {
    json!({ "mounts": [mount] })
}

#[test]
fn wrong_files_are_answered_with_one_line_that_names_the_field() {
    let tables = [
        types::fields_of_the_wrong_type(),
        types::more_types(),
        types::resources(),
        process::version_root_and_process(),
        process::names(),
        process::schedulers(),
        process::consoles_and_cpus(),
        mounts::mounts_and_devices(),
        mounts::mount_mappings(),
        mounts::more_devices(),
        mounts::hooks(),
        linux::namespaces_and_mappings(),
        linux::other_parts_of_linux(),
        linux::seccomp_listeners(),
        linux::memory_and_personality(),
        linux::sysctls(),
        linux::net_devices(),
        linux::intel_rdt(),
        linux::seccomp_types(),
    ];
    let cases: Vec<Case> = tables.into_iter().flatten().collect();
    let wrong: Vec<String> = cases.iter().filter_map(|case| refusal(case).err()).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
}

fn refusal((name, patch, expected): &Case) -> Result<(), String> {
    let raw = patched(patch);
    let message = match check(&raw, LoadOptions::default()) {
        Ok(_) => return Err(format!("{name}: accepted")),
        Err(error) => error.to_string(),
    };
    if message.contains(char::is_control) {
        return Err(format!("{name}: not one line: {message:?}"));
    }
    let expected = format!("config.json: {expected}");
    if !message.starts_with(&expected) {
        return Err(format!("{name}:\n     got {message}\nexpected {expected}"));
    }
    Ok(())
}

#[test]
fn text_that_is_not_a_config() {
    let deep = "{\"x\": ".to_owned() + &"[".repeat(200);
    for (text, expected) in [
        ("", "line 1, column 1: the file is empty"),
        (" \n\t", "line 1, column 1: the file is empty"),
        ("{", "line 1, column 1: EOF while parsing an object"),
        ("{\n\"a\": 1,\n}", "line 3, column 1: trailing comma"),
        ("{\n  \"a\" 1\n}", "line 2, column 7: expected `:`"),
        ("{} {}", "line 1, column 4: trailing characters"),
        ("{\"a\": \"\u{1}\"}", "line 1, column 8: control character"),
        ("[]", "line 1, column 1: expected a JSON object, found an array"),
        ("null", "line 1, column 1: expected a JSON object, found null"),
        ("hello", "line 1, column 1: expected value"),
        ("{\"ociVersion\": 1}", "ociVersion: invalid type: integer `1`, expected a string (line 1, column 16)"),
        ("{\"ociVersion\": \"1.0.0\",\n\"ociVersion\": \"1.0.0\"}", "ociVersion: there twice (line 2, column 12)"),
        (
            "{\"process\": {\"user\": {}, \"cwd\": \"/\",\n\"cwd\": \"/\"}}",
            "process.cwd: there twice (line 2, column 5)",
        ),
        (&deep, "line 1, column 133: recursion limit exceeded"),
    ] {
        let message = check(text.as_bytes(), LoadOptions::default()).unwrap_err().to_string();
        assert!(!message.contains(char::is_control), "not one line: {message:?}");
        let expected = format!("config.json: {expected}");
        assert!(message.starts_with(&expected), "{text:?}:\n     got {message}\nexpected {expected}");
    }
}

#[test]
fn long_values_are_cut() {
    let long = "x".repeat(100_000);
    for patch in [process(&json!({ "cwd": long })), process(&json!({ "args": long })), process(&json!({ "env": [7] }))]
    {
        let message = check(&patched(&patch), LoadOptions::default()).unwrap_err().to_string();
        assert!(message.len() < 1200, "{} bytes", message.len());
    }
}
