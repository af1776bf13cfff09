//! PID 1 of every microVM: it mounts what the runtime needs, starts it, serves the Lambda Runtime API to it on the loopback
//! device, and tells the agent over one vsock stream what comes of it.
//!
//! Everything is here but the entry point: the binary adds `_start` and what a program without a C library lacks. Modules
//! that decide something do no I/O and are tested on the host; [`worker`] is the loop that does it for them.

#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod arena;
pub mod environment;
#[cfg(any(test, feature = "std"))]
pub mod exercise;
pub mod extensions;
pub mod guest;
pub mod http;
pub mod json;
pub mod limits;
pub mod link;
pub mod route;
pub mod runtime;
pub mod server;
pub mod telemetry;
pub mod worker;
