//! The profile that podman, CRI-O and docker give a container, from Debian's package of it.
//!
//! The file is a template: entries name the capabilities and architectures under which they hold. What a runtime gets to
//! see is the resolved form, made here as the engines make it.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

/// Where `golang-github-containers-common` puts it.
pub const PATH: &str = "/usr/share/containers/seccomp.json";

/// Capabilities of an ordinary container.
pub const ORDINARY: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The default profile of a container with these capabilities on x86_64.
///
/// # Panics
/// Without the file, saying what to install.
pub fn default_profile(caps: &[&str]) -> LinuxSeccomp {
    let text = std::fs::read_to_string(PATH)
        .unwrap_or_else(|error| panic!("{PATH}: {error}; apt-get install golang-github-containers-common"));
    let template: Value = serde_json::from_str(&text).expect("the template is JSON");
    let syscalls: Vec<Value> = list(&template["syscalls"])
        .iter()
        .filter(|entry| holds(&entry["includes"], caps, true) && !holds(&entry["excludes"], caps, false))
        .map(|entry| {
            let mut resolved = json!({ "names": entry["names"], "action": entry["action"] });
            if !entry["errnoRet"].is_null() {
                resolved["errnoRet"] = entry["errnoRet"].clone();
            }
            if !list(&entry["args"]).is_empty() {
                resolved["args"] = entry["args"].clone();
            }
            resolved
        })
        .collect();
    let mut resolved = json!({
        "defaultAction": template["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls,
    });
    if !template["defaultErrnoRet"].is_null() {
        resolved["defaultErrnoRet"] = template["defaultErrnoRet"].clone();
    }
    serde_json::from_value(resolved).expect("the resolved template is a profile")
}

/// Whether a condition of the template holds; `empty` is the answer to one that asks for nothing.
fn holds(condition: &Value, caps: &[&str], empty: bool) -> bool {
    let (wanted_caps, wanted_arches) = (list(&condition["caps"]), list(&condition["arches"]));
    if wanted_caps.is_empty() && wanted_arches.is_empty() {
        return empty;
    }
    let has = |wanted: &Value| caps.iter().any(|cap| wanted == cap);
    let caps = wanted_caps.is_empty() || wanted_caps.iter().all(has);
    caps && (wanted_arches.is_empty() || wanted_arches.iter().any(|arch| arch == "amd64"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
