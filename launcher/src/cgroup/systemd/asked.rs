//! A scope's life: started, changed, stopped.

use std::collections::HashMap;
use std::path::PathBuf;

use zbus::Variant;

use super::anchor::Anchor;
use super::bus::{Address, Bus, BusError};
use super::place::Place;
use super::{Property, Scope, limits, value};
use crate::cgroup::Limits;
use crate::report::errno_text;
use crate::rootless;

/// What to do with a job that stands in the way: `replace`, as everybody does.
const MODE: &str = "replace";

/// A unit and its properties that goes along with another one: there is none.
type Auxiliary = (String, Vec<Property>);

/// Systemd's refusal, or what kept us from asking.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// `linux.cgroupsPath`.
    #[error("config.json: linux.cgroupsPath: {0}")]
    Place(String),
    /// An annotation `org.systemd.property.`.
    #[error("config.json: {0}")]
    Annotation(String),
    /// systemd.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The process to begin with.
    #[error("process for the scope: {}", errno_text(*.0))]
    Anchor(rustix::io::Errno),
    /// The unit has no cgroup, though it was started.
    #[error("systemd: unit {0} has no cgroup")]
    NoCgroup(String),
}

/// A scope to be started.
#[derive(Debug)]
pub(crate) struct ScopeOrder {
    id: String,
    place: Place,
    user: bool,
    asked: Vec<Property>,
}

impl ScopeOrder {
    /// From the configuration; nobody is asked yet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(path: &str, id: &str, annotations: &HashMap<String, String>) -> Result<ScopeOrder, ScopeError> {
        let user = rootless::is_ordinary();
        let place = Place::parse(path, id, user).map_err(ScopeError::Place)?;
        let asked = value::from_annotations(annotations.iter()).map_err(ScopeError::Annotation)?;
        Ok(ScopeOrder { id: id.to_owned(), place, user, asked })
    }

    /// Starts it, with a process of ours. Its cgroup is absolute, as `/proc/PID/cgroup` has it.
    ///
    /// # Errors
    /// See [`ScopeError`]; there is no scope then, or one that ends by itself.
    pub fn start(mut self, limits: &Limits, v1: bool) -> Result<(Scope, PathBuf, Anchor), ScopeError> {
        let mut bus = Bus::connect(&addresses(self.user))?;
        bus.subscribe()?;
        let anchor = Anchor::start().map_err(ScopeError::Anchor)?;
        let properties = self.properties(&anchor, limits, v1);
        let unit = self.place.unit;
        let body = (unit.as_str(), MODE, properties, Vec::<Auxiliary>::new());
        let mut begun = bus.manager("StartTransientUnit", &body);
        if begun.as_ref().is_err_and(|error| error.is("UnitExists")) {
            // One that has failed stays until it is told to go; one that lives is in nobody's way for that.
            let _ = bus.manager("ResetFailedUnit", &unit);
            begun = bus.manager("StartTransientUnit", &body);
        }
        if let Err(error) = bus.await_job(&unit, &begun?) {
            let _ = bus.manager("ResetFailedUnit", &unit);
            return Err(error.into());
        }
        let object = bus.object(&unit)?;
        let invocation: Vec<u8> = bus.property(&object, "Unit", "InvocationID")?;
        let path: String = bus.property(&object, "Scope", "ControlGroup")?;
        if path.trim_matches('/').is_empty() {
            return Err(ScopeError::NoCgroup(unit));
        }
        let invocation = invocation.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((Scope { unit, user: self.user, invocation }, PathBuf::from(path), anchor))
    }

    /// In systemd's order of precedence: what annotations ask for comes after what every container has.
    fn properties(&mut self, anchor: &Anchor, limits: &Limits, v1: bool) -> Vec<Property> {
        let io_accounting = if v1 { "BlockIOAccounting" } else { "IOAccounting" };
        let mut all: Vec<Property> = vec![
            ("Description".to_owned(), format!("container {}", self.id).into()),
            ("Slice".to_owned(), self.place.slice.clone().into()),
            ("PIDs".to_owned(), vec![anchor.pid.unsigned_abs()].into()),
            // Without them it does not wait for the boot to end, nor does the shutdown's order touch it.
            ("DefaultDependencies".to_owned(), false.into()),
            ("Delegate".to_owned(), true.into()),
            // Nobody looks after one that has failed.
            ("CollectMode".to_owned(), "inactive-or-failed".into()),
        ];
        for accounting in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io_accounting] {
            all.push((accounting.to_owned(), Variant::from(true)));
        }
        // One process too many is in there at the start.
        all.extend(limits::properties(limits.settings().filter(|setting| !setting.is_few_processes())));
        all.retain(|(name, _)| !self.asked.iter().any(|(asked, _)| asked == name));
        all.append(&mut self.asked);
        all
    }
}

