//! The committed code is what the Cap'n Proto compiler makes of the schemas, byte for byte.
//!
//! `BROOD_REGENERATE=1 cargo test -p brood-schema --test regenerate` writes it anew.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[test]
fn committed_code_matches_the_schemas() {
    require_compiler();
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed_dir = crate_dir.join("src/generated");
    let fresh = generate(crate_dir);

    if env::var_os("BROOD_REGENERATE").is_some_and(|value| value == "1") {
        write(&committed_dir, &fresh);
        return;
    }

    let committed = rust_files(&committed_dir);
    let changed = fresh.iter().filter_map(|(name, new)| match committed.get(name) {
        None => Some(format!("{} is missing", name.display())),
        Some(old) if old == new => None,
        Some(old) => Some(format!("{} differs {}", name.display(), first_difference(old, new))),
    });
    let orphaned = committed.keys().filter(|name| !fresh.contains_key(*name));
    let stale: Vec<String> = changed.chain(orphaned.map(|name| format!("{} has no schema", name.display()))).collect();
    assert!(
        stale.is_empty(),
        "in {}:\n  {}\nrefresh with: BROOD_REGENERATE=1 cargo test -p brood-schema --test regenerate",
        committed_dir.display(),
        stale.join("\n  "),
    );
}

fn require_compiler() {
    match Command::new("capnp").arg("--version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("install the package capnproto"),
        Err(error) => panic!("capnp --version: {error}"),
        Ok(output) => assert!(output.status.success(), "capnp --version: {output:?}"),
    }
}

/// Compiles every `schema/*.capnp`; file name and contents of the results.
fn generate(crate_dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut schemas: Vec<PathBuf> = fs::read_dir(crate_dir)
        .expect("the crate's directory is readable")
        .map(|entry| entry.expect("the crate's directory is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "capnp"))
        .collect();
    // The order decides nothing in the output; sorted all the same, so that errors come in a stable order.
    schemas.sort();
    assert!(!schemas.is_empty(), "no schema in {}", crate_dir.display());

    let out = tempfile::tempdir().expect("a temporary directory can be made");
    let mut compiler = capnpc::CompilerCommand::new();
    compiler.src_prefix(crate_dir).output_path(out.path());
    for schema in &schemas {
        compiler.file(schema);
    }
    compiler.run().expect("the schemas compile");
    rust_files(out.path())
}

fn rust_files(dir: &Path) -> BTreeMap<PathBuf, String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| entry.expect("directory entries are readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let code = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (PathBuf::from(path.file_name().map(OsString::from).expect("a file has a name")), code)
        })
        .collect()
}

fn write(dir: &Path, files: &BTreeMap<PathBuf, String>) {
    for orphan in rust_files(dir).keys().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(dir.join(orphan)).expect("an orphaned file can be removed");
    }
    for (name, code) in files {
        fs::write(dir.join(name), code).expect("generated code can be written");
    }
}

/// Quotes the first line that differs: when it is the header, the compiler is merely another version.
fn first_difference(old: &str, new: &str) -> String {
    match old.lines().zip(new.lines()).position(|(old, new)| old != new) {
        None => "in length".to_owned(),
        Some(line) => format!(
            "from line {} on:\n    committed: {}\n    generated: {}",
            line + 1,
            old.lines().nth(line).unwrap_or_default(),
            new.lines().nth(line).unwrap_or_default(),
        ),
    }
}
