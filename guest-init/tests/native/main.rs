//! PID 1's loop as an ordinary process: the same [`votive_init::worker::Worker`] over a socket pair and a loopback port, with
//! no mounts and no namespaces.

#[cfg(test)]
mod client;
#[cfg(test)]
mod extension_peers;
#[cfg(test)]
mod extensions;
#[cfg(test)]
mod fetched;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod invocations;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod runtimes;
