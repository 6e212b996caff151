//! Between the schema's types and ours.

use std::collections::BTreeMap;

use brood_launcher::state::{ExitRecord, INIT, Status};
use brood_schema::brood_capnp as schema;
use capnp::struct_list;

use crate::journal::JournalEvent;
use crate::registry::{Failure, FailureKind, Reply};
use crate::supervisor::Snapshot;

type Entries<'a> = struct_list::Reader<'a, schema::key_value::Owned>;

pub(crate) fn labels_from(entries: Entries<'_>) -> capnp::Result<BTreeMap<String, String>> {
    entries.iter().map(|entry| Ok((entry.get_key()?.to_string()?, entry.get_value()?.to_string()?))).collect()
}

pub(super) fn put_entries(mut to: struct_list::Builder<'_, schema::key_value::Owned>, from: &BTreeMap<String, String>) {
    for (index, (key, value)) in (0..).zip(from) {
        let mut entry = to.reborrow().get(index);
        entry.set_key(key);
        entry.set_value(value);
    }
}

pub(super) fn put_exit(mut to: schema::exit::Builder<'_>, from: &ExitRecord) {
    to.set_status(from.status);
    to.set_signal(from.signal.unwrap_or(0));
    to.set_reason(from.reason.as_deref().unwrap_or_default());
    to.set_time(from.time_ns);
}

pub(crate) fn exit_from(from: schema::exit::Reader<'_>) -> capnp::Result<ExitRecord> {
    let reason = from.get_reason()?.to_string()?;
    Ok(ExitRecord {
        status: from.get_status(),
        signal: Some(from.get_signal()).filter(|signal| *signal != 0),
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        time_ns: from.get_time(),
    })
}

pub(super) fn put_failure(mut to: schema::failure::Builder<'_>, from: &Failure) {
    to.set_kind(match from.kind {
        FailureKind::NotFound => schema::FailureKind::NotFound,
        FailureKind::AlreadyExists => schema::FailureKind::AlreadyExists,
        FailureKind::InvalidRequest => schema::FailureKind::InvalidRequest,
        FailureKind::InvalidConfig => schema::FailureKind::InvalidConfig,
        FailureKind::SetupFailed => schema::FailureKind::SetupFailed,
        FailureKind::WrongState => schema::FailureKind::WrongState,
        FailureKind::LaunchFailed => schema::FailureKind::LaunchFailed,
        FailureKind::Overloaded => schema::FailureKind::Overloaded,
        FailureKind::Internal => schema::FailureKind::Internal,
    });
    to.set_message(&from.message);
    to.set_exit_status(from.exit_status);
    to.set_errno(from.errno);
    to.set_step(&from.step);
}

pub(crate) fn failure_from(from: schema::failure::Reader<'_>) -> capnp::Result<Failure> {
    Ok(Failure {
        // A kind that is newer than this client is a failure all the same.
        kind: match from.get_kind().unwrap_or(schema::FailureKind::Internal) {
            schema::FailureKind::NotFound => FailureKind::NotFound,
            schema::FailureKind::AlreadyExists => FailureKind::AlreadyExists,
            schema::FailureKind::InvalidRequest => FailureKind::InvalidRequest,
            schema::FailureKind::InvalidConfig => FailureKind::InvalidConfig,
            schema::FailureKind::SetupFailed => FailureKind::SetupFailed,
            schema::FailureKind::WrongState => FailureKind::WrongState,
            schema::FailureKind::LaunchFailed => FailureKind::LaunchFailed,
            schema::FailureKind::Overloaded => FailureKind::Overloaded,
            schema::FailureKind::Internal => FailureKind::Internal,
        },
        message: from.get_message()?.to_string()?,
        exit_status: from.get_exit_status(),
        errno: from.get_errno(),
        step: from.get_step()?.to_string()?,
    })
}

/// The outcome of a command that answers with nothing.
pub(super) fn put_outcome(mut to: schema::outcome::Builder<'_>, from: Result<(), &Failure>) {
    match from {
        Ok(()) => to.set_ok(()),
        Err(failure) => put_failure(to.init_failure(), failure),
    }
}

pub(super) fn put_reply(to: schema::outcome::Builder<'_>, from: &Reply) {
    put_outcome(to, if let Reply::Refused(failure) = from { Err(failure) } else { Ok(()) });
}

pub(super) fn put_state(mut to: schema::container_state::Builder<'_>, from: &Snapshot) {
    let state = &from.state;
    to.set_id(&state.id);
    to.set_status(match from.status {
        Status::Creating => schema::Status::Creating,
        Status::Created => schema::Status::Created,
        // The registry knows no pause.
        Status::Running | Status::Paused => schema::Status::Running,
        Status::Stopped => schema::Status::Stopped,
    });
    to.set_bundle(state.bundle.to_string_lossy().as_ref());
    to.set_rootfs(state.rootfs.to_string_lossy().as_ref());
    to.set_created_text(&state.created);
    to.set_oci_version(&state.oci_version);
    put_entries(to.reborrow().init_labels(state.labels.len() as u32), &state.labels);
    put_entries(to.reborrow().init_annotations(state.annotations.len() as u32), &state.annotations);
    if let Ok(pid) = u32::try_from(from.pid)
        && pid != 0
    {
        let mut init = to.reborrow().init_processes(1).get(0);
        init.set_name(INIT);
        init.set_pid(pid);
    }
    if let Some(exit) = &from.exit {
        put_exit(to.init_exit(), exit);
    }
}

pub(super) fn put_event(mut to: schema::event::Builder<'_>, from: &JournalEvent) {
    to.set_seq(from.seq);
    to.set_time(from.time);
    to.set_type(&from.kind);
    to.set_id(&from.id);
    to.set_process(&from.process);
    to.set_pid(u32::try_from(from.pid).unwrap_or(0));
    if let Some(exit) = &from.exit {
        put_exit(to.init_exit(), exit);
    }
}
