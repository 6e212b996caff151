//! Which messages pass. Cap'n Proto RPC offers more than `schema/brood.capnp` has a use for; what no client of it needs
//! is kept away from code that a hostile one could send round in circles.
//!
//! | message | |
//! | --- | --- |
//! | `bootstrap`, `call`, `finish`, `release`, `return` | pass, within bounds |
//! | `resolve` | answered with `unimplemented`, as a peer of level 0 does: a promise stays a promise, and is called as one |
//! | `disembargo`, results that go elsewhere or come from elsewhere | refused: only a `resolve` or a tail call leads to them |
//! | all others | pass; the library answers `unimplemented` |

use capnp::Error;
use capnp::struct_list;
use capnp_rpc::rpc_capnp::{call, cap_descriptor, message, message_target, payload, promised_answer, return_};

use crate::limits::{CAPS_PER_MESSAGE_MAX, PIPELINE_DEPTH_MAX, SMALL_MESSAGE_BYTES};

/// What to do with a message that a client has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It asks question number so.
    Asks(u32),
    /// It is done with question number so.
    Finishes(u32),
    /// It passes, and changes no account.
    Passes,
    /// It is to be answered with `unimplemented` and goes no further.
    Unimplemented,
}

/// Judges a message of so many bytes.
///
/// # Errors
/// It is malformed, or beyond what is allowed: the connection ends with this reason.
pub(super) fn judge(message: message::Reader<'_>, bytes: usize) -> capnp::Result<Verdict> {
    let verdict = match message.which() {
        Ok(message::Call(call)) => return judge_call(call?),
        Ok(message::Bootstrap(bootstrap)) => Verdict::Asks(bootstrap?.get_question_id()),
        Ok(message::Finish(finish)) => Verdict::Finishes(finish?.get_question_id()),
        Ok(message::Return(answer)) => judge_return(answer?)?,
        Ok(message::Resolve(_)) => Verdict::Unimplemented,
        Ok(message::Disembargo(_)) => return Err(refused("disembargo")),
        _ => Verdict::Passes,
    };
    if bytes > SMALL_MESSAGE_BYTES {
        return Err(refused("a large message that is no call"));
    }
    Ok(verdict)
}

fn judge_call(call: call::Reader<'_>) -> capnp::Result<Verdict> {
    if !matches!(call.get_send_results_to().which()?, call::send_results_to::Caller(())) {
        return Err(refused("results that are sent elsewhere"));
    }
    if let message_target::PromisedAnswer(answer) = call.get_target()?.which()? {
        check_depth(answer?)?;
    }
    check_payload(call.get_params()?)?;
    Ok(Verdict::Asks(call.get_question_id()))
}

fn judge_return(answer: return_::Reader<'_>) -> capnp::Result<Verdict> {
    match answer.which()? {
        return_::Results(payload) => check_payload(payload?)?,
        return_::TakeFromOtherQuestion(_) => return Err(refused("results that come from elsewhere")),
        _ => {}
    }
    Ok(Verdict::Passes)
}

fn check_payload(payload: payload::Reader<'_>) -> capnp::Result<()> {
    let table: struct_list::Reader<'_, cap_descriptor::Owned> = payload.get_cap_table()?;
    if table.len() > CAPS_PER_MESSAGE_MAX {
        return Err(refused("a message with so many capabilities"));
    }
    for descriptor in table {
        if let cap_descriptor::ReceiverAnswer(answer) = descriptor.which()? {
            check_depth(answer?)?;
        }
    }
    Ok(())
}

fn check_depth(answer: promised_answer::Reader<'_>) -> capnp::Result<()> {
    if answer.get_transform()?.len() > PIPELINE_DEPTH_MAX {
        return Err(refused("a pipeline of such a depth"));
    }
    Ok(())
}

fn refused(what: &str) -> Error {
    Error::failed(format!("this daemon does not take {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(bytes: usize, build: impl FnOnce(message::Builder<'_>)) -> capnp::Result<Verdict> {
        let mut message = capnp::message::Builder::new_default();
        build(message.init_root());
        judge(message.get_root_as_reader()?, bytes)
    }

    #[test]
    fn questions_and_their_ends_are_told() {
        assert_eq!(verdict(8, |m| m.init_bootstrap().set_question_id(3)).unwrap(), Verdict::Asks(3));
        assert_eq!(verdict(8, |m| m.init_finish().set_question_id(4)).unwrap(), Verdict::Finishes(4));
        let large_call = verdict(SMALL_MESSAGE_BYTES + 1, |m| {
            let mut call = m.init_call();
            call.set_question_id(5);
            call.init_target().set_imported_cap(0);
        });
        assert_eq!(large_call.unwrap(), Verdict::Asks(5));
    }

    #[test]
    fn what_leads_in_circles_does_not_pass() {
        assert_eq!(
            verdict(8, |m| {
                m.init_resolve();
            })
            .unwrap(),
            Verdict::Unimplemented
        );
        assert!(
            verdict(8, |m| {
                m.init_disembargo();
            })
            .is_err()
        );
        assert!(verdict(8, |m| m.init_return().set_take_from_other_question(1)).is_err());
        assert!(verdict(8, |m| m.init_call().init_send_results_to().set_yourself(())).is_err());
    }

    #[test]
    fn bounds_hold_and_what_is_at_the_bound_passes() {
        let with_caps = |count| {
            verdict(8, |m| {
                let mut call = m.init_call();
                call.reborrow().init_target().set_imported_cap(0);
                call.init_params().init_cap_table(count);
            })
        };
        assert!(with_caps(CAPS_PER_MESSAGE_MAX).is_ok());
        assert!(with_caps(CAPS_PER_MESSAGE_MAX + 1).is_err());
        let deep = |count| {
            verdict(8, |m| {
                m.init_call().init_target().init_promised_answer().init_transform(count);
            })
        };
        assert!(deep(PIPELINE_DEPTH_MAX).is_ok());
        assert!(deep(PIPELINE_DEPTH_MAX + 1).is_err());
        assert!(
            verdict(SMALL_MESSAGE_BYTES + 1, |m| {
                m.init_finish();
            })
            .is_err()
        );
    }
}