impl Scope {
    /// Tells of new limits.
    ///
    /// # Errors
    /// See [`ScopeError`].
    pub(in crate::cgroup) fn set(&self, limits: &Limits) -> Result<(), ScopeError> {
        let properties = limits::properties(limits.settings());
        if properties.is_empty() || self.is_of_before() {
            return Ok(());
        }
        let mut bus = Bus::connect(&addresses(self.user))?;
        // Until the next boot, like the scope itself.
        let runtime = true;
        bus.unit(&self.invocation, "SetProperties", &(runtime, properties))?;
        // It writes them to the cgroup before it hears the next call: ours come after its.
        bus.object(&self.unit)?;
        Ok(())
    }

    /// Ends it, in case that it is there.
    ///
    /// # Errors
    /// See [`ScopeError`].
    pub(in crate::cgroup) fn stop(&self) -> Result<(), ScopeError> {
        if self.is_of_before() {
            return Ok(());
        }
        let mut bus = match Bus::connect(&addresses(self.user)) {
            // Then there is no unit either.
            Err(BusError::NotRunning(_)) => return Ok(()),
            connected => connected?,
        };
        bus.subscribe()?;
        match bus.unit(&self.invocation, "Stop", &MODE) {
            Err(error) if error.is_no_unit() => return Ok(()),
            begun => bus.await_job(&self.unit, &begun?)?,
        }
        // One that has failed stays until it is told to go.
        let _ = bus.unit(&self.invocation, "ResetFailed", &());
        Ok(())
    }

    /// One that an earlier version has written down, without its invocation, is not told from others of its name: it is left
    /// to end with its last process.
    fn is_of_before(&self) -> bool {
        self.invocation.is_empty()
    }
}

/// Whether systemd answers, before there is anything to be asked.
///
/// # Errors
/// Nobody listens, or not to us.
pub fn reach() -> Result<(), ScopeError> {
    Bus::connect(&addresses(rootless::is_ordinary())).map(drop).map_err(ScopeError::from)
}

/// Where systemd may listen. Its own socket comes first, since no other daemon has to run for that.
fn addresses(user: bool) -> Vec<Address> {
    let own = |path: PathBuf| Address { path, is_bus: false };
    let bus = |path: PathBuf| Address { path, is_bus: true };
    if !user {
        return vec![own("/run/systemd/private".into()), bus("/run/dbus/system_bus_socket".into())];
    }
    let session = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok().and_then(|address| unix_path(&address));
    let default = || PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map_or_else(default, PathBuf::from);
    let mut all: Vec<Address> = session.into_iter().map(bus).collect();
    all.extend([bus(runtime.join("bus")), own(runtime.join("systemd/private"))]);
    all
}

/// The first socket of a D-Bus address that is a file: `unix:path=/run/user/1000/bus,guid=...;...` (D-Bus specification,
/// "Server Addresses").
pub(super) fn unix_path(address: &str) -> Option<PathBuf> {
    let unix = address.split(';').filter_map(|one| one.strip_prefix("unix:"));
    let path = unix.flat_map(|keys| keys.split(',')).find_map(|key| key.strip_prefix("path="))?;
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}
