//! The handle on one container.

use std::rc::Rc;

use brood_schema::brood_capnp::container as schema;
use capnp::Error;

use super::convert::{checkpoint_from, put_checkpoint, put_failure, put_outcome, put_state};
use super::handle::{Handle, signal};
use super::meter::Share;
use super::peer::Peer;
use super::process::ProcessServer;
use super::stdio::Tickets;
use super::{exec, oneshot, resources};
use crate::registry::{Failure, FailureKind, ProcessCommand};

pub(super) struct ContainerServer {
    handle: Handle,
    tickets: Rc<Tickets>,
    peer: Rc<Peer>,
    _share: Share,
}

impl ContainerServer {
    pub(super) fn new(handle: Handle, tickets: Rc<Tickets>, peer: Rc<Peer>, share: Share) -> ContainerServer {
        ContainerServer { handle, tickets, peer, _share: share }
    }
}

impl schema::Server for ContainerServer {
    async fn start(self: Rc<Self>, _: schema::StartParams, mut results: schema::StartResults) -> Result<(), Error> {
        self.handle.answer(ProcessCommand::Start, results.get().init_outcome()).await
    }

    async fn wait(self: Rc<Self>, _: schema::WaitParams, mut results: schema::WaitResults) -> Result<(), Error> {
        self.handle.wait(results.get().init_outcome()).await
    }

    async fn kill(self: Rc<Self>, params: schema::KillParams, mut results: schema::KillResults) -> Result<(), Error> {
        let request = params.get()?.get_request()?;
        let (signal, all) = (signal(&request), request.get_all());
        self.handle.answer(ProcessCommand::Kill { signal, all }, results.get().init_outcome()).await
    }

    async fn delete(
        self: Rc<Self>,
        params: schema::DeleteParams,
        mut results: schema::DeleteResults,
    ) -> Result<(), Error> {
        let force = params.get()?.get_request()?.get_force();
        self.handle.answer(ProcessCommand::Delete { force }, results.get().init_outcome()).await
    }

    async fn state(self: Rc<Self>, _: schema::StateParams, mut results: schema::StateResults) -> Result<(), Error> {
        let gone = || Failure::new(FailureKind::NotFound, "container does not exist".to_owned());
        let found = self.handle.target();
        let found = found.and_then(|(supervisor, instance)| supervisor.snapshot(instance).ok_or_else(gone));
        let outcome = results.get().init_outcome();
        match &found {
            Ok(snapshot) => put_state(outcome.init_state(), snapshot),
            Err(failure) => put_failure(outcome.init_failure(), failure),
        }
        Ok(())
    }

    async fn exec(self: Rc<Self>, params: schema::ExecParams, mut results: schema::ExecResults) -> Result<(), Error> {
        let share = self.peer.handle()?;
        let (handle, outcome) = match self.handle.target() {
            Ok((supervisor, container)) => {
                let order = exec::order(params.get()?.get_request()?, container, &self.tickets)?;
                drop(params); // what it took is in the order
                let created = match order {
                    Ok(order) => supervisor.begin_exec(order).complete().await,
                    Err(failure) => Err(failure),
                };
                let outcome = created.as_ref().map(|_| ()).map_err(Clone::clone);
                (Handle::created(supervisor, created), outcome)
            }
            Err(failure) => (Handle::Failed(failure.clone()), Err(failure)),
        };
        let mut results = results.get();
        put_outcome(results.reborrow().init_outcome(), outcome.as_ref().copied());
        results.set_process(capnp_rpc::new_client(ProcessServer::new(handle, share)));
        Ok(())
    }

    async fn process(
        self: Rc<Self>,
        params: schema::ProcessParams,
        mut results: schema::ProcessResults,
    ) -> Result<(), Error> {
        let share = self.peer.handle()?;
        let name = params.get()?.get_request()?.get_name()?.to_str()?;
        let found = self.handle.target();
        let found = found.and_then(|(supervisor, container)| {
            supervisor.find_exec(container, name).map(|instance| (supervisor, instance))
        });
        let mut results = results.get();
        put_outcome(results.reborrow().init_outcome(), found.as_ref().map(|_| ()));
        let handle = match found {
            Ok((supervisor, instance)) => Handle::found(supervisor, Ok(instance)),
            Err(failure) => Handle::Failed(failure),
        };
        results.set_process(capnp_rpc::new_client(ProcessServer::new(handle, share)));
        Ok(())
    }

