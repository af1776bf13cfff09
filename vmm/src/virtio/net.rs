//! The network device (virtio 1.2 section 5.1): one pair of queues over a tap, or anything else that keeps frames apart.
//!
//! The guest sees an Ethernet card with a fixed address and MTU, and none of the offloads: each frame is a packet of at most the
//! MTU, with its checksums in it. What it could abuse:
//!
//! - the host kernel's parser of offload headers: it never sees a guest's. Each frame goes out behind a header of zeros.
//! - other guests' addresses: a frame whose source is not the device's own address is refused.
//! - lengths and buffers: a frame is copied through memory of a fixed size, or refused.
//! - sheer number: a turn moves at most [`FRAMES_PER_TURN`] frames each way, then others have theirs. A tap that takes no more
//!   loses the guest's frames, as a cable would; a guest that takes no more leaves its frames in the tap, which is bounded.
//!
//! The tap is the host's, made with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, a header of [`HEADER_BYTES`] and no offloads. Frames
//! that need one all the same are dropped.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE,
};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{EpollEvent, EventSet};

use super::{Chain, DeviceTraits, Nonsense, Rings, VirtioDevice, Wake, Watch, log};
use crate::descriptor::without_waiting;
use crate::limiter::{Limiter, Limits};

#[cfg(test)]
mod tests;

/// Bytes of `struct virtio_net_hdr` before each frame, in the guest's buffers and on the tap (section 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// Bytes of an Ethernet header: destination, source, type.
pub const ETHERNET_BYTES: usize = 14;
/// Frames that move in each direction before other devices have their turn.
pub const FRAMES_PER_TURN: usize = 64;

/// A VLAN tag makes a frame so much longer than MTU and Ethernet header.
const VLAN_TAG_BYTES: usize = 4;
const ADDRESS_BYTES: usize = 6;
const RECEIVE: usize = 0;
const SEND: usize = 1;
const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Event data of the tap.
const TAP: u64 = 0;

/// What a network device is made of.
#[derive(Debug)]
pub struct NetSpec {
    /// A tap, or a socket of datagrams or packets: each read and each write is a header and a frame.
    pub tap: File,
    /// The guest's address.
    pub mac: [u8; ADDRESS_BYTES],
    /// Most bytes of a packet, without its Ethernet header.
    pub mtu: u16,
    /// How much it may receive.
    pub receive: Limits,
    /// How much it may send.
    pub send: Limits,
}

