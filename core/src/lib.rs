//! The Brood supervisor. In the order in which a request travels:
//!
//! | module | what |
//! | --- | --- |
//! | [`cli`] | the command line; each command a client, or a supervisor of its own |
//! | [`client`] | the connection to a daemon |
//! | [`rpc`] | the daemon's side of it; the only place that knows Cap'n Proto RPC |
//! | [`supervisor`] | inputs to the core, effects from it; the only one that acts |
//! | [`registry`] | the pure core: states, commands, events, effects |
//! | [`zygotes`] | the processes that clone |
//! | [`reactor`] | io_uring or epoll: how exits are noticed |
//! | [`journal`] | events, durable and replayable |
//! | [`keeper`] | what outlives a supervisor |
//! | [`daemon`] | the supervisor as a process: start-up, sockets, signals |
//! | [`exe`], [`socket`], [`watch`] | our own binary, the sockets, descriptors under the loop |
//! | [`limits`], [`complaint`] | every bound; how often the same is logged |
//! | [`fault`] | where a test has a supervisor die |

pub mod cli;
pub mod client;
pub mod complaint;
pub mod daemon;
pub mod exe;
pub mod fault;
pub mod journal;
pub mod keeper;
pub mod limits;
pub mod line;
pub mod reactor;
pub mod registry;
pub mod rpc;
pub mod socket;
pub mod supervisor;
pub mod watch;
pub mod zygotes;
