//! The seccomp compiler against libseccomp and against the kernel.

mod differential;
mod docker;
mod interpreter;
mod kernel;
mod oracle;
mod plain;
mod random;
mod reference;