/// The tap cannot be waited for.
#[derive(Debug, thiserror::Error)]
#[error("cannot wait for the tap")]
pub struct NetError(#[source] io::Error);

/// The device model.
#[derive(Debug)]
pub struct Net {
    tap: Tap,
    mac: [u8; ADDRESS_BYTES],
    mtu: u16,
    chain: Chain,
    /// The frame that the guest sends, behind its header.
    outgoing: Box<[u8]>,
    receiving: Limiter,
    sending: Limiter,
    /// The tap, and when a frame that waits may move.
    watch: Watch,
    /// When that is.
    turn: Option<Instant>,
}

/// The host's end.
#[derive(Debug)]
struct Tap {
    file: File,
    /// There may be something to read.
    ready: bool,
    /// It is gone; nothing more comes.
    dead: bool,
    /// The frame that came last, behind its header, and a byte by which one that is too long is known.
    incoming: Box<[u8]>,
    /// Bytes of it that the guest has not been given.
    held: Option<usize>,
    lost: u64,
}

impl Net {
    /// As [`Net::with_watch`], with a watch of its own.
    ///
    /// # Errors
    /// As there, and when there is no watch.
    pub fn new(spec: NetSpec) -> Result<Self, NetError> {
        Self::with_watch(spec, Watch::new().map_err(NetError)?)
    }

    /// A network device over `spec.tap`, no call to which waits from now on, for none of its owners.
    ///
    /// # Errors
    /// The tap cannot be waited for.
    pub fn with_watch(spec: NetSpec, watch: Watch) -> Result<Self, NetError> {
        let NetSpec { tap, mac, mtu, receive, send } = spec;
        let file = without_waiting(tap).map_err(NetError)?;
        // Not every file can be.
        watch.add(&file, TAP, EventSet::IN).map_err(NetError)?;
        watch.remove(&file);
        let longest = HEADER_BYTES + ETHERNET_BYTES + VLAN_TAG_BYTES;
        let longest = longest.saturating_add(usize::from(mtu));
        let incoming = vec![0; longest.saturating_add(1)].into();
        let tap = Tap { file, ready: false, dead: false, incoming, held: None, lost: 0 };
        let segments = QUEUE_SIZES.into_iter().max().unwrap_or_default();
        let now = Instant::now();
        Ok(Net {
            tap,
            mac,
            mtu,
            chain: Chain::with_capacity(segments),
            outgoing: vec![0; longest].into(),
            receiving: Limiter::new(receive, now),
            sending: Limiter::new(send, now),
            watch,
            turn: None,
        })
    }

    /// Takes the guest's frames.
    fn send(&mut self, rings: &mut Rings) {
        let let_go = rings.let_go();
        rings.quiet(SEND);
        for _ in 0..FRAMES_PER_TURN {
            if let_go.is_set() {
                return;
            }
            if !rings.pop(SEND, &mut self.chain) {
                if rings.listen(SEND) {
                    rings.quiet(SEND);
                    continue;
                }
                return;
            }
            match self.take(rings.ram()) {
                Ok(bytes) => {
                    if let Err(at) = self.sending.take_now(on_the_wire(bytes)) {
                        self.wait_until(at);
                        return rings.unpop(SEND);
                    }
                    let frame = self.outgoing.get(..bytes).unwrap_or_default();
                    self.tap.write(frame);
                    rings.push(SEND, &self.chain, 0);
                }
                Err(nonsense) => rings.refuse(SEND, &self.chain, nonsense),
            }
        }
        rings.again();
    }

    /// Copies the frame of the chain popped last behind a header of zeros; bytes of both.
    fn take(&mut self, ram: &GuestMemoryMmap<()>) -> Result<usize, Nonsense> {
        let bytes = usize::try_from(self.chain.readable_bytes()).unwrap_or(usize::MAX);
        let least = HEADER_BYTES + ETHERNET_BYTES;
        if bytes < least || self.chain.writable_bytes() != 0 {
            return Err(Nonsense::Length);
        }
        let frame = self.outgoing.get_mut(HEADER_BYTES..bytes).ok_or(Nonsense::Length)?;
        if !self.chain.read_at(ram, HEADER_BYTES as u64, frame) {
            return Err(Nonsense::Length);
        }
        match frame.get(ADDRESS_BYTES..2 * ADDRESS_BYTES) {
            Some(source) if source == self.mac => Ok(bytes),
            _ => Err(Nonsense::Source),
        }
    }

    /// Gives the guest what the tap holds, a buffer for each frame.
    fn receive(&mut self, rings: &mut Rings) {
        let let_go = rings.let_go();
        // New buffers are of interest only while a frame waits for one.
        rings.quiet(RECEIVE);
        for _ in 0..FRAMES_PER_TURN {
            if let_go.is_set() {
                return;
            }
            if self.tap.held.is_none() {
                match self.tap.read() {
                    Ok(held) => self.tap.held = held,
                    Err(error) => self.hang_up(&error),
                }
                if !self.tap.ready {
                    return;
                }
            }
            let Some(bytes) = self.tap.held else { continue };
            if !rings.pop(RECEIVE, &mut self.chain) {
                if rings.listen(RECEIVE) {
                    rings.quiet(RECEIVE);
                    continue;
                }
                return;
            }
            if let Err(at) = self.receiving.take_now(on_the_wire(bytes)) {
                self.wait_until(at);
                return rings.unpop(RECEIVE);
            }
            let frame = self.tap.incoming.get(..bytes).unwrap_or_default();
            let written = u32::try_from(bytes).unwrap_or(0);
            if self.chain.readable_bytes() == 0 && self.chain.write_at(rings.ram(), 0, frame) {
                rings.push(RECEIVE, &self.chain, written);
            } else {
                rings.refuse(RECEIVE, &self.chain, Nonsense::Length);
            }
            self.tap.held = None;
        }
        rings.again();
    }

    /// There is something to do then.
    fn wait_until(&mut self, at: Instant) {
        self.turn = Some(self.turn.map_or(at, |turn| turn.min(at)));
    }

    /// The tap is of no use any more; the guest's frames are lost from now on.
    fn hang_up(&mut self, error: &io::Error) {
        self.watch.remove(&self.tap.file);
        (self.tap.dead, self.tap.ready) = (true, false);
        log(format_args!("net: the tap is gone: {error}"));
    }
}

impl VirtioDevice for Net {
    fn traits(&self) -> DeviceTraits {
        let mut config = self.mac.to_vec();
        // Status and number of queue pairs: neither is offered.
        config.extend([0; 4]);
        config.extend(self.mtu.to_le_bytes());
        DeviceTraits {
            name: "net",
            device_id: VIRTIO_ID_NET,
            features: 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU,
            queue_sizes: &QUEUE_SIZES,
            config,
            dials: vec![self.receiving.dial(), self.sending.dial()],
        }
    }

    fn activate(&mut self, _features: u64) {
        if !self.tap.dead {
            // Each frame that comes is an edge, so that frames for which there is no buffer wake nobody twice. What came before
            // is reported now.
            let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
            if let Err(error) = self.watch.add(&self.tap.file, TAP, edges) {
                self.hang_up(&error);
            }
        }
    }

    fn process(&mut self, rings: &mut Rings, wake: Wake) {
        if wake == Wake::Host {
            let mut events = [EpollEvent::default(); 2];
            self.watch.events(&mut events);
            self.tap.ready = !self.tap.dead;
        }
        self.sending.heed();
        self.receiving.heed();
        self.turn = None;
        self.send(rings);
        self.receive(rings);
        self.watch.until(self.turn);
    }

    fn reset(&mut self) {
        self.watch.disarm();
        (self.tap.ready, self.tap.held) = (false, None);
        self.watch.remove(&self.tap.file);
    }

    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watch.as_fd())
    }
}

