//! A seeded simulation of the pure core and everything around it. One number makes a whole history: what clients ask, how
//! the kernel schedules, what fails, when supervisor and keeper die.
//!
//! ```text
//!   clients --commands--> supervisor (the real core, our hands) --system calls--> kernel, disk
//!      ^                     |   ^                                                   |
//!      +------ replies ------+   +-------- exits, reports, the keeper's word --------+
//!                            |
//!                         checker: sees what is asked, written and told, and knows what really happened
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`registry`], [`limits`] | the core, from its sources, with small limits |
//! | [`cores`] | the core, and the cores that are broken on purpose |
//! | [`world`] | kernel, disk, keeper, supervisor, clients, and who is next |
//! | [`checker`] | what must hold, whatever happens |
//! | [`run`] | many seeds, one seed, the shortest history that fails |
//! | [`scale`] | the time of an event among a million containers |

pub mod checker;
pub mod cores;
pub mod limits;
pub mod random;
pub mod run;
pub mod scale;
pub mod world;

#[path = "../../../core/src/registry/mod.rs"]
pub mod registry;
