//! Hooks of the container's namespaces, and the state that every hook reads.

use std::ffi::CString;

use oci_spec::runtime::{Hook as SpecHook, Spec};
use serde::Serialize;

use super::build::{PlanError, c_string};
use super::{Hook, HookKind, StateText, Step};
use crate::state::{ContainerState, Status};

impl StateText {
    /// The state of a container (runtime-spec, runtime, "State").
    #[must_use]
    pub fn of(container: &ContainerState, status: Status) -> StateText {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Before<'a> {
            oci_version: &'a str,
            id: &'a str,
            status: Status,
        }
        #[derive(Serialize)]
        struct After<'a> {
            bundle: &'a std::path::Path,
            annotations: &'a std::collections::BTreeMap<String, String>,
        }
        // Strings, an enum and a map of strings always have a JSON form; a bundle that is not UTF-8 has none.
        let object = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_else(|_| b"{}".to_vec());
        let ContainerState { oci_version, id, bundle, annotations, .. } = container;
        let mut before = object(serde_json::to_vec(&Before { oci_version, id, status }));
        before.pop();
        before.extend_from_slice(b",\"pid\":");
        let mut after = object(serde_json::to_vec(&After { bundle, annotations }));
        after[0] = b',';
        StateText { parts: vec![before, after] }
    }

    /// The state of a process under a filter with a listener, as the listener's receiver reads it (runtime-spec,
    /// config-linux, "The Container Process State"). The gap for the process's pid comes before that of the container's, if
    /// its state has one.
    #[must_use]
    pub fn of_process(container: &ContainerState, metadata: &str, state: StateText) -> StateText {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Before<'a> {
            oci_version: &'a str,
            fds: [&'a str; 1],
        }
        let text = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_else(|_| b"{}".to_vec());
        let oci_version = container.oci_version.as_str();
        let mut before = text(serde_json::to_vec(&Before { oci_version, fds: ["seccompFd"] }));
        before.pop();
        before.extend_from_slice(b",\"pid\":");
        let metadata = text(serde_json::to_vec(metadata));
        let mut parts = state.parts;
        if let Some(first) = parts.first_mut() {
            first.splice(0..0, [&b",\"metadata\":"[..], &metadata, b",\"state\":"].concat());
        }
        if let Some(last) = parts.last_mut() {
            last.push(b'}');
        }
        parts.insert(0, before);
        StateText { parts }
    }

    /// The whole text.
    #[must_use]
    pub fn with_pid(&self, pid: i32) -> Vec<u8> {
        self.parts.join(pid.to_string().as_bytes())
    }
}

/// Whether the runtime has hooks to run while the child waits.
pub(super) fn runtime_hooks(spec: &Spec) -> bool {
    let some = |list: &Option<Vec<SpecHook>>| list.as_ref().is_some_and(|list| !list.is_empty());
    spec.hooks().as_ref().is_some_and(|hooks| some(hooks.prestart()) || some(hooks.create_runtime()))
}

/// The hooks that the child runs itself.
///
/// A hook without an environment gets `default_env`.
pub(super) fn child_hooks(
    spec: &Spec,
    kind: HookKind,
    container: &ContainerState,
    default_env: &[CString],
) -> Result<Vec<Step>, PlanError> {
    let Some(hooks) = spec.hooks() else { return Ok(Vec::new()) };
    let (name, list, status) = match kind {
        HookKind::CreateContainer => ("createContainer", hooks.create_container(), Status::Creating),
        HookKind::StartContainer => ("startContainer", hooks.start_container(), Status::Created),
    };
    let step = |(position, hook): (usize, &SpecHook)| {
        let field = format!("hooks.{name}[{position}]");
        let strings = |list: &Option<Vec<String>>| {
            list.iter().flatten().map(|text| c_string(&field, text.as_str())).collect::<Result<Vec<_>, _>>()
        };
        let path = c_string(&field, hook.path().to_string_lossy().as_ref())?;
        let mut argv = strings(hook.args())?;
        if argv.is_empty() {
            argv.push(path.clone());
        }
        let index = u16::try_from(position).map_err(|_| PlanError::new(&field, "too many hooks"))?;
        let timeout = u32::try_from(hook.timeout().unwrap_or(0)).unwrap_or(0);
        let state = StateText::of(container, status);
        let env = if hook.env().is_some() { strings(hook.env())? } else { default_env.to_vec() };
        Ok(Step::Hook(Hook { kind, index, path, argv, env, timeout, state }))
    };
    list.iter().flatten().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_json_with_the_pid_in_it() {
        let annotations = [("a\"b".to_owned(), "\n".to_owned())].into();
        let container = ContainerState { id: "x".into(), bundle: "/b".into(), annotations, ..Default::default() };
        let text = StateText::of(&container, Status::Created).with_pid(7);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let expected = serde_json::json!({
            "ociVersion": "", "id": "x", "status": "created", "pid": 7, "bundle": "/b", "annotations": {"a\"b": "\n"},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn the_state_of_a_process_has_two_pids() {
        let container = ContainerState { oci_version: "1.2.0".into(), id: "x".into(), ..Default::default() };
        let state = StateText::of(&container, Status::Creating);
        let read = |state| -> serde_json::Value {
            let text = StateText::of_process(&container, "a\"b", state);
            serde_json::from_slice(&text.with_pid(7)).unwrap()
        };
        let inner = |pid| {
            serde_json::json!({
                "ociVersion": "1.2.0", "id": "x", "status": "creating", "pid": pid, "bundle": "", "annotations": {},
            })
        };
        let expected = |pid| {
            serde_json::json!({
                "ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": 7, "metadata": "a\"b", "state": inner(pid),
            })
        };
        assert_eq!(read(state.clone()), expected(7));
        assert_eq!(read(StateText { parts: vec![state.with_pid(1)] }), expected(1));
    }
}
