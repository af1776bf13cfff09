//! The worker's state machines under simulated time.
//!
//! A schedule is a world made of a seed: the real [`votive_agent::worker::core::Core`] and the real
//! [`votive_agent::environment::Environment`]s, with guests, VMMs, callers and an orchestrator that are played, and with faults.
//! After every step the world is held to what a worker promises. A schedule that fails is played again by its seed.

#![forbid(unsafe_code)]

mod callers;
mod faults;
mod guests;
pub mod random;
mod rules;
mod versions;
mod world;

pub use world::{Counts, Failure, run};
