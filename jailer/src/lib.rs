//! `votive-jailer` makes the jail of one VMM and executes the VMM in it (`docs/jail.md`).
//!
//! [`spec`] reads the command line, [`jail`] is what happens outside, [`inside`] what happens in the new namespaces up to the
//! VMM's first instruction. The jailer is gone then; the VMM is the child of whoever started the jailer.

pub mod inside;
pub mod jail;
pub mod spec;
mod system;

pub use system::prepare_streams;
