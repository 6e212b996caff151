//! The core, and the cores that are broken on purpose.

use brood_launcher::state::{ExitRecord, Status};

use crate::registry::{Adopted, ContainerRemains, Effect, Input, Instance, Kept, Registry};

/// What the supervisor asks of a core.
pub trait Core: std::fmt::Debug {
    /// [`Registry::handle`].
    fn handle(&mut self, input: Input) -> Vec<Effect>;
    /// [`Registry::take_over`].
    fn take_over(&mut self, found: ContainerRemains, known: &Kept<'_>) -> Vec<Adopted>;
    /// [`Registry::find`].
    fn find(&self, id: &str) -> Option<Instance>;
    /// [`Registry::find_exec`].
    fn find_exec(&self, container: Instance, name: &str) -> Option<Instance>;
    /// [`Registry::look`], without the pid.
    fn look(&self, instance: Instance) -> Option<(Status, Option<ExitRecord>)>;
    /// Containers, and the execs of each.
    fn list(&self) -> Vec<(Instance, Vec<Instance>)>;
    /// [`Registry::count`].
    fn count(&self) -> usize;
}

/// Makes an empty core.
pub type MakeCore = fn() -> Box<dyn Core>;

/// The real one.
#[must_use]
pub fn real() -> Box<dyn Core> {
    Box::new(Registry::default())
}

/// A broken one by its name; the names are those of [`MUTANTS`].
#[must_use]
pub fn broken(name: &str) -> Option<MakeCore> {
    BROKEN.iter().find(|(one, _)| *one == name).map(|(_, make)| *make)
}

macro_rules! implement_core {
    ($core:ty) => {
        impl Core for $core {
            fn handle(&mut self, input: Input) -> Vec<Effect> {
                self.handle(input)
            }

            fn take_over(&mut self, found: ContainerRemains, known: &Kept<'_>) -> Vec<Adopted> {
                self.take_over(found, known)
            }

            fn find(&self, id: &str) -> Option<Instance> {
                self.find(id)
            }

            fn find_exec(&self, container: Instance, name: &str) -> Option<Instance> {
                self.find_exec(container, name)
            }

            fn look(&self, instance: Instance) -> Option<(Status, Option<ExitRecord>)> {
                self.look(instance).map(|(status, _, exit)| (status, exit.cloned()))
            }

            fn list(&self) -> Vec<(Instance, Vec<Instance>)> {
                self.iter().map(|(_, one)| (one, self.execs(one).map(|(_, exec)| exec).collect())).collect()
            }

            fn count(&self) -> usize {
                self.count()
            }
        }
    };
}

macro_rules! broken_cores {
    ($($name:ident,)*) => {
        $(implement_core!($name::Registry);)*

        const BROKEN: &[(&str, MakeCore)] =
            &[$((stringify!($name), || Box::new($name::Registry::default()) as Box<dyn Core>)),*];
    };
}

implement_core!(Registry);

include!("../mutants.rs");
include!(concat!(env!("OUT_DIR"), "/mutants.rs"));
