//! The plan's wire form.
