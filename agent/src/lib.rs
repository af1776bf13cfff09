//! The worker of votive: it starts microVMs, gives them functions, and brings invocations to them and back.
//!
//! What decides is kept apart from what does. [`environment`] and [`invocation`] are state machines without any input or
//! output: they take an [`event::Event`] and the time, and give [`event::Action`]s. [`run`] is the loop that feeds them from
//! [`link`] (the guest's frames) and [`microvm`] (the process), and carries their actions out.
//!
//! **Invariant:** nothing here opens `/dev/kvm` or maps a guest's memory; that is `votive-vmm`'s, which is spawned.

#![forbid(unsafe_code)]

pub mod artifacts;
mod causes;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod cold_start;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod environment;
pub mod event;
pub mod fake_guest;
#[cfg(test)]
mod fixture;
pub mod function;
pub mod fuzz;
pub mod images;
pub mod invocation;
pub mod jail;
pub mod limits;
pub mod link;
pub mod log;
pub mod metrics;
pub mod microvm;
pub mod network;
pub mod posture;
pub mod report;
pub mod run;
pub mod scratch;
pub mod shells;
pub mod worker;
