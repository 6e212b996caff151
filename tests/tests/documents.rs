//! The documents are true to the tree where a program can tell: links lead somewhere, every step is described.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "docs/rpc.md",
        "docs/brood-oci.md",
        "docs/compatibility.md",
        "bench/README.md",
    ] {
        let text = read(document);
        let folder = root().join(document).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{document} links to {link}, which is not there");
        }
    }
}

#[test]
fn the_architecture_describes_every_step_by_its_name() {
    let code = read("launcher/src/plan/step.rs");
    let (_, names) = code.split_once("pub fn name(&self)").unwrap();
    let (names, _) = names.split_once("pub fn object").unwrap();
    let names: Vec<&str> = names.lines().filter_map(|line| line.split("=> \"").nth(1)?.split('"').next()).collect();
    assert!(names.len() > 30, "Step::name is not read rightly any more: {names:?}");

    let document = read("ARCHITECTURE.md");
    let (_, steps) = document.split_once("\n## Steps\n").unwrap();
    let (steps, _) = steps.split_once("\n## ").unwrap();
    // The first column: names with commas, some with "or" before them.
    let described: Vec<&str> = steps
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim().trim_start_matches("or "))
        // What is in parentheses says which of several it is.
        .map(|name| name.split(" (").next().unwrap_or_default())
        .collect();
    for name in names {
        assert!(described.contains(&name), "ARCHITECTURE.md, Steps: {name:?} is missing");
    }
}
