//! The default bundle: the host's own root, read-only, below a throw-away layer. For `brood run -- CMD` without an image.

/// What `brood run` lets a user say about the default bundle.
#[derive(Clone, Debug, Default)]
pub struct DefaultBundle {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=value` entries, after PATH and TERM.
    pub env: Vec<String>,
    /// Working directory; `/` when empty.
    pub cwd: String,
    /// The container's host name.
    pub hostname: String,
}

/// The configuration of a default bundle, as JSON that [`crate::config::parse`] reads back: namespaces for all but
/// users, the capabilities and hidden paths that docker gives a container, no network.
#[must_use]
pub fn default_spec(bundle: &DefaultBundle) -> serde_json::Value {
    let mut spec = serde_json::from_str(include_str!("default_config.json")).unwrap_or(serde_json::Value::Null);
    let mut env = vec![serde_json::Value::from(format!("PATH={PATH}")), "TERM=xterm".into()];
    env.extend(bundle.env.iter().map(|entry| entry.as_str().into()));
    spec["process"]["args"] = bundle.args.clone().into();
    spec["process"]["env"] = env.into();
    spec["process"]["cwd"] = if bundle.cwd.is_empty() { "/".into() } else { bundle.cwd.as_str().into() };
    spec["hostname"] = bundle.hostname.as_str().into();
    spec
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;

    #[test]
    fn the_default_bundle_is_a_valid_configuration() {
        let bundle = DefaultBundle { args: vec!["true".into()], hostname: "h".into(), ..DefaultBundle::default() };
        let spec: Spec = serde_json::from_value(default_spec(&bundle)).unwrap();
        assert_eq!(spec.process().as_ref().unwrap().args().as_ref().unwrap(), &["true"]);
        assert_eq!(spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), 6);
    }
}
