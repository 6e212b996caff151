//! Between the schema's types and ours.

use std::collections::BTreeMap;

use brood_launcher::checkpoint::named::Checkpoint;
use brood_launcher::state::{ExitRecord, PressureTotals, Rusage, Status};
use brood_schema::brood_capnp as schema;
use capnp::struct_list;

use crate::journal::JournalEvent;
use crate::registry::{Failure, FailureKind, Reply};
use crate::supervisor::{ProcessSnapshot, Snapshot};

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

pub(crate) fn checkpoint_from(from: schema::checkpoint::Reader<'_>) -> capnp::Result<Checkpoint> {
    Ok(Checkpoint {
        name: from.get_name()?.to_string()?,
        created: from.get_created_text()?.to_string()?,
        exit: from.get_exit(),
        tcp: from.get_tcp(),
        unix_sockets: from.get_unix_sockets(),
        shell: from.get_shell(),
    })
}

pub(crate) fn put_checkpoint(mut to: schema::checkpoint::Builder<'_>, from: &Checkpoint) {
    to.set_name(&from.name);
    to.set_created_text(&from.created);
    to.set_exit(from.exit);
    to.set_tcp(from.tcp);
    to.set_unix_sockets(from.unix_sockets);
    to.set_shell(from.shell);
}

pub(super) fn put_exit(mut to: schema::exit::Builder<'_>, from: &ExitRecord) {
    to.set_status(from.status);
    to.set_signal(from.signal.unwrap_or(0));
    to.set_reason(from.reason.as_deref().unwrap_or_default());
    to.set_time(from.time_ns);
    to.set_oom_killed(from.oom_killed);
    to.set_memory_peak(from.memory_peak.unwrap_or(0));
    to.set_cpu_total(from.cpu_total_ns.unwrap_or(0));
    if let Some(from) = from.rusage {
        let mut to = to.reborrow().init_rusage();
        to.set_user_time(from.user_ns);
        to.set_system_time(from.system_ns);
        to.set_max_rss(from.max_rss_bytes);
    }
    if let Some(from) = from.pressure {
        let mut to = to.init_pressure();
        to.set_cpu_some(from.cpu_some_us);
        to.set_cpu_full(from.cpu_full_us);
        to.set_memory_some(from.memory_some_us);
        to.set_memory_full(from.memory_full_us);
        to.set_io_some(from.io_some_us);
        to.set_io_full(from.io_full_us);
    }
}

fn rusage_from(from: schema::rusage::Reader<'_>) -> Rusage {
    let (user_ns, system_ns) = (from.get_user_time(), from.get_system_time());
    Rusage { user_ns, system_ns, max_rss_bytes: from.get_max_rss() }
}

fn pressure_from(from: schema::pressure_totals::Reader<'_>) -> PressureTotals {
    PressureTotals {
        cpu_some_us: from.get_cpu_some(),
        cpu_full_us: from.get_cpu_full(),
        memory_some_us: from.get_memory_some(),
        memory_full_us: from.get_memory_full(),
        io_some_us: from.get_io_some(),
        io_full_us: from.get_io_full(),
    }
}

pub(crate) fn exit_from(from: schema::exit::Reader<'_>) -> capnp::Result<ExitRecord> {
    let reason = from.get_reason()?.to_string()?;
    Ok(ExitRecord {
        status: from.get_status(),
        signal: Some(from.get_signal()).filter(|signal| *signal != 0),
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        time_ns: from.get_time(),
        oom_killed: from.get_oom_killed(),
        never_ran: false,
        rusage: if from.has_rusage() { Some(rusage_from(from.get_rusage()?)) } else { None },
        memory_peak: Some(from.get_memory_peak()).filter(|peak| *peak != 0),
        cpu_total_ns: Some(from.get_cpu_total()).filter(|total| *total != 0),
        pressure: if from.has_pressure() { Some(pressure_from(from.get_pressure()?)) } else { None },
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
    to.set_status(status(from.init.status));
    to.set_bundle(state.bundle.to_string_lossy().as_ref());
    to.set_rootfs(state.rootfs.to_string_lossy().as_ref());
    to.set_created_text(&state.created);
    to.set_oci_version(&state.oci_version);
    put_entries(to.reborrow().init_labels(state.labels.len() as u32), &state.labels);
    put_entries(to.reborrow().init_annotations(state.annotations.len() as u32), &state.annotations);
    // The init process is in the list while it lives; how it ended is the container's own field.
    let init = Some(&from.init).filter(|init| init.pid > 0);
    let mut processes = to.reborrow().init_processes((from.execs.len() + usize::from(init.is_some())) as u32);
    for (index, process) in (0..).zip(init.into_iter().chain(&from.execs)) {
        put_process(processes.reborrow().get(index), process);
    }
    if let Some(exit) = &from.init.exit {
        put_exit(to.init_exit(), exit);
    }
}

pub(super) fn put_process(mut to: schema::process_state::Builder<'_>, from: &ProcessSnapshot) {
    to.set_name(&from.name);
    to.set_pid(u32::try_from(from.pid).unwrap_or(0));
    to.set_status(status(from.status));
    if let Some(exit) = &from.exit {
        put_exit(to.init_exit(), exit);
    }
}

fn status(from: Status) -> schema::Status {
    match from {
        Status::Creating => schema::Status::Creating,
        Status::Created => schema::Status::Created,
        Status::Running => schema::Status::Running,
        Status::Paused => schema::Status::Paused,
        Status::Stopped => schema::Status::Stopped,
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
