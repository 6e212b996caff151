//! The time of an event among a million containers.
