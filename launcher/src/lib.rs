//! From config.json to a running container.
pub mod config;
pub mod plan;
