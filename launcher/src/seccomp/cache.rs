//! Filters of profiles that were compiled before.
//!
//! Thousands of containers share a handful of profiles. A profile is found by a hash of its serialized form and then
//! compared in full, so that no collision, accidental or made, gives a container another one's filter.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;

use oci_spec::runtime::LinuxSeccomp;

use super::{Filter, SeccompError, compile};

/// A bounded number of compiled filters; the one that was not asked for the longest makes room.
#[derive(Debug)]
pub struct Cache {
    capacity: usize,
    hasher: RandomState,
    /// Most recently used last.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    profile: LinuxSeccomp,
    filter: Arc<Filter>,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(Self::CAPACITY)
    }
}

impl Cache {
    /// Filters in a [`Cache::default`]; about 10 KB each.
    pub const CAPACITY: usize = 64;

    /// An empty cache for at most so many filters.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, hasher: RandomState::new(), entries: Vec::new() }
    }

    /// The profile's filter, compiled now if it is not there. Errors are not kept.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn get(&mut self, profile: &LinuxSeccomp) -> Result<Arc<Filter>, SeccompError> {
        let hash = self.hash(profile);
        let known = self.entries.iter().position(|entry| entry.hash == hash && entry.profile == *profile);
        if let Some(known) = known {
            self.entries[known..].rotate_left(1);
        } else {
            let filter = Arc::new(compile(profile)?);
            if self.capacity == 0 {
                return Ok(filter);
            }
            if self.entries.len() == self.capacity {
                self.entries.remove(0);
            }
            self.entries.push(Entry { hash, profile: profile.clone(), filter });
        }
        let last = self.entries.len() - 1;
        Ok(Arc::clone(&self.entries[last].filter))
    }

    /// How many filters are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn hash(&self, profile: &LinuxSeccomp) -> u64 {
        let mut sink = HashSink(self.hasher.build_hasher());
        // Neither a type of numbers, strings and lists nor the sink can fail; the comparison would catch it anyway.
        serde_json::to_writer(&mut sink, profile).unwrap_or_default();
        sink.0.finish()
    }
}

/// Serialized bytes go straight into a hasher.
struct HashSink<H>(H);

impl<H: Hasher> io::Write for HashSink<H> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
