//! What the handles on containers and on execs have in common: both stand for one process.

use std::rc::Rc;

use brood_schema::brood_capnp as schema;
use capnp::Error;
use futures::FutureExt;
use futures::future::Shared;

use super::convert::{put_exit, put_failure, put_reply};
use crate::registry::{Failure, Instance, ProcessCommand, Reply};
use crate::supervisor::{Asked, Supervisor};

/// What a handle stands for.
pub(super) enum Handle {
    /// A process; with its exit when this handle has waited for it since the creation.
    Live { supervisor: Rc<Supervisor>, instance: Instance, exit: Option<Shared<Asked>> },
    /// The failure of the call that was to make it: every call answers with that.
    Failed(Failure),
}

impl Handle {
    /// The handle on something new, or on the failure to make it.
    pub(super) fn created(supervisor: &Rc<Supervisor>, created: Result<(Instance, Asked), Failure>) -> Handle {
        match created {
            Ok((instance, exit)) => {
                Handle::Live { supervisor: supervisor.clone(), instance, exit: Some(exit.shared()) }
            }
            Err(failure) => Handle::Failed(failure),
        }
    }

    /// The handle on what was looked for.
    pub(super) fn found(supervisor: &Rc<Supervisor>, found: Result<Instance, Failure>) -> Handle {
        match found {
            Ok(instance) => Handle::Live { supervisor: supervisor.clone(), instance, exit: None },
            Err(failure) => Handle::Failed(failure),
        }
    }

    /// The supervisor and the process, if there is one.
    pub(super) fn target(&self) -> Result<(&Rc<Supervisor>, Instance), Failure> {
        match self {
            Handle::Live { supervisor, instance, .. } => Ok((supervisor, *instance)),
            Handle::Failed(failure) => Err(failure.clone()),
        }
    }

    pub(super) async fn ask(&self, command: ProcessCommand) -> Reply {
        match self.target() {
            Ok((supervisor, instance)) => supervisor.ask(instance, command).await,
            Err(failure) => Reply::Refused(failure),
        }
    }

    /// Has a command carried out, and answers with what came of it.
    pub(super) async fn answer(
        &self,
        command: ProcessCommand,
        outcome: schema::outcome::Builder<'_>,
    ) -> Result<(), Error> {
        put_reply(outcome, &self.ask(command).await);
        Ok(())
    }

    /// Answers a `wait`.
    pub(super) async fn wait(&self, outcome: schema::wait_outcome::Builder<'_>) -> Result<(), Error> {
        let reply = match self {
            Handle::Live { exit: Some(exit), .. } => exit.clone().await,
            Handle::Live { exit: None, .. } | Handle::Failed(_) => self.ask(ProcessCommand::Wait).await,
        };
        match &reply {
            Reply::Exit(exit) => put_exit(outcome.init_exit(), exit),
            Reply::Refused(failure) => put_failure(outcome.init_failure(), failure),
            Reply::Created(_) | Reply::Done => return Err(Error::failed("a wait was answered with no exit".into())),
        }
        Ok(())
    }
}

/// The signal of a request.
pub(super) fn signal(request: &schema::kill_request::Reader<'_>) -> i32 {
    if request.get_signal() == 0 { libc::SIGTERM } else { i32::from(request.get_signal()) }
}
