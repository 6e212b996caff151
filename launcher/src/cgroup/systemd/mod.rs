//! Cgroups by way of systemd: a container is a scope, a unit whose processes somebody else has started (systemd.scope(5)),
//! so that systemd knows of it, and does not touch what is below it (`Delegate=`).
//!
//! | when | what systemd is asked for |
//! | --- | --- |
//! | create | a transient scope with a process of ours in it ([`Anchor`]), which ends once the container's is born there |
//! | update | the limits that are properties |
//! | delete | to stop it, in case that it is there still: a scope ends with its last process |
//!
//! All else (frozen, killed, counted, entered) happens in the directories that systemd has made, as with those that we make.
//!
//! Reading order: `place` (its name), `value` and `limits` (its properties), `bus` (asking), `anchor`.

#[cfg(feature = "systemd")]
mod anchor;
#[cfg(feature = "systemd")]
mod asked;
#[cfg(feature = "systemd")]
mod bus;
#[cfg(not(feature = "systemd"))]
mod lacking;
#[cfg(feature = "systemd")]
mod limits;
#[cfg(feature = "systemd")]
mod place;
#[cfg(all(test, feature = "systemd"))]
mod tests;
#[cfg(feature = "systemd")]
mod value;

use serde::{Deserialize, Serialize};

#[cfg(feature = "systemd")]
pub use anchor::Anchor;
#[cfg(feature = "systemd")]
pub(crate) use asked::ScopeOrder;
#[cfg(feature = "systemd")]
pub use asked::{ScopeError, reach};
#[cfg(not(feature = "systemd"))]
pub(crate) use lacking::ScopeOrder;
#[cfg(not(feature = "systemd"))]
pub use lacking::{Anchor, ScopeError, reach};

/// Whether this build can ask systemd.
pub const SUPPORTED: bool = cfg!(feature = "systemd");

/// A unit's property.
#[cfg(feature = "systemd")]
type Property = (String, zbus::Variant<'static>);

/// A container's unit, as its state file keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// `PREFIX-NAME.scope`.
    pub unit: String,
    /// Of the user's own systemd (`systemd --user`), and not the system's.
    #[serde(default)]
    pub user: bool,
    /// Which life of the unit it is, in hexadecimal digits (`InvocationID`, systemd.exec(5)): after its end another one may
    /// have the name.
    #[serde(default)]
    pub invocation: String,
}
