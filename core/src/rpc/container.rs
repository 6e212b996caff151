//! The handle on one container.

use std::rc::Rc;

use brood_schema::brood_capnp::container as schema;
use capnp::Error;
use futures::FutureExt;
use futures::future::Shared;

use super::convert::{put_exit, put_failure, put_reply, put_state};
use crate::registry::{Command, Failure, FailureKind, Instance, Reply};
use crate::supervisor::{Asked, Supervisor};

/// What a handle stands for.
enum Handle {
    /// A container; with its exit when this handle has waited for it since the creation.
    Live { supervisor: Rc<Supervisor>, instance: Instance, exit: Option<Shared<Asked>> },
    /// The failure of the call that was to make it: every call answers with that.
    Failed(Failure),
}

pub(super) struct ContainerServer(Handle);

impl ContainerServer {
    pub(super) fn created(supervisor: Rc<Supervisor>, instance: Instance, exit: Asked) -> ContainerServer {
        ContainerServer(Handle::Live { supervisor, instance, exit: Some(exit.shared()) })
    }

    pub(super) fn found(supervisor: Rc<Supervisor>, instance: Instance) -> ContainerServer {
        ContainerServer(Handle::Live { supervisor, instance, exit: None })
    }

    pub(super) fn failed(failure: Failure) -> ContainerServer {
        ContainerServer(Handle::Failed(failure))
    }

    async fn ask(&self, command: impl FnOnce(Instance) -> Command) -> Reply {
        match &self.0 {
            Handle::Live { supervisor, instance, .. } => supervisor.ask(command(*instance)).await,
            Handle::Failed(failure) => Reply::Refused(failure.clone()),
        }
    }
}

impl schema::Server for ContainerServer {
    async fn start(self: Rc<Self>, _: schema::StartParams, mut results: schema::StartResults) -> Result<(), Error> {
        let reply = self.ask(Command::Start).await;
        put_reply(results.get().init_outcome(), &reply);
        Ok(())
    }

    async fn wait(self: Rc<Self>, _: schema::WaitParams, mut results: schema::WaitResults) -> Result<(), Error> {
        let reply = match &self.0 {
            Handle::Live { exit: Some(exit), .. } => exit.clone().await,
            _ => self.ask(Command::Wait).await,
        };
        let outcome = results.get().init_outcome();
        match &reply {
            Reply::Exit(exit) => put_exit(outcome.init_exit(), exit),
            Reply::Refused(failure) => put_failure(outcome.init_failure(), failure),
            Reply::Created(_) | Reply::Done => return Err(Error::failed("a wait was answered with no exit".into())),
        }
        Ok(())
    }

    async fn kill(self: Rc<Self>, params: schema::KillParams, mut results: schema::KillResults) -> Result<(), Error> {
        let request = params.get()?.get_request()?;
        let signal = if request.get_signal() == 0 { libc::SIGTERM } else { i32::from(request.get_signal()) };
        let all = request.get_all();
        let reply = self.ask(|target| Command::Kill { target, signal, all }).await;
        put_reply(results.get().init_outcome(), &reply);
        Ok(())
    }

    async fn delete(
        self: Rc<Self>,
        params: schema::DeleteParams,
        mut results: schema::DeleteResults,
    ) -> Result<(), Error> {
        let force = params.get()?.get_request()?.get_force();
        let reply = self.ask(|target| Command::Delete { target, force }).await;
        put_reply(results.get().init_outcome(), &reply);
        Ok(())
    }

    async fn state(self: Rc<Self>, _: schema::StateParams, mut results: schema::StateResults) -> Result<(), Error> {
        let found = match &self.0 {
            Handle::Live { supervisor, instance, .. } => supervisor
                .snapshot(*instance)
                .ok_or_else(|| Failure::new(FailureKind::NotFound, "container does not exist".to_owned())),
            Handle::Failed(failure) => Err(failure.clone()),
        };
        let outcome = results.get().init_outcome();
        match &found {
            Ok(snapshot) => put_state(outcome.init_state(), snapshot),
            Err(failure) => put_failure(outcome.init_failure(), failure),
        }
        Ok(())
    }
}
