//! The channel from end to end, on real sockets, with a worker that is played: no guest is needed.

mod calls;
mod cli;
mod flood;
mod harness;
mod openssl;
mod orchestrator;
mod slow;
mod trust;
mod wire;
