//! The harness of the black-box tests: what every test over the real binaries needs, and nothing about one theme.
//!
//! Reading order:
//!
//! - [`binaries`]: where `brood` and the OCI runtime under test are;
//! - [`sandbox`]: the place of one test: a unique token, a directory, a state root, and the leak check at its end;
//! - [`command`]: run a program with a deadline, feed it, follow it;
//! - [`bundle`] and [`config`]: an OCI bundle on busybox, with a config.json that the test edits;
//! - [`container`]: a container of `brood-oci` on such a bundle;
//! - [`face`]: the same bundle through `brood run` and through `brood-oci run`;
//! - [`racer`]: an attacker who exchanges a directory for a link while containers start;
//! - [`terminal`]: the terminal that a program runs on;
//! - [`daemon`]: a `brood daemon` that lives as long as a guard;
//! - [`client`], [`podman`], [`buildah`], [`containerd`]: private instances of what calls an OCI runtime in earnest;
//! - [`world`]: what of a test is left on the machine: mounts, cgroups, processes, files, descriptors;
//! - [`cgroups`]: the layouts of cgroups, and what is in the files of a container's;
//! - [`procfs`] and [`waiting`]: what the above read and how they wait;
//! - [`guest`]: for tests that ask for another kernel than the host's;
//! - [`agent`]: who answers for `SCMP_ACT_NOTIFY`;
//! - [`counting`]: a program that can be seen to go on where it was;
//! - [`redis`]: a bundle with a server that has data and clients;
//! - [`resp`]: the few lines of the Redis protocol that a test speaks;
//! - [`wire`]: a client of the RPC that keeps to no rule;
//! - [`spdx`]: licence expressions, for the dependency check.
//!
//! The tests themselves are in `tests/tests/`, one file per theme.

pub mod agent;
pub mod binaries;
pub mod buildah;
pub mod bundle;
pub mod cgroups;
pub mod client;
pub mod command;
pub mod config;
pub mod container;
pub mod containerd;
pub mod counting;
pub mod daemon;
pub mod face;
pub mod guest;
pub mod podman;
pub mod procfs;
pub mod racer;
pub mod redis;
pub mod resp;
pub mod sandbox;
pub mod spdx;
pub mod systemd;
pub mod terminal;
pub mod waiting;
pub mod wire;
pub mod world;

pub use buildah::Buildah;
pub use bundle::Bundle;
pub use command::{Cmd, Output, Running};
pub use container::Container;
pub use containerd::Containerd;
pub use daemon::Daemon;
pub use face::Face;
pub use podman::Podman;
pub use racer::Racer;
pub use sandbox::Sandbox;
pub use terminal::Terminal;
pub use wire::Wire;
