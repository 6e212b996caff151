//! From config.json to a running container. In the order of a container's life:
//!
//! 1. [`config`]: bytes of config.json to a checked `Spec`; legacy files are migrated, wrong ones refused by field.
//! 2. [`plan`]: `Spec` to [`plan::Plan`], opening every host object as a descriptor.
//! 3. [`prepare`]: both of these, the name, the state files and the cgroup, all or nothing.
//!    For one more process in a running container: [`exec`].
//! 4. [`zygote`]: the small process that clones; or [`spawn`] directly, in the daemonless `brood-oci`.
//! 5. `child`: the steps between clone3 and execve.
//! 6. [`report`]: how the child tells that it became its program, or which step failed.
//! 7. [`state`]: what is on disk about a container; [`cgroup`]: where it lives; [`resctrl`]: its share of caches.
//! 8. [`hooks`]: programs of the host's that the runtime runs at points of a container's life.
//! 9. [`rootless`]: the user namespace in which an ordinary user launches; [`userns`]: those for mounts with ids of their own.
//! 10. [`checkpoint`]: a container's processes into images and back, by CRIU.
//! 11. [`seccomp`]: a profile to the program that the kernel runs at every system call; [`devices`]: device rules to the one
//!     that it runs for a cgroup.
//!
//! No async runtime and no RPC here: Cap'n Proto is used as the plan's encoding only.

pub mod amount;
pub mod cgroup;
pub mod checkpoint;
pub mod config;
pub mod devices;
pub mod exec;
pub mod hooks;
pub mod host_root;
pub mod plan;
pub mod prepare;
pub mod remove;
pub mod report;
pub mod resctrl;
pub mod rootless;
pub mod seal;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod state;
pub mod sys;
pub mod usage;
pub mod userns;
pub mod zygote;

mod child;
mod middle;
mod mountinfo;
mod netlink;
mod parent;
