//! The hostile suite: each case is a microVM of its own whose guest drives the VMM's devices wrongly, in one way.
//!
//! `votive-hostile` runs the cases of [`table`] against votive-vmm, and beside it against Firecracker. After each case every
//! device must answer something ordinary, or the VMM must have ended with its reason and exit code; its memory, its
//! processor time and what it wrote to its log are bounded; and an innocent microVM beside it must have been served.
//! `docs/hostile.md` has the table and says how to reproduce a run.

#![forbid(unsafe_code)]

pub mod judge;
pub mod neighbour;
pub mod peers;
pub mod plan;
pub mod process;
pub mod run;
pub mod subject;
pub mod table;

/// The guest, an ELF image that boots as a kernel does.
pub const GUEST: &[u8] = include_bytes!(env!("HOSTILE_GUEST"));
