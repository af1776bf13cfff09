//! Guests' networks: a namespace for each, with its tap, its rules and, on the host, one way out and none in.
//!
//! ```text
//!   guest              its own namespace                                   host
//!   eth0 192.0.0.2 --- tap0 192.0.0.1 | rules | up, one of network.links --- vtvXXXXXX-N | rules | uplink
//! ```
//! [`Network`] makes them ahead in a thread of its own and keeps a few ready. A namespace has no name: it and all in it are
//! gone with its last descriptor, whoever is killed. What has a name on the host (links, a table) carries the agent's, and is
//! removed at its end, or at its successor's start.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub mod addresses;
mod host;
mod namespace;
mod netlink;
mod pool;
pub mod rules;
#[cfg(test)]
mod tests;

pub use host::sweep;
pub use pool::Network;

use rules::Reach;

/// The tap in a guest's namespace.
const TAP: &str = "tap0";
/// The way out of it.
const UP: &str = "up";
const TAP_DEVICE: &str = "/dev/net/tun";

/// Everything that is decided about guests' networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The agent's folder: what is on the host is named after it, and a file in it tells the next agent of it.
    pub state_dir: PathBuf,
    /// The way out.
    pub egress: Egress,
    /// Addresses of namespaces on the way out.
    pub links: addresses::Range,
    /// What guests reach.
    pub reach: Reach,
    /// How many namespaces are kept ready.
    pub ready: usize,
}

/// How guests' packets leave the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Egress {
    /// The host forwards them with its own address.
    Nat {
        /// By this link; without it, by that of the default route.
        uplink: Option<String>,
    },
    /// As frames, by a bridge of the host's.
    Bridge {
        /// The bridge.
        name: String,
        /// The next hop on it.
        gateway: Ipv4Addr,
    },
}

/// A guest's network.
#[derive(Debug)]
pub struct Attachment {
    /// The guest's end of it.
    pub device: NetworkDevice,
    /// What frees its way out.
    pub lease: Lease,
}

/// A guest's end of its network.
#[derive(Debug)]
pub struct NetworkDevice {
    /// The tap.
    pub tap: File,
    /// The namespace that it is in, for its VMM's jail.
    pub namespace: OwnedFd,
}

/// A guest's way out, which ends when this is dropped.
#[derive(Debug)]
pub struct Lease {
    slot: u32,
    orders: std::sync::mpsc::Sender<pool::Order>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Nobody is there to free it: then it was freed with all the others.
        let _ = self.orders.send(pool::Order::Release(self.slot));
    }
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The host has no taps.
    #[error("there is no {TAP_DEVICE}: the kernel lacks the module tun")]
    NoTaps,
    /// Nothing tells the way out.
    #[error("there is no default route: network.uplink must name the way out")]
    NoUplink,
    /// A link that must be there.
    #[error("there is no link {0}")]
    Missing(String),
    /// An address that somebody has already.
    #[error("network.links has {0}, which is this host's own")]
    Taken(Ipv4Addr),
    /// All addresses are taken.
    #[error("all addresses of network.links are in use")]
    Exhausted,
    /// A namespace.
    #[error("a network namespace cannot be made")]
    Namespace(#[source] std::io::Error),
    /// A tap.
    #[error("a tap cannot be made")]
    Tap(#[source] std::io::Error),
    /// The socket to the kernel.
    #[error("there is no netlink socket")]
    Netlink(#[source] std::io::Error),
    /// What the kernel refused.
    #[error("cannot {what} {name}")]
    Link {
        /// What was asked for.
        what: &'static str,
        /// Of which link.
        name: String,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// What the kernel did not answer.
    #[error("no answer in time: {what} {name}")]
    Late {
        /// What was asked for.
        what: &'static str,
        /// Of which link.
        name: String,
    },
    /// A knob under `/proc/sys/net`.
    #[error("cannot set or read {path}")]
    Knob {
        /// Which.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The file that tells of a network.
    #[error("cannot write or read {path}")]
    Marker {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The program that takes the rules.
    #[error("cannot run nft, of Debian's package nftables")]
    Nft(#[source] std::io::Error),
    /// The rules, and what nft says of them.
    #[error("nft does not take the rules: {0}")]
    Rules(String),
    /// The thread that makes namespaces.
    #[error("the thread of guests' networks is gone")]
    Lost,
}