/// What a frame costs: its bytes without the header of virtio.
fn on_the_wire(bytes: usize) -> u64 {
    bytes.saturating_sub(HEADER_BYTES) as u64
}

impl Tap {
    /// The next frame's bytes with their header, put into `incoming`; `None` if there is none, or none that a guest may see.
    /// `ready` is false once nothing is left.
    fn read(&mut self) -> io::Result<Option<usize>> {
        if !self.ready {
            return Ok(None);
        }
        match (&self.file).read(&mut self.incoming) {
            // No frame is empty: a socket whose other end was closed.
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) if bytes < self.incoming.len() && self.is_plain(bytes) => Ok(Some(bytes)),
            Ok(_) => {
                self.lose();
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready = false;
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether what was read is a frame that needs nothing done to it. Gives it the header that the guest shall see.
    fn is_plain(&mut self, bytes: usize) -> bool {
        let Some((header, _)) = self.incoming.split_first_chunk_mut::<HEADER_BYTES>() else {
            return false;
        };
        let [flags, segmentation, ..] = *header;
        // No flags, no segmentation, and the number of buffers that it takes (section 5.1.6.4.1).
        *header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        bytes >= HEADER_BYTES + ETHERNET_BYTES
            && u32::from(flags) & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0
            && u32::from(segmentation) == VIRTIO_NET_HDR_GSO_NONE
    }

    /// Sends a frame, with its header, or loses it.
    fn write(&mut self, frame: &[u8]) {
        if self.dead || (&self.file).write(frame).is_err() {
            self.lose();
        }
    }

    /// Says so in a line each time the count reaches a power of two: at most 64 lines, ever.
    fn lose(&mut self) {
        self.lost = self.lost.saturating_add(1);
        if self.lost.is_power_of_two() {
            log(format_args!("net: {} frames lost", self.lost));
        }
    }
}
