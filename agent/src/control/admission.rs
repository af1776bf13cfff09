//! How many connections there may be, in all and for each peer. No input, no output, no clock.
//!
//! Whoever connects proves nothing at first, so a new connection is always let in and the oldest handshake makes room: one of
//! the same peer's if it has many, else anybody's. An honest handshake takes milliseconds and is over before it is the
//! oldest; one that is held open costs only its own kind. Connections that have proved who they are are never cut for others;
//! beyond their limit the new one is refused.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

#[cfg(test)]
mod tests;

/// Whose connection it is, as far as the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address; of IPv6 the network of 64 bits, of which one host has all addresses.
    Network(IpAddr),
    /// The user of a process on this machine.
    User(u32),
}

impl Peer {
    /// The peer at an address.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Self::Network(IpAddr::V6(network.into()))
            }
            address @ IpAddr::V4(_) => Self::Network(address),
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(address @ IpAddr::V4(_)) => write!(f, "{address}"),
            Self::Network(address @ IpAddr::V6(_)) => write!(f, "{address}/64"),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Handshakes under way; at least 1. Each costs some 10 KiB.
    pub handshakes: usize,
    /// Handshakes of one peer under way; at least 1.
    pub handshakes_per_peer: usize,
    /// Connections. A fleet has a few orchestrators with one or two each.
    pub connections: usize,
    /// Connections of one peer.
    pub connections_per_peer: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            handshakes_per_peer: 128,
            connections: 512,
            connections_per_peer: 256,
        }
    }
}

/// Why a connection is refused after its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many as there may be.
    All,
    /// This peer has as many as it may.
    Peer,
}

/// A connection, from its arrival to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// A connection that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival<T> {
    /// Which.
    pub id: ConnectionId,
    /// The one that has to go for it.
    pub evicted: Option<T>,
}

/// The connections that there are. `T` is what ends one in its handshake.
#[derive(Debug)]
pub struct Admission<T> {
    limits: AdmissionLimits,
    next: u64,
    /// Handshakes under way, the oldest first. One that was evicted is out at once, whatever its task still does.
    handshakes: BTreeMap<ConnectionId, (Peer, T)>,
    connections: BTreeMap<ConnectionId, Peer>,
    per_peer: HashMap<Peer, usize>,
}

impl<T> Admission<T> {
    /// No connections.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            next: 0,
            handshakes: BTreeMap::new(),
            connections: BTreeMap::new(),
            per_peer: HashMap::new(),
        }
    }

    /// A connection has been accepted; its handshake begins.
    pub fn arrive(&mut self, peer: Peer, end: T) -> Arrival<T> {
        let of_peer = self.handshakes.values().filter(|(other, _)| *other == peer).count();
        let oldest = if of_peer >= self.limits.handshakes_per_peer.max(1) {
            self.handshakes.iter().find(|(_, (other, _))| *other == peer).map(|(id, _)| *id)
        } else if self.handshakes.len() >= self.limits.handshakes.max(1) {
            self.handshakes.keys().next().copied()
        } else {
            None
        };
        let evicted = oldest.and_then(|id| self.handshakes.remove(&id)).map(|(_, end)| end);
        let id = ConnectionId(self.next);
        self.next += 1;
        self.handshakes.insert(id, (peer, end));
        Arrival { id, evicted }
    }

    /// A handshake is over and both sides know each other. The connection stays counted until it has [left](Self::leave).
    ///
    /// # Errors
    /// There is no room for the connection.
    pub fn establish(&mut self, id: ConnectionId, peer: Peer) -> Result<(), Full> {
        self.handshakes.remove(&id);
        if self.connections.len() >= self.limits.connections {
            return Err(Full::All);
        }
        let of_peer = self.per_peer.entry(peer).or_default();
        if *of_peer >= self.limits.connections_per_peer {
            return Err(Full::Peer);
        }
        *of_peer += 1;
        self.connections.insert(id, peer);
        Ok(())
    }

    /// A connection has ended, wherever it was.
    pub fn leave(&mut self, id: ConnectionId) {
        self.handshakes.remove(&id);
        let Some(peer) = self.connections.remove(&id) else { return };
        if let Some(of_peer) = self.per_peer.get_mut(&peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                self.per_peer.remove(&peer);
            }
        }
    }

    /// Handshakes under way.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.handshakes.len()
    }

    /// Connections whose both sides know each other.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}
