//! Files that are right and ask for what does not exist here yet.

use super::wrong::linux;
use super::*;

#[test]
fn what_is_not_supported_yet() {
    let intel_rdt = [
        json!({ "closID": "x" }),
        json!({ "l3CacheSchema": "L3:0=f" }),
        json!({ "memBwSchema": "MB:0=20" }),
        json!({ "schemata": ["L3:0=f"] }),
        json!({ "enableMonitoring": true }),
    ];
    for rdt in intel_rdt {
        // No machine of the tests has it.
        let (field, reason) = ("linux.intelRdt", "resctrl is not mounted");
        let raw = patched(&linux(&json!({ "intelRdt": rdt })));
        let message = check(&raw, LoadOptions::default()).expect_err(field).to_string();
        let way_out = "(use --ignore-unsupported to go on without it)";
        assert_eq!(message, format!("config.json: {field}: {reason} {way_out}"));
        let (_, notes) = check(&raw, LoadOptions { ignore_unsupported: true }).unwrap();
        assert_eq!(notes, [format!("{field}: {reason}, ignored")]);
    }
}