    async fn checkpoint(
        self: Rc<Self>,
        params: schema::CheckpointParams,
        mut results: schema::CheckpointResults,
    ) -> Result<(), Error> {
        let request = params.get()?.get_request()?;
        let directory = request.get_directory()?.to_str()?.into();
        let checkpoint = checkpoint_from(request.get_checkpoint()?)?;
        let outcome = match self.handle.target() {
            Ok((supervisor, container)) => supervisor.checkpoint(container, directory, checkpoint).await,
            Err(failure) => Err(failure),
        };
        put_outcome(results.get().init_outcome(), outcome.as_ref().copied());
        Ok(())
    }

    async fn checkpoints(
        self: Rc<Self>,
        params: schema::CheckpointsParams,
        mut results: schema::CheckpointsResults,
    ) -> Result<(), Error> {
        let directory = params.get()?.get_request()?.get_directory()?.to_str()?.into();
        let found = match self.handle.target() {
            Ok((supervisor, container)) => supervisor.checkpoints(container, directory).await,
            Err(failure) => Err(failure),
        };
        let outcome = results.get().init_outcome();
        match found {
            Ok(checkpoints) => {
                let mut list = outcome.init_checkpoints(checkpoints.len() as u32);
                for (index, checkpoint) in (0..).zip(&checkpoints) {
                    put_checkpoint(list.reborrow().get(index), checkpoint);
                }
            }
            Err(failure) => put_failure(outcome.init_failure(), &failure),
        }
        Ok(())
    }

    async fn delete_checkpoint(
        self: Rc<Self>,
        params: schema::DeleteCheckpointParams,
        mut results: schema::DeleteCheckpointResults,
    ) -> Result<(), Error> {
        let request = params.get()?.get_request()?;
        let (directory, name) = (request.get_directory()?.to_str()?.into(), request.get_name()?.to_string()?);
        let outcome = match self.handle.target() {
            Ok((supervisor, container)) => supervisor.delete_checkpoint(container, directory, name).await,
            Err(failure) => Err(failure),
        };
        put_outcome(results.get().init_outcome(), outcome.as_ref().copied());
        Ok(())
    }

    async fn exec_sync(
        self: Rc<Self>,
        params: schema::ExecSyncParams,
        mut results: schema::ExecSyncResults,
    ) -> Result<(), Error> {
        let request = params.get()?.get_request()?;
        let settings = oneshot::Settings::new(request.get_output_limit(), request.get_timeout_ms(), &self.peer);
        let outcome = match (self.handle.target(), settings) {
            (Ok((supervisor, container)), Ok(settings)) => {
                let order = exec::order(request.get_exec()?, container, &self.tickets)?;
                drop(params); // what it took is in the order
                match order {
                    Ok(order) => oneshot::exec(supervisor, order, settings).await,
                    Err(failure) => Err(failure),
                }
            }
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        };
        oneshot::put(results.get().init_outcome(), &outcome);
        Ok(())
    }

    async fn pause(self: Rc<Self>, _: schema::PauseParams, mut results: schema::PauseResults) -> Result<(), Error> {
        self.handle.answer(ProcessCommand::Pause, results.get().init_outcome()).await
    }

    async fn resume(self: Rc<Self>, _: schema::ResumeParams, mut results: schema::ResumeResults) -> Result<(), Error> {
        self.handle.answer(ProcessCommand::Resume, results.get().init_outcome()).await
    }

    async fn update(
        self: Rc<Self>,
        params: schema::UpdateParams,
        mut results: schema::UpdateResults,
    ) -> Result<(), Error> {
        let limits = resources::limits_from(params.get()?.get_request()?)?;
        drop(params); // what it took is in the limits
        let outcome = match (self.handle.target(), limits) {
            (Ok((supervisor, instance)), Ok(limits)) => supervisor.update(instance, limits).await,
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        };
        put_outcome(results.get().init_outcome(), outcome.as_ref().copied());
        Ok(())
    }

    async fn stats(self: Rc<Self>, _: schema::StatsParams, mut results: schema::StatsResults) -> Result<(), Error> {
        let stats = match self.handle.target() {
            Ok((supervisor, instance)) => supervisor.stats(instance).await,
            Err(failure) => Err(failure),
        };
        let outcome = results.get().init_outcome();
        match &stats {
            Ok(stats) => resources::put_stats(outcome.init_stats(), stats),
            Err(failure) => put_failure(outcome.init_failure(), failure),
        }
        Ok(())
    }
}
