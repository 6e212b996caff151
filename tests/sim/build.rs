//! Makes a module of every broken core, see `mutants.rs`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

include!("mutants.rs");

const FILES: [&str; 4] = ["mod.rs", "life.rs", "life/pause.rs", "recovery.rs"];

fn main() {
    let sources = Path::new("../../core/src/registry");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=mutants.rs");
    println!("cargo::rerun-if-changed={}", sources.display());
    let mut modules = String::new();
    for mutant in MUTANTS {
        let directory = out.join(mutant.name);
        std::fs::create_dir_all(directory.join("life")).expect("OUT_DIR can be written");
        for file in FILES {
            let text = std::fs::read_to_string(sources.join(file)).expect("a source file of the core");
            let text = if file == mutant.file { broken(&text, mutant) } else { text };
            std::fs::write(directory.join(file), with_shared_types(&text)).expect("OUT_DIR can be written");
        }
        let (name, path) = (mutant.name, directory.join("mod.rs"));
        let path = path.display();
        writeln!(modules, "#[allow(clippy::all, unused)]\n#[path = \"{path}\"]\nmod {name};").expect("a string grows");
    }
    let names = MUTANTS.iter().map(|mutant| format!("{},", mutant.name)).collect::<String>();
    writeln!(modules, "broken_cores!({names});").expect("a string grows");
    std::fs::write(out.join("mutants.rs"), modules).expect("OUT_DIR can be written");
}

fn broken(text: &str, mutant: &Mutant) -> String {
    let found = text.matches(mutant.find).count();
    assert!(found == 1, "mutants.rs, {}: its text is {found} times in {}, not once", mutant.name, mutant.file);
    text.replace(mutant.find, mutant.replace)
}

/// All cores speak of the same commands, events and effects; the tests of the core are run where it lives.
fn with_shared_types(text: &str) -> String {
    text.replace("mod types;\n", "")
        .replace("#[cfg(test)]\nmod tests;\n", "")
        .replace("pub use types::", "pub use crate::registry::")
        .replace("use super::types::", "use crate::registry::")
        .replace("use super::super::types::", "use crate::registry::")
}
