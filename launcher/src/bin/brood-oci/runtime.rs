//! What every command about containers needs.

use anyhow::Context;
use brood_launcher::config::{IdError, check_id};
use brood_launcher::prepare::CgroupManager;
use brood_launcher::state::{ContainerDir, StateError, StateRoot};
use regex::Regex;

use crate::messages::Messages;

/// The state directory, and what the global options say.
pub struct Runtime {
    pub root: StateRoot,
    pub messages: Messages,
    /// Who makes the cgroups of new containers.
    pub cgroups: CgroupManager,
}

/// There is no such container, or could be none.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl Runtime {
    /// A container's folder.
    pub fn find(&self, id: &str) -> Result<ContainerDir, FindError> {
        check_id(id)?;
        Ok(self.root.find(id)?)
    }

    /// Acts on every container whose ID the regular expression matches. As with crun, a container with which that does
    /// not work is told in a warning, and the others get their turn.
    pub fn for_each_match(&self, pattern: &str, act: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let regex = Regex::new(pattern).with_context(|| format!("invalid regular expression {pattern:?}"))?;
        for id in self.root.list()?.iter().filter(|id| regex.is_match(id)) {
            if let Err(error) = act(id) {
                self.messages.warning(&format!("{id}: {}", brood_launcher::usage::chain(&error)));
            }
        }
        Ok(())
    }
}
