//! Clients of every earlier API go on working: nothing that `tests/clients/schemas/api-N.capnp` says is untrue today.
//!
//! When an API number is about to be replaced by the next one, the schema of its last day goes there as `api-N.capnp`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use capnp::message::ReaderOptions;
use capnp::schema_capnp::{code_generator_request, field, node};

/// What a client relies on, one line for each: where a field is and of which type, which number a method or enumerant has.
type Facts = BTreeSet<String>;

fn compile(schema: &Path) -> Facts {
    let output = Command::new("capnp").args(["compile", "-o-"]).arg(schema).output();
    let output = output.expect("the package capnproto is installed");
    assert!(output.status.success(), "{}: {}", schema.display(), String::from_utf8_lossy(&output.stderr));
    let message = capnp::serialize::read_message(output.stdout.as_slice(), ReaderOptions::new()).expect("a message");
    let request: code_generator_request::Reader<'_> = message.get_root().expect("a request");
    request.get_nodes().unwrap().iter().flat_map(|node| facts(node).expect("a sound schema")).collect()
}

fn facts(node: node::Reader<'_>) -> capnp::Result<Facts> {
    // The file is called otherwise.
    let name = node.get_display_name()?.to_str()?.split_once(':').map_or("", |(_, name)| name).to_owned();
    let name = format!("{name} {:#x}", node.get_id());
    let mut facts = Facts::new();
    match node.which()? {
        node::Struct(of) => {
            facts.insert(format!("struct {name}: variants at {}", of.get_discriminant_offset()));
            for field in of.get_fields()? {
                facts.insert(format!("{name}.{}", place(field)?));
            }
        }
        node::Enum(of) => {
            for (number, enumerant) in of.get_enumerants()?.iter().enumerate() {
                facts.insert(format!("{name}.{} @{number}", enumerant.get_name()?.to_str()?));
            }
        }
        node::Interface(of) => {
            for (number, method) in of.get_methods()?.iter().enumerate() {
                let (takes, gives) = (method.get_param_struct_type(), method.get_result_struct_type());
                facts.insert(format!("{name}.{} @{number}: {takes:#x} -> {gives:#x}", method.get_name()?.to_str()?));
            }
        }
        node::File(()) | node::Const(_) | node::Annotation(_) => {}
    }
    Ok(facts)
}

fn place(field: field::Reader<'_>) -> capnp::Result<String> {
    let place = match field.which()? {
        field::Slot(slot) => {
            format!("slot {} of {:?}, else {:?}", slot.get_offset(), slot.get_type()?, slot.get_default_value()?)
        }
        field::Group(group) => format!("group {:#x}", group.get_type_id()),
    };
    Ok(format!("{} variant {}: {place}", field.get_name()?.to_str()?, field.get_discriminant_value()))
}

fn today() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("brood.capnp")
}

fn earlier(api: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/clients/schemas/api-{api}.capnp"))
}

#[test]
fn what_earlier_clients_know_is_still_true() {
    let (now, mut known) = (compile(&today()), 0);
    for api in (1..).take_while(|api| earlier(*api).exists()) {
        let before = compile(&earlier(api));
        let broken: Vec<&String> = before.difference(&now).collect();
        assert!(broken.is_empty(), "clients of API {api} know otherwise:\n{broken:#?}");
        assert!(before.len() > 100 && before.len() <= now.len(), "{} facts of {}", before.len(), now.len());
        known = api;
    }
    assert_eq!(known, 2, "an earlier API is missing, or a newer one was not counted here");
}

#[test]
fn a_change_that_breaks_them_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(today()).unwrap();
    let now = compile(&today());
    for (from, to) in [
        ("pid @2 :UInt32", "pid @2 :UInt64"),
        ("version @0 (request", "release @0 (request"),
        ("create @1 (request :CreateRequest)", "create @1 (request :GetRequest)"),
        ("reactor @3 :Text", "loop @3 :Text"),
        ("zygotes @5 :UInt16;", "zygotes @5 :UInt16 = 2;"),
    ] {
        assert!(text.contains(from), "{from}");
        let changed = folder.path().join("changed.capnp");
        fs::write(&changed, text.replacen(from, to, 1)).unwrap();
        let broken = now.difference(&compile(&changed)).count();
        assert!(broken > 0, "nobody noticed {to:?}");
    }
}
