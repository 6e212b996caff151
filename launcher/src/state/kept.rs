//! `kept.json`: what of config.json is needed after the launch. The bundle may have changed by then.

use oci_spec::runtime::{Hook, LinuxMemoryPolicy, LinuxPersonality, LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};

/// Parts of a configuration; absent ones are not written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kept {
    /// `linux.seccomp`, for execs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<LinuxSeccomp>,
    /// Whether the container has the keyring of whoever created it, and no session keyring of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub callers_keyring: bool,
    /// `linux.personality`, for execs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<LinuxPersonality>,
    /// `linux.memoryPolicy`, for execs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<LinuxMemoryPolicy>,
    /// `hooks.prestart` and `hooks.createRuntime`, in the order in which they run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// `hooks.poststart`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// `hooks.poststop`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
    /// How many of `create_runtime` are `hooks.prestart`.
    #[serde(skip_serializing_if = "is_zero")]
    pub prestart: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Kept {
    /// The parts of a configuration.
    #[must_use]
    pub fn of(spec: &Spec) -> Kept {
        let linux = spec.linux().as_ref();
        let hooks = spec.hooks().as_ref();
        let list = |list: Option<&Option<Vec<Hook>>>| list.cloned().flatten().unwrap_or_default();
        let mut create_runtime = list(hooks.map(|hooks| hooks.prestart()));
        let prestart = create_runtime.len();
        create_runtime.extend(list(hooks.map(|hooks| hooks.create_runtime())));
        Kept {
            seccomp: linux.and_then(|linux| linux.seccomp().clone()),
            callers_keyring: false,
            personality: linux.and_then(|linux| linux.personality().clone()),
            memory_policy: linux.and_then(|linux| linux.memory_policy().clone()),
            create_runtime,
            prestart,
            poststart: list(hooks.map(|hooks| hooks.poststart())),
            poststop: list(hooks.map(|hooks| hooks.poststop())),
        }
    }
}
