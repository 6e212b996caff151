//! From an `ExecRequest` to an order.

use brood_launcher::exec::{Changes, Order, Program, check_id};
use brood_schema::brood_capnp as schema;
use capnp::{Error, text_list};

use super::brood::invalid;
use super::oneshot::unique;
use super::stdio::Tickets;
use crate::registry::{Failure, Instance};
use crate::supervisor::ExecOrder;

/// The order in a request. The outer error is a malformed message, the inner one a wrong request.
pub(super) fn order(
    request: schema::exec_request::Reader<'_>,
    container: Instance,
    tickets: &Tickets,
) -> Result<Result<ExecOrder, Failure>, Error> {
    let mut id = request.get_id()?.to_string()?;
    if id.is_empty() {
        id = format!("exec-{:016x}", unique());
    }
    // Refused here already, since the name is in messages and in the journal.
    if let Err(error) = check_id(&id) {
        return Ok(Err(invalid(error.to_string())));
    }
    let program = if request.has_process_json() {
        Program::Json(request.get_process_json()?.to_vec())
    } else {
        Program::Changed(changes(request)?)
    };
    let stdio = match tickets.order(request.get_stdio()?)? {
        Ok(stdio) => stdio,
        Err(failure) => return Ok(Err(failure)),
    };
    let exec = Order { id, program, park: !request.get_start(), ignore_unsupported: request.get_ignore_unsupported() };
    Ok(Ok(ExecOrder { container, exec, stdio, auto_remove: request.get_auto_remove() }))
}

fn changes(request: schema::exec_request::Reader<'_>) -> Result<Changes, Error> {
    use schema::exec_request::{gid, uid, umask};
    let own_if_empty = |text: String| Some(text).filter(|text| !text.is_empty());
    let rlimit =
        |limit: schema::rlimit::Reader<'_>| Ok((limit.get_type()?.to_string()?, limit.get_soft(), limit.get_hard()));
    Ok(Changes {
        args: texts(request.get_args()?)?,
        env: texts(request.get_env()?)?,
        cwd: own_if_empty(request.get_cwd()?.to_string()?),
        uid: match request.get_uid().which()? {
            uid::Own(()) => None,
            uid::Value(uid) => Some(uid),
        },
        gid: match request.get_gid().which()? {
            gid::Own(()) => None,
            gid::Value(gid) => Some(gid),
        },
        additional_gids: request.get_additional_gids()?.iter().collect(),
        umask: match request.get_umask().which()? {
            umask::Own(()) => None,
            umask::Value(umask) => Some(umask),
        },
        capabilities: texts(request.get_capabilities()?)?,
        no_new_privileges: request.get_no_new_privileges(),
        rlimits: request.get_rlimits()?.iter().map(rlimit).collect::<capnp::Result<_>>()?,
        apparmor_profile: own_if_empty(request.get_apparmor_profile()?.to_string()?),
        selinux_label: own_if_empty(request.get_selinux_label()?.to_string()?),
        terminal: request.get_terminal(),
        size: (request.get_rows(), request.get_columns()),
    })
}

fn texts(list: text_list::Reader<'_>) -> Result<Vec<String>, Error> {
    list.iter().map(|text| Ok(text?.to_string()?)).collect()
}
