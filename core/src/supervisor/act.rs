//! The effects: the only code that acts.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use brood_launcher::report::errno_text;
use brood_launcher::signal;
use brood_launcher::state::{ExitRecord, PidRecord, exit_of_stranger, now_ns};
use brood_launcher::sys;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use super::Supervisor;
use crate::fault;
use crate::registry::{Effect, EventKind, Failure, FailureKind, Instance, Reaper, Reply, Ticket};

/// How long until a traced zombie is asked again for its status; twice as long each time, up to the second value.
const TRACER_PAUSE_MIN: Duration = Duration::from_millis(1);
const TRACER_PAUSE_MAX: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn act(self: &Rc<Self>, effect: Effect) {
        fault::around(effect.name(), || self.carry_out(effect));
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Launch(instance, ticket) => self.begin_launch(instance, ticket),
            Effect::Release(instance) => self.release(instance),
            Effect::Signal { instance, signal, all, reply } => match (self.signal(instance, signal, all), reply) {
                (Ok(()), Some(ticket)) => self.reply(ticket, Reply::Done),
                (Err(failure), Some(ticket)) => self.reply(ticket, Reply::Refused(failure)),
                (Err(failure), None) => tracing::error!(%failure, signal, "signal"),
                (Ok(()), None) => {}
            },
            Effect::Freeze(instance) => self.change_pace(instance, true),
            Effect::Thaw(instance) => self.change_pace(instance, false),
            Effect::RecordExit(instance, exit) => self.record_exit(instance, exit),
            Effect::Reap(instance) => self.reap(instance),
            Effect::Discard(instance) => {
                self.strike_off(instance);
                self.reap(instance);
            }
            Effect::Publish(instance, kind) => self.publish(instance, kind),
            Effect::Remove(instance) => self.remove(instance),
            Effect::Forget(instance) => {
                self.forget_debt(instance);
                self.records.borrow_mut().remove(&instance);
            }
            Effect::Reply(ticket, reply) => self.reply(ticket, reply),
        }
    }

    fn reply(&self, ticket: Ticket, reply: Reply) {
        let sender = self.replies.borrow_mut().remove(&ticket);
        if let Some(sender) = sender {
            // Whoever asked may have gone away.
            let _ = sender.send(reply);
        }
    }

    pub(super) fn signal(&self, instance: Instance, number: i32, all: bool) -> Result<(), Failure> {
        let records = self.records.borrow();
        let record = records.get(&instance);
        let what = if record.is_some_and(|record| record.files.container.is_none()) { "process" } else { "container" };
        let not_running = || Failure::new(FailureKind::WrongState, format!("{what} not running"));
        let record = record.ok_or_else(not_running)?;
        let invalid = || Failure::new(FailureKind::InvalidRequest, format!("signal: {number} is no signal"));
        let signal = signal::from_number(number).ok_or_else(invalid)?;
        let cgroups = record.files.container.as_ref().map(|container| &container.state.cgroups);
        if let Some(cgroups) = cgroups.filter(|cgroups| all && !cgroups.is_empty()) {
            match cgroups.signal(signal) {
                // Before Linux 5.14 there is no `cgroup.kill`; the init process takes its pid namespace along.
                Err(error) => tracing::warn!(container = record.files.id, %error, "only the init process is killed"),
                Ok(_) if number == libc::SIGKILL => {}
                Ok(0) => return Err(not_running()),
                Ok(_) => return Ok(()),
            }
        }
        let pidfd = record.pidfd.as_ref().ok_or_else(not_running)?;
        match rustix::process::pidfd_send_signal(pidfd, signal) {
            Ok(()) => {
                if let Some(cgroups) = cgroups.filter(|_| number == libc::SIGKILL) {
                    cgroups.thaw_killed();
                }
                Ok(())
            }
            // Dead by `cgroup.kill` of a moment ago is what was asked for.
            Err(Errno::SRCH) if all => Ok(()),
            Err(Errno::SRCH) => Err(not_running()),
            Err(errno) => Err(internal(&format!("pidfd_send_signal: {}", errno_text(errno)))),
        }
    }

    fn publish(self: &Rc<Self>, instance: Instance, kind: EventKind) {
        let records = self.records.borrow();
        let Some(record) = records.get(&instance) else { return };
        let name = match kind {
            EventKind::Create => "create",
            EventKind::Start => "start-container",
            EventKind::ExecAdded => "exec-added",
            EventKind::StartProcess => "start-process",
            EventKind::Paused => "paused",
            EventKind::Resumed => "resumed",
            EventKind::OutOfMemory => "oom",
            EventKind::Checkpoint => "checkpoint",
            EventKind::Restore => "restore",
            EventKind::Delete => "delete",
        };
        self.append(record, name, None);
    }

    /// From here on it is half made.
    fn strike_off(&self, instance: Instance) {
        let records = self.records.borrow();
        let Some(record) = records.get(&instance) else { return };
        if let Err(error) = record.files.dir.strike_off() {
            tracing::error!(container = record.files.id, process = record.files.name, %error, "pid file");
        }
    }

    /// Its exit is durable, kept by the keeper, or nobody's: the zombie may go, and the descriptor with it.
    fn reap(&self, instance: Instance) {
        let mut records = self.records.borrow_mut();
        let Some(record) = records.get_mut(&instance) else { return };
        let pidfd = record.pidfd.take();
        if let (Reaper::Us, Some(pidfd)) = (record.reaper, &pidfd) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if let Err(errno) = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
                tracing::error!(container = record.files.id, process = record.files.name, %errno, "reap");
            }
        } else {
            let process = PidRecord { pid: record.pid, start_time: record.start_time };
            self.inherited.borrow_mut().told(process);
            if let Some(keeper) = self.keeper.as_ref().filter(|_| !self.owes(process)) {
                keeper.recorded(record.pid, record.start_time);
            }
        }
    }

    /// This process ended: look at its status, without reaping it.
    pub(super) fn on_exit(self: &Rc<Self>, instance: Instance) {
        let exit = {
            let records = self.records.borrow();
            let Some(record) = records.get(&instance) else { return };
            let Some(pidfd) = &record.pidfd else { return };
            match record.reaper {
                Reaper::Us => match peek(pidfd.as_fd()) {
                    Some(exit) => exit,
                    None => return self.await_tracer(instance),
                },
                // It will tell us, or we hear that it is gone; what it tells is as good as what we could see.
                Reaper::Keeper => return self.inherited.borrow_mut().await_keeper(instance),
                Reaper::Stranger => {
                    let pid = PidRecord { pid: record.pid, start_time: record.start_time };
                    exit_of_stranger(pid, pidfd.as_fd())
                        .unwrap_or_else(|| ExitRecord::unknown("reaped by another process", now_ns()))
                }
            }
        };
        self.exited(instance, exit);
    }

    /// It ended under a tracer (CRIU makes a checkpoint, somebody looks with strace(1)), and nobody else sees its status until
    /// that lets go (ptrace(2)). The kernel has no notice of that, and a tracer may take for ever: it is asked again and
    /// again, by no thread and no descriptor.
    fn await_tracer(self: &Rc<Self>, instance: Instance) {
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            let mut pause = TRACER_PAUSE_MIN;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(TRACER_PAUSE_MAX);
                let exit = match supervisor.records.borrow().get(&instance).map(|record| &record.pidfd) {
                    Some(Some(pidfd)) => peek(pidfd.as_fd()),
                    _ => return,
                };
                if let Some(exit) = exit {
                    return supervisor.exited(instance, exit);
                }
            }
        });
    }
}

/// The status of a child of ours, which stays a zombie; `None` when there is none to be had yet.
fn peek(pidfd: BorrowedFd<'_>) -> Option<ExitRecord> {
    match sys::peek_child(pidfd) {
        Ok(child) => child.map(|child| ExitRecord::of(&child)),
        Err(errno) => Some(ExitRecord::unknown(&format!("waitid: {}", errno_text(errno)), now_ns())),
    }
}

pub(super) fn internal(message: &str) -> Failure {
    Failure::new(FailureKind::Internal, message.to_owned())
}
