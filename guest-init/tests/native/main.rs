//! PID 1's loop as an ordinary process: the same [`votive_init::worker::Worker`] over a socket pair and a loopback port, with
//! no mounts and no namespaces.

mod client;
mod fetched;
mod harness;
mod invocations;
mod peers;
mod runtimes;
