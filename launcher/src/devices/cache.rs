//! Rules that were compiled before.
//!
//! Thousands of containers share a handful of lists. One is found by its hash and then compared in full.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use super::Compiled;
use super::error::RuleError;
use super::rules::Rule;

/// A bounded number of compiled lists; the one that was not asked for the longest makes room, and its descriptor is
/// closed once nobody uses it. The kernel keeps what is attached.
#[derive(Debug, Default)]
pub(super) struct Cache {
    hasher: RandomState,
    /// Most recently used last.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    rules: Vec<Rule>,
    compiled: Arc<Compiled>,
}

impl Cache {
    /// Lists that are kept, each with a descriptor if a cgroup v2 uses it.
    pub const CAPACITY: usize = 64;

    /// What these rules compile to. Errors are not kept.
    pub fn get(&mut self, rules: Vec<Rule>) -> Result<Arc<Compiled>, RuleError> {
        let hash = self.hasher.hash_one(&rules);
        let known = self.entries.iter().position(|entry| entry.hash == hash && entry.rules == rules);
        let entry = match known {
            Some(known) => self.entries.remove(known),
            None => Entry { hash, compiled: Arc::new(Compiled::new(&rules)?), rules },
        };
        if self.entries.len() == Self::CAPACITY {
            self.entries.remove(0);
        }
        let compiled = Arc::clone(&entry.compiled);
        self.entries.push(entry);
        Ok(compiled)
    }
}
