//! House rules that neither rustfmt nor clippy know.

use std::fs;
use std::path::{Path, PathBuf};

use brood_tests::binaries;

/// A file longer than this is two files.
const MOST_LINES: usize = 600;

#[test]
fn files_are_short() {
    complain(|text| {
        let lines = text.lines().count();
        (lines > MOST_LINES).then(|| format!("{lines} lines; {MOST_LINES} are the most"))
    });
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together, so that this file does not complain about itself.
    let marks = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!("));
    complain(|text| marks.iter().find(|mark| text.contains(*mark)).map(|mark| format!("contains {mark})")));
}

#[test]
fn no_tabs() {
    complain(|text| {
        let line = text.lines().position(|line| line.contains('\t'))?;
        Some(format!("line {} contains a tab", line + 1))
    });
}

#[test]
fn only_the_guest_runs_what_is_ignored() {
    // `tests/guest/run` runs whatever is ignored: with another reason it would be lost, or run where it does not belong.
    let (mark, reason) = (["#[", "ignore"].concat(), " = \"runs in the guest: tests/guest/run\"]");
    complain(|text| {
        let other = text.match_indices(&mark).any(|(at, _)| !text[at + mark.len()..].starts_with(reason));
        other.then(|| format!("contains {mark}] with another reason than{reason}"))
    });
}

#[test]
fn unsafe_code_is_declared() {
    let keyword = ["unsafe"].concat();
    let blocks = [" {", " fn ", " impl ", " extern "].map(|next| format!("{keyword}{next}"));
    // Of the whole module, or better of one item.
    let declaration = format!("[expect({keyword}_code");
    complain(|text| {
        let code = |line: &&str| !line.trim_start().starts_with("//");
        let line = text.lines().filter(code).find(|line| blocks.iter().any(|block| line.contains(block)))?;
        let dense: String = text.split_whitespace().collect();
        let complaint = || format!("lacks `#{declaration}, reason = ...)]` but has: {}", line.trim());
        (!dense.contains(&declaration)).then(complaint)
    });
}

/// Applies one rule to every source file of ours.
fn complain(rule: impl Fn(&str) -> Option<String>) {
    let mut files = Vec::new();
    sources(binaries::repository(), &mut files);
    assert!(files.len() > 10, "the sources were not found: {files:?}");
    let complaints: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let text = fs::read_to_string(path).expect("a source file is text");
            rule(&text).map(|complaint| format!("{}: {complaint}", path.display()))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the repository").filter_map(Result::ok) {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "generated" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("_capnp.rs") {
            found.push(path);
        }
    }
}
