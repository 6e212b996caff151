//! The core's limits, so small that they are reached all the time. The real ones are in `core/src/limits.rs`.

/// Waits on one container or exec.
pub const WAITERS_PER_CONTAINER_MAX: usize = 4;

/// Execs of one container.
pub const EXECS_PER_CONTAINER_MAX: usize = 3;

/// Execs of all containers.
pub const EXECS_MAX: usize = 6;
