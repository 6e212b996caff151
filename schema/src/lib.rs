//! The Cap'n Proto schemas of Brood, as Rust.
//!
//! The schemas are `schema/*.capnp` and say what each field means. The code made of them is committed, so that a build
//! needs neither the Cap'n Proto compiler nor a build script; `tests/regenerate.rs` proves that the two agree and
//! refreshes the code with `BROOD_REGENERATE=1`.
//!
//! To add `schema/NAME.capnp`: refresh, then add a module `NAME_capnp` below. It must be here at the root of the crate
//! and have that name, because generated code refers to itself as `crate::NAME_capnp`.

// `include!` rather than `#[path]`: rustfmt does not follow it, and the committed bytes must stay the compiler's.

/// `plan.capnp`: the launch plan's wire form.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod plan_capnp {
    include!("generated/plan_capnp.rs");
}

/// `brood.capnp`: the RPC surface.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod brood_capnp {
    include!("generated/brood_capnp.rs");
}
