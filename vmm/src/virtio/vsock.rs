//! The socket device (virtio 1.2 section 5.10), bridged to Unix sockets of the host ("hybrid vsock").
//!
//! A host program connects to the device's socket, writes `CONNECT <port>\n`, reads `OK <host port>\n`, and from then on
//! speaks to the guest's listener on that port. A guest that connects to port P of CID 2 reaches the descriptor given for P
//! (once), else whoever listens on `SOCKET_P`, else is refused.
//!
//! What a guest could abuse: connections by the thousand, data beyond its credit, packets that lie about lengths, ports and
//! CIDs, replies it never collects. Connections and buffers are counted against fixed limits ([`limits`]); a packet that
//! belongs to nothing is answered with RST; when replies pile up no more packets are taken until the guest collects them
//! (section 5.10.6.2). A guest that sent something seldom waits to hear that it was taken, and an interrupt for that alone costs
//! it two exits: it is told along with the next packet for it, when a quarter of the queue waits, or within
//! [`limits::TAKEN_TOLD_WITHIN`]. No call here waits: sockets are used without waiting and watched edge-triggered, so an idle or stuck
//! connection costs nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use self::host::Host;
use self::muxer::Muxer;
use super::{Chain, DeviceTraits, Rings, VirtioDevice, Wake, Watch};

mod connection;
mod host;
pub mod limits;
mod muxer;
mod packet;
#[cfg(test)]
mod tests;

pub use host::{Listener, VsockError};

const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
/// Linux fills the whole receive queue with 4 KiB buffers while it boots: a long queue costs boot time. The event queue is
/// there because the driver expects it; there are no events.
const QUEUE_SIZES: [u16; 3] = [64, 64, 8];

/// What the device bridges to.
#[derive(Debug)]
pub struct VsockSpec {
    /// The guest's context id, 3 or more.
    pub guest_cid: u32,
    /// Unix socket to listen on for host programs; also the prefix of the sockets that the guest reaches.
    pub path: Option<PathBuf>,
    /// Connected stream sockets for the guest's first connection to each port.
    pub ports: Vec<(u32, OwnedFd)>,
}

/// The device model.
#[derive(Debug)]
pub struct Vsock {
    muxer: Muxer,
    chain: Chain,
    /// When the guest is told of packets that were taken, should nothing else be told it before.
    tell_by: Option<Instant>,
    /// How long after the first of them.
    tell_within: Duration,
}

impl Vsock {
    /// Binds the listening socket, if there is one; it is removed when the device is dropped.
    ///
    /// # Errors
    /// A reserved CID, or a path that cannot be bound (in use, too long).
    pub fn new(spec: VsockSpec) -> Result<Self, VsockError> {
        let VsockSpec { guest_cid, path, ports } = spec;
        let listener = path.map(Listener::bind).transpose()?;
        let watch = Watch::new().map_err(|source| VsockError::Watch { source })?;
        Self::assembled(guest_cid, listener, ports, watch)
    }

    /// As [`Vsock::new`] with a socket that listens already, so that nothing but to wait for no stream is asked of the operating
    /// system.
    ///
    /// # Errors
    /// A reserved CID, or a port's descriptor that is none.
    pub fn assembled(
        guest_cid: u32,
        listener: Option<Listener>,
        ports: Vec<(u32, OwnedFd)>,
        watch: Watch,
    ) -> Result<Self, VsockError> {
        if guest_cid <= 2 || guest_cid == u32::MAX {
            return Err(VsockError::Cid(guest_cid));
        }
        let host = Host::new(listener, ports, watch)?;
        let segments = QUEUE_SIZES.into_iter().max().unwrap_or_default();
        Ok(Vsock {
            muxer: Muxer::new(u64::from(guest_cid), host),
            chain: Chain::with_capacity(segments),
            tell_by: None,
            tell_within: limits::TAKEN_TOLD_WITHIN,
        })
    }

    /// Takes the guest's packets. False when it stopped because replies pile up.
    fn take(&mut self, rings: &mut Rings) -> bool {
        // Neither queue need be there.
        if rings.size(TX) == 0 {
            return true;
        }
        rings.quiet(TX);
        for _ in 0..rings.size(TX) {
            if self.muxer.is_congested() {
                return false;
            }
            if rings.pop(TX, &mut self.chain) {
                match self.muxer.receive(rings.ram(), &self.chain) {
                    Ok(()) => {}
                    Err(nonsense) => rings.count(nonsense),
                }
                rings.push(TX, &self.chain, 0);
            } else if rings.listen(TX) {
                rings.quiet(TX);
            } else {
                return true;
            }
        }
        rings.again();
        true
    }

    /// Fills the guest's receive buffers, one packet each, while there are packets and buffers.
    fn give(&mut self, rings: &mut Rings) {
        if rings.size(RX) == 0 {
            return;
        }
        for _ in 0..rings.size(RX) {
            if !self.muxer.has_packets() {
                return;
            }
            if !rings.pop(RX, &mut self.chain) {
                if rings.listen(RX) {
                    rings.quiet(RX);
                    continue;
                }
                return;
            }
            if self.chain.writable_bytes() <= packet::HEADER_BYTES as u64 {
                rings.refuse(RX, &self.chain, super::Nonsense::Length);
                continue;
            }
            match self.muxer.send(rings.ram(), &self.chain) {
                Some(len) => rings.push(RX, &self.chain, len),
                None => rings.unpop(RX),
            }
        }
        rings.again();
    }

    /// Sees to it that the guest hears in time of packets that were taken.
    fn bound_waiting(&mut self, rings: &mut Rings) {
        if !rings.holds_back(TX) {
            self.tell_by = None;
            return;
        }
        let now = Instant::now();
        match self.tell_by.or_else(|| now.checked_add(self.tell_within)) {
            Some(at) if at > now => {
                self.tell_by = Some(at);
                // Nothing is done when the timer is set for that long already, as it nearly always is with a busy guest.
                self.muxer.wake_at(at);
            }
            _ => {
                self.tell_by = None;
                rings.hurry(TX);
            }
        }
    }
}

impl VirtioDevice for Vsock {
    fn traits(&self) -> DeviceTraits {
        DeviceTraits {
            name: "vsock",
            device_id: VIRTIO_ID_VSOCK,
            features: 0,
            queue_sizes: &QUEUE_SIZES,
            config: self.muxer.guest_cid().to_le_bytes().into(),
            dials: Vec::new(),
        }
    }

    fn activate(&mut self, _features: u64) {
        self.muxer.start();
    }

    fn process(&mut self, rings: &mut Rings, wake: Wake) {
        // New receive buffers are of interest only while packets wait for them: see `give`.
        rings.quiet(RX);
        rings.quiet(EVENT);
        rings.relax(TX);
        if wake == Wake::Host {
            self.muxer.poll_host();
        }
        self.muxer.admit();
        let took_all = self.take(rings);
        self.give(rings);
        if !took_all {
            // No more is taken for a while: the guest shall know of all that was.
            rings.hurry(TX);
            if !self.muxer.is_congested() {
                rings.again();
            }
        }
        self.bound_waiting(rings);
    }

    fn reset(&mut self) {
        self.tell_by = None;
        self.muxer.stop();
    }

    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.as_fd())
    }
}
