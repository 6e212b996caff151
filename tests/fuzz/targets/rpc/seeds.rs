//! What a client says in earnest, for the fuzzer to begin with.

use std::path::Path;

use brood_schema::brood_capnp as schema;
use capnp::any_pointer;
use capnp::message::Builder;
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_capnp::{call, cap_descriptor, message};

use crate::sandbox::BUNDLE;

const BROOD: u64 = schema::brood::Client::TYPE_ID;
const CONTAINER: u64 = schema::container::Client::TYPE_ID;

/// Writes the seeds to `$BROOD_FUZZ_SEEDS`, if it is set.
pub fn write() {
    let Some(directory) = std::env::var_os("BROOD_FUZZ_SEEDS") else { return };
    for (number, seed) in all().into_iter().enumerate() {
        std::fs::write(Path::new(&directory).join(format!("seed{number}")), seed).expect("a place for seeds");
    }
}

fn all() -> Vec<Vec<u8>> {
    let simple = |method| conversation([call(1, 0, &[], BROOD, method, |_| {}), finish(1), release(0)]);
    vec![
        simple(0),
        simple(3),
        simple(6),
        conversation([
            call(1, 0, &[], BROOD, 1, |params| {
                let mut request = params.init_as::<schema::brood::create_params::Builder<'_>>().init_request();
                request.set_id("box");
                request.reborrow().init_source().set_config(include_bytes!("../../seeds/everything.json"));
                request.set_ignore_unsupported(true);
            }),
            call(2, 1, &[0], CONTAINER, 0, |_| {}),
            call(3, 1, &[0], CONTAINER, 1, |_| {}),
            finish(2),
        ]),
        conversation([
            call(1, 0, &[], BROOD, 1, |params| {
                let mut request = params.init_as::<schema::brood::create_params::Builder<'_>>().init_request();
                request.set_id("box");
                request.reborrow().init_source().set_bundle(BUNDLE);
                let mut label = request.reborrow().init_labels(1).get(0);
                label.set_key("key");
                label.set_value("value");
                request.init_stdio().set_null(());
            }),
            call(2, 1, &[0], CONTAINER, 3, |params| {
                params.init_as::<schema::container::delete_params::Builder<'_>>().init_request().set_force(true);
            }),
        ]),
        conversation([
            call(1, 0, &[], BROOD, 2, |params| {
                params.init_as::<schema::brood::get_params::Builder<'_>>().init_request().set_id("box");
            }),
            call(2, 1, &[0], CONTAINER, 5, |params| {
                let request = params.init_as::<schema::container::exec_params::Builder<'_>>().init_request();
                request.init_args(1).set(0, "true");
            }),
            call(3, 1, &[0], CONTAINER, 7, |_| {}),
            call(4, 2, &[0], schema::process::Client::TYPE_ID, 1, |_| {}),
            finish(1),
        ]),
        conversation([
            call(1, 0, &[], BROOD, 4, |params| {
                let request = params.init_as::<schema::brood::run_params::Builder<'_>>().init_request();
                request.init_create().init_source().set_config(b"{}");
            }),
            finish(1),
        ]),
        conversation([events(1, |mut table| table.set_sender_hosted(5)), returned(0), finish(1)]),
        conversation([events(1, |mut table| table.set_receiver_hosted(0)), release(0)]),
        conversation([events(1, |mut table| table.set_sender_promise(5)), resolve(5), events(2, |mut table| table.set_sender_promise(5))]),
        conversation([events(1, |table| table.init_receiver_answer().set_question_id(0))]),
    ]
}

/// As it goes over the wire.
type Message = Vec<u8>;

/// The bootstrap, question 0, and what follows.
fn conversation<const N: usize>(messages: [Message; N]) -> Vec<u8> {
    let bootstrap = build(|message| message.init_bootstrap().set_question_id(0));
    let all = std::iter::once(bootstrap).chain(messages);
    all.flatten().collect()
}

fn build(fill: impl FnOnce(message::Builder<'_>)) -> Message {
    let mut message = Builder::new_default();
    fill(message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

/// A call of what the answer to `target` has under these pointers.
fn call(
    question: u32,
    target: u32,
    path: &[u16],
    interface: u64,
    method: u16,
    params: impl FnOnce(any_pointer::Builder<'_>),
) -> Message {
    build(|message| {
        let mut call = address(message, question, target, path, interface, method);
        params(call.reborrow().init_params().get_content());
    })
}

fn address<'a>(
    message: message::Builder<'a>,
    question: u32,
    target: u32,
    path: &[u16],
    interface: u64,
    method: u16,
) -> call::Builder<'a> {
    let mut call = message.init_call();
    call.set_question_id(question);
    call.set_interface_id(interface);
    call.set_method_id(method);
    let mut answer = call.reborrow().init_target().init_promised_answer();
    answer.set_question_id(target);
    let mut transform = answer.init_transform(path.len() as u32);
    for (index, field) in (0..).zip(path) {
        transform.reborrow().get(index).set_get_pointer_field(*field);
    }
    call
}

/// A subscription; its sink is the only capability of the message.
fn events(question: u32, sink: impl FnOnce(cap_descriptor::Builder<'_>)) -> Message {
    // The pointer to the first capability, which no typed builder sets without a connection. (capnproto.org, "Encoding
    // Spec", "Capabilities")
    const CAPABILITY: [u8; 8] = [3, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = build(|message| {
        let mut call = address(message, question, 0, &[], BROOD, 5);
        let mut payload = call.reborrow().init_params();
        let mut request = payload.reborrow().get_content().init_as::<schema::brood::events_params::Builder<'_>>().init_request();
        request.set_since(1);
        request.set_follow(true);
        sink(payload.init_cap_table(1).get(0));
    });
    // `request` is followed by `sink` in the parameters: the words before the request's own, which begin with `since`.
    let since = bytes.chunks_exact(8).position(|word| word == 1u64.to_le_bytes()).expect("since");
    bytes[(since - 1) * 8..since * 8].copy_from_slice(&CAPABILITY);
    bytes
}

fn finish(question: u32) -> Message {
    build(|message| message.init_finish().set_question_id(question))
}

fn release(id: u32) -> Message {
    build(|message| {
        let mut release = message.init_release();
        release.set_id(id);
        release.set_reference_count(1);
    })
}

fn returned(question: u32) -> Message {
    build(|message| {
        let mut answer = message.init_return();
        answer.set_answer_id(question);
        answer.init_results();
    })
}

fn resolve(promise: u32) -> Message {
    build(|message| {
        let mut resolve = message.init_resolve();
        resolve.set_promise_id(promise);
        resolve.init_cap().set_sender_promise(promise);
    })
}
