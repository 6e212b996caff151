//! In place of all the rest in a build without the feature `systemd`.

use std::path::PathBuf;

use super::Scope;
use crate::cgroup::Limits;

/// Always the same.
#[derive(Debug, thiserror::Error)]
#[error("this build cannot ask systemd: it is without the feature `systemd`")]
pub struct ScopeError;

/// Never.
///
/// # Errors
/// Always.
pub fn reach() -> Result<(), ScopeError> {
    Err(ScopeError)
}

/// There is none.
#[derive(Debug)]
pub struct Anchor(std::convert::Infallible);

/// There is none.
#[derive(Debug)]
pub(crate) struct ScopeOrder(std::convert::Infallible);

impl ScopeOrder {
    pub fn new(_: &str, _: &str, _: &std::collections::HashMap<String, String>) -> Result<ScopeOrder, ScopeError> {
        Err(ScopeError)
    }

    pub fn start(self, _: &Limits, _: bool) -> Result<(Scope, PathBuf, Anchor), ScopeError> {
        match self.0 {}
    }
}

impl Scope {
    pub(in crate::cgroup) fn set(&self, _: &Limits) -> Result<(), ScopeError> {
        Err(ScopeError)
    }

    pub(in crate::cgroup) fn stop(&self) -> Result<(), ScopeError> {
        Err(ScopeError)
    }
}
