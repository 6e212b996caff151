//! The bootstrap: `Brood`.

use std::rc::Rc;

use brood_launcher::prepare::Source;
use brood_schema::brood_capnp as schema;
use capnp::Error;

use super::container::ContainerServer;
use super::convert::{labels_from, put_outcome, put_state};
use super::handle::Handle;
use super::meter::Share;
use super::peer::Peer;
use super::stdio::Tickets;
use super::{API_VERSION, events, oneshot};
use crate::limits::{INLINE_CONFIG_BYTES_MAX, LABEL_BYTES_MAX};
use crate::registry::{Failure, FailureKind};
use crate::supervisor::{Order, Supervisor};

pub(super) struct BroodServer {
    supervisor: Rc<Supervisor>,
    tickets: Rc<Tickets>,
    peer: Rc<Peer>,
}

impl BroodServer {
    pub(super) fn new(supervisor: Rc<Supervisor>, tickets: Rc<Tickets>, peer: Rc<Peer>) -> BroodServer {
        BroodServer { supervisor, tickets, peer }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::InvalidRequest, message.into())
}

impl schema::brood::Server for BroodServer {
    async fn version(
        self: Rc<Self>,
        _: schema::brood::VersionParams,
        mut results: schema::brood::VersionResults,
    ) -> Result<(), Error> {
        let settings = self.supervisor.settings();
        let mut reply = results.get().init_reply();
        reply.set_version(env!("CARGO_PKG_VERSION"));
        reply.set_api_version(API_VERSION);
        reply.set_pid(std::process::id());
        reply.set_reactor(settings.reactor.name());
        reply.set_root(settings.root.path().to_string_lossy().as_ref());
        reply.set_zygotes(settings.zygotes as u16);
        Ok(())
    }

    async fn create(
        self: Rc<Self>,
        params: schema::brood::CreateParams,
        mut results: schema::brood::CreateResults,
    ) -> Result<(), Error> {
        let share = self.peer.handle()?;
        let order = self.order(params.get()?.get_request()?)?;
        drop(params); // what it took is in the order
        let created = match order {
            Ok(order) => self.supervisor.begin(order).complete().await,
            Err(failure) => Err(failure),
        };
        let mut results = results.get();
        put_outcome(results.reborrow().init_outcome(), created.as_ref().map(|_| ()));
        results.set_container(self.container(Handle::created(&self.supervisor, created), share));
        Ok(())
    }

    async fn get(
        self: Rc<Self>,
        params: schema::brood::GetParams,
        mut results: schema::brood::GetResults,
    ) -> Result<(), Error> {
        let share = self.peer.handle()?;
        let found = self.supervisor.find(params.get()?.get_request()?.get_id()?.to_str()?);
        let mut results = results.get();
        put_outcome(results.reborrow().init_outcome(), found.as_ref().map(|_| ()));
        results.set_container(self.container(Handle::found(&self.supervisor, found), share));
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        params: schema::brood::ListParams,
        mut results: schema::brood::ListResults,
    ) -> Result<(), Error> {
        let wanted = labels_from(params.get()?.get_request()?.get_labels()?)?;
        let mut snapshots = self.supervisor.list();
        snapshots.retain(|snapshot| wanted.iter().all(|(key, value)| snapshot.state.labels.get(key) == Some(value)));
        let mut containers = results.get().init_reply().init_containers(snapshots.len() as u32);
        for (index, snapshot) in (0..).zip(&snapshots) {
            put_state(containers.reborrow().get(index), snapshot);
        }
        Ok(())
    }

    async fn run(
        self: Rc<Self>,
        params: schema::brood::RunParams,
        mut results: schema::brood::RunResults,
    ) -> Result<(), Error> {
        let request = params.get()?.get_request()?;
        let order = self.order(request.get_create()?)?;
        let settings = oneshot::Settings::new(request.get_output_limit(), request.get_timeout_ms(), &self.peer);
        drop(params); // what it took is in the order
        let outcome = match (order, settings) {
            (Ok(order), Ok(settings)) => oneshot::run(&self.supervisor, order, settings).await,
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        };
        oneshot::put(results.get().init_outcome(), &outcome);
        Ok(())
    }

    async fn events(
        self: Rc<Self>,
        params: schema::brood::EventsParams,
        mut results: schema::brood::EventsResults,
    ) -> Result<(), Error> {
        let (share, params) = (self.peer.subscription()?, params.get()?);
        let subscription =
            events::subscribe(self.supervisor.clone(), params.get_request()?, params.get_sink()?, share)?;
        results.get().set_subscription(capnp_rpc::new_client(subscription));
        Ok(())
    }

    async fn stdio_ticket(
        self: Rc<Self>,
        _: schema::brood::StdioTicketParams,
        mut results: schema::brood::StdioTicketResults,
    ) -> Result<(), Error> {
        let ticket = self.tickets.issue(self.peer.ticket()?).map_err(Error::overloaded)?;
        let mut reply = results.get().init_reply();
        reply.set_ticket(&ticket);
        reply.set_path(self.tickets.path().to_string_lossy().as_ref());
        Ok(())
    }
}

impl BroodServer {
    fn container(&self, handle: Handle, share: Share) -> schema::container::Client {
        capnp_rpc::new_client(ContainerServer::new(handle, self.tickets.clone(), self.peer.clone(), share))
    }

    /// The order in a request. The outer error is a malformed message, the inner one a wrong request.
    fn order(&self, request: schema::create_request::Reader<'_>) -> Result<Result<Order, Failure>, Error> {
        use schema::create_request::source;
        let source = match request.get_source().which()? {
            source::Bundle(path) => {
                let path = std::path::PathBuf::from(path?.to_str()?);
                if !path.is_absolute() {
                    return Ok(Err(invalid(format!("bundle: {:?} is not an absolute path", path.display()))));
                }
                Source::Bundle { path, config: None }
            }
            source::Config(config) => {
                let config = config?.to_vec();
                if config.len() > INLINE_CONFIG_BYTES_MAX {
                    return Ok(Err(invalid(format!("config: longer than {INLINE_CONFIG_BYTES_MAX} bytes"))));
                }
                Source::Inline { config, host_overlay: request.get_host_overlay() }
            }
        };
        let stdio = match self.tickets.order(request.get_stdio()?)? {
            Ok(stdio) => stdio,
            Err(failure) => return Ok(Err(failure)),
        };
        let labels = labels_from(request.get_labels()?)?;
        if labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > LABEL_BYTES_MAX {
            return Ok(Err(invalid(format!("labels: longer than {LABEL_BYTES_MAX} bytes"))));
        }
        Ok(Ok(Order {
            id: request.get_id()?.to_string()?,
            source,
            stdio,
            labels,
            start: request.get_start(),
            auto_remove: request.get_auto_remove(),
            ignore_unsupported: request.get_ignore_unsupported(),
        }))
    }
}
