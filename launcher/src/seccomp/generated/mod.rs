//! Tables, one file each.

pub mod syscalls;
