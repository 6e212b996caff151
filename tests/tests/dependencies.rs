//! What we depend on: where it comes from, under which licence, and which crate may use what. Works without network,
//! on what cargo has fetched to build this test.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use brood_tests::{binaries, spdx};
use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Licences that fit a program under Apache-2.0 OR MIT.
const ALLOWED_LICENCES: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that nothing of ours may pull in, and why.
const BANNED: [(&str, &str); 6] = [
    ("openssl-sys", "a system library to install"),
    ("native-tls", "a system library to install"),
    ("libdbus-sys", "a system library to install"),
    ("bindgen", "wants libclang on the user's machine"),
    ("cmake", "wants cmake on the user's machine"),
    ("async-std", "one runtime is enough"),
];

/// Crates that only tests may use.
const BANNED_OUTSIDE_TESTS: [(&str, &str); 3] = [
    ("libseccomp", "a system library to install; it is an oracle of tests"),
    ("libseccomp-sys", "a system library to install; it is an oracle of tests"),
    ("capnpc", "generated code is committed: no schema compiler in a build"),
];

/// What must never come to stand among a member's dependencies, directly or through others.
const MEMBERS_WITHOUT: [(&str, &[&str]); 2] = [
    ("brood-launcher", &["tokio", "tokio-uring", "capnp-rpc", "futures", "brood"]),
    ("brood-schema", &["capnp-rpc", "tokio", "serde"]),
];

#[test]
fn every_package_comes_from_crates_io() {
    let metadata = Metadata::load();
    let strangers: Vec<_> =
        metadata.foreign().filter(|p| p["source"] != CRATES_IO).map(|p| (name(p), &p["source"])).collect();
    assert!(strangers.is_empty(), "not from crates.io: {strangers:?}");
}

#[test]
fn every_licence_is_allowed() {
    let metadata = Metadata::load();
    let refused: Vec<String> = metadata
        .foreign()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or_default();
            let verdict = spdx::satisfiable(licence, &ALLOWED_LICENCES);
            (verdict != Ok(true)).then(|| format!("{}: `{licence}` {verdict:?}", name(package)))
        })
        .collect();
    assert!(refused.is_empty(), "licences that are not allowed:\n{}", refused.join("\n"));
}

#[test]
fn nothing_banned_is_pulled_in() {
    let metadata = Metadata::load();
    let everything: BTreeSet<&str> = metadata.foreign().map(name).collect();
    let shipped: BTreeSet<&str> =
        ["brood", "brood-launcher", "brood-schema"].iter().flat_map(|member| metadata.reach(member)).collect();
    let banned = BANNED.iter().filter(|(name, _)| everything.contains(name));
    let test_only = BANNED_OUTSIDE_TESTS.iter().filter(|(name, _)| shipped.contains(name));
    let found: Vec<_> = banned.chain(test_only).collect();
    assert!(found.is_empty(), "banned: {found:?}");
}

#[test]
fn members_keep_to_their_layer() {
    let metadata = Metadata::load();
    for (member, forbidden) in MEMBERS_WITHOUT {
        let reach = metadata.reach(member);
        let found: Vec<_> = forbidden.iter().filter(|name| reach.contains(**name)).collect();
        assert!(found.is_empty(), "{member} must not reach {found:?}");
    }
    assert_eq!(metadata.direct("brood-schema"), BTreeSet::from(["capnp"]), "brood-schema depends on capnp alone");
}

/// What `cargo metadata` says.
struct Metadata {
    packages: BTreeMap<String, Value>,
    /// Package id to the ids of what it needs at run time or build time; dev-dependencies are left out.
    edges: BTreeMap<String, Vec<String>>,
}

impl Metadata {
    fn load() -> Self {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        // For this platform only: what other platforms need has not been fetched.
        let output = Command::new(cargo)
            .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &host()])
            .current_dir(binaries::repository())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).expect("cargo speaks JSON");
        let packages = list(&document["packages"]).iter().map(|p| (text(&p["id"]), p.clone())).collect();
        let edges = list(&document["resolve"]["nodes"])
            .iter()
            .map(|node| {
                let needed = list(&node["deps"]).iter().filter(|dep| list(&dep["dep_kinds"]).iter().any(ships));
                (text(&node["id"]), needed.map(|dep| text(&dep["pkg"])).collect())
            })
            .collect();
        Self { packages, edges }
    }

    /// Packages that are not ours.
    fn foreign(&self) -> impl Iterator<Item = &Value> {
        self.packages.values().filter(|package| !package["source"].is_null())
    }

    fn id(&self, member: &str) -> &str {
        let own = |package: &Value| name(package) == member && package["source"].is_null();
        self.packages.iter().find(|(_, package)| own(package)).map(|(id, _)| id.as_str()).expect("a workspace member")
    }

    /// Names of everything that a member needs, directly or not.
    fn reach(&self, member: &str) -> BTreeSet<&str> {
        let mut todo = vec![self.id(member)];
        let mut seen = BTreeSet::new();
        while let Some(id) = todo.pop() {
            todo.extend(self.edges[id].iter().map(String::as_str).filter(|next| seen.insert(*next)));
        }
        seen.into_iter().map(|id| name(&self.packages[id])).collect()
    }

    /// Names of what a member needs directly.
    fn direct(&self, member: &str) -> BTreeSet<&str> {
        self.edges[self.id(member)].iter().map(|id| name(&self.packages[id])).collect()
    }
}

/// Whether an edge of this kind ends in what users build.
fn ships(kind: &Value) -> bool {
    kind["kind"] != "dev"
}

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8(output.stdout).expect("rustc speaks ASCII");
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc -vV names the host").to_owned()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a package has a name")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}
