//! Many connections over one pair of queues: which packet belongs to whom, and whose turn it is.
//!
//! Connections live in a table of slots. Those with something for the guest queue up and send one packet a turn, so that none
//! starves another; replies that belong to no connection go first and are few ([`REPLIES_MAX`]).

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{EpollEvent, EventSet};

use super::connection::{Connection, Verdict};
use super::host::{Host, LISTENER, receive_byte};
use super::limits::{
    CONNECT_LINE_BYTES_MAX, CONNECTIONS_MAX, EVENTS_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX,
    HOST_PORT_FIRST, REPLIES_MAX,
};
use super::packet::{HEADER_BYTES, HOST_CID, Header, TYPE_STREAM, op};
use crate::virtio::watch::TIMER;
use crate::virtio::{Chain, Nonsense};

/// See the module.
#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u64,
    host: Host,
    slots: Vec<Slot>,
    /// Slot of each connection, by local and peer port.
    by_ports: BTreeMap<(u32, u32), usize>,
    /// Slots of connections with something for the guest, each once.
    turns: VecDeque<usize>,
    replies: VecDeque<Header>,
    handshakes: usize,
    buffers: usize,
    next_port: u32,
    /// Host programs may be waiting to be let in.
    knocking: bool,
}

/// A place in the table. The generation tells events of its present tenant from those of earlier ones.
#[derive(Debug)]
struct Slot {
    generation: u32,
    tenant: Option<Tenant>,
}

#[derive(Debug)]
enum Tenant {
    /// A host program that has not said yet whom it wants.
    Handshake {
        stream: UnixStream,
        deadline: Instant,
        /// What has come of its line.
        line: Vec<u8>,
    },
    Connection(Box<Connection>),
}

impl Muxer {
    pub(super) fn new(guest_cid: u64, host: Host) -> Self {
        Muxer {
            guest_cid,
            host,
            slots: Vec::new(),
            by_ports: BTreeMap::new(),
            turns: VecDeque::new(),
            replies: VecDeque::new(),
            handshakes: 0,
            buffers: 0,
            next_port: HOST_PORT_FIRST,
            knocking: false,
        }
    }

    pub(super) fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// A driver is there.
    pub(super) fn start(&mut self) {
        self.host.open();
    }

    /// The driver is gone, and all connections with it.
    pub(super) fn stop(&mut self) {
        self.host.close();
        for index in 0..self.slots.len() {
            self.remove(index);
        }
        self.slots = Vec::new();
        self.replies.clear();
        self.knocking = false;
    }

    /// Replies wait for receive buffers: take no more packets.
    pub(super) fn is_congested(&self) -> bool {
        self.replies.len() >= REPLIES_MAX
    }

    /// There is something for the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.replies.is_empty() || !self.turns.is_empty()
    }

    /// Puts the next packet into `chain`; the bytes written, or `None` when there was nothing after all.
    pub(super) fn send(&mut self, ram: &GuestMemoryMmap<()>, chain: &Chain) -> Option<u32> {
        if let Some(reply) = self.replies.pop_front() {
            reply.write(ram, chain);
            return u32::try_from(HEADER_BYTES).ok();
        }
        while let Some(index) = self.turns.pop_front() {
            let Some(connection) = self.connection(index) else { continue };
            connection.queued = false;
            let guest_cid = self.guest_cid;
            let Some(connection) = self.connection(index) else { continue };
            let sent = connection.send(guest_cid, ram, chain);
            let deadline = connection.deadline;
            if let Some(deadline) = deadline {
                self.host.watch.arm(deadline);
            }
            if sent.is_some() {
                self.queue(index);
                return sent;
            }
        }
        None
    }

    /// Takes a packet from the guest.
    pub(super) fn receive(
        &mut self,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
    ) -> Result<(), Nonsense> {
        let header = Header::read(ram, chain).ok_or(Nonsense::Length)?;
        let payload = chain.readable_bytes().saturating_sub(HEADER_BYTES as u64);
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            // Not from the guest, or not for the host: nobody to answer to (section 5.10.6.4.1).
            return Err(Nonsense::Request);
        }
        if header.kind != TYPE_STREAM || u64::from(header.len) > payload {
            self.refuse(&header);
            return Err(Nonsense::Request);
        }
        let ports = (header.dst_port, header.src_port);
        match (self.by_ports.get(&ports).copied(), header.op) {
            (Some(index), _) => self.receive_for(index, &header, ram, chain),
            (None, op::REQUEST) => {
                self.connect(&header);
                Ok(())
            }
            // Late packets of something that ended here already: no offence.
            (None, op::RESPONSE..=op::CREDIT_REQUEST) => {
                self.refuse(&header);
                Ok(())
            }
            (None, _) => {
                self.refuse(&header);
                Err(Nonsense::Request)
            }
        }
    }

    fn receive_for(
        &mut self,
        index: usize,
        header: &Header,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
    ) -> Result<(), Nonsense> {
        let buffers = self.buffers;
        let Some(connection) = self.connection(index) else { return Ok(()) };
        let held = connection.holds_buffer();
        let result = connection.receive(header, ram, chain, buffers);
        let (holds, deadline) = (connection.holds_buffer(), connection.deadline);
        self.count_buffer(held, holds);
        if let Some(deadline) = deadline {
            self.host.watch.arm(deadline);
        }
        self.conclude(index, result.unwrap_or(Verdict::Reset));
        result.map(|_| ())
    }

    /// The guest wants a connection to the host.
    fn connect(&mut self, request: &Header) {
        let guests = self.by_ports.len();
        if guests >= CONNECTIONS_MAX.saturating_sub(HANDSHAKES_MAX) {
            return self.refuse(request);
        }
        let Ok(stream) = self.host.connect(request.dst_port) else {
            return self.refuse(request);
        };
        let ports = (request.dst_port, request.src_port);
        let connection = Box::new(Connection::from_guest(stream, request));
        match self.insert(Tenant::Connection(connection)) {
            Some(index) => {
                self.by_ports.insert(ports, index);
                self.queue(index);
            }
            None => self.refuse(request),
        }
    }

    /// Answers a packet that belongs to nothing.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST {
            self.reply_reset(header.dst_port, header.src_port);
        }
    }

    fn reply_reset(&mut self, local_port: u32, peer_port: u32) {
        self.replies.push_back(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: local_port,
            dst_port: peer_port,
            kind: TYPE_STREAM,
            op: op::RST,
            ..Header::default()
        });
    }

    /// Has the worker be woken at `at` at the latest.
    pub(super) fn wake_at(&mut self, at: Instant) {
        self.host.watch.arm(at);
    }

    /// Looks at what happened on the host, a bounded number of events; the rest wakes the worker again.
    pub(super) fn poll_host(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS_MAX];
        let count = self.host.watch.events(&mut events);
        for event in events.iter().take(count) {
            match event.data() {
                LISTENER => self.knocking = true,
                TIMER => self.expire(),
                data => self.on_event(data, event.event_set()),
            }
        }
    }

    fn on_event(&mut self, data: u64, events: EventSet) {
        let (index, generation) = split(data);
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.generation != generation {
            return;
        }
        match &mut slot.tenant {
            Some(Tenant::Handshake { .. }) => self.shake_hands(index),
            Some(Tenant::Connection(connection)) => {
                let held = connection.holds_buffer();
                let verdict = connection.on_host_events(events);
                let holds = connection.holds_buffer();
                self.count_buffer(held, holds);
                self.conclude(index, verdict);
            }
            None => {}
        }
    }

    /// Lets host programs in while there is room for them.
    pub(super) fn admit(&mut self) {
        while self.knocking && self.handshakes < HANDSHAKES_MAX && !self.is_congested() {
            if self.slots.iter().filter(|slot| slot.tenant.is_some()).count() >= CONNECTIONS_MAX {
                return;
            }
            let Some(stream) = self.host.accept() else {
                self.knocking = false;
                return;
            };
            let Some(deadline) = Instant::now().checked_add(HANDSHAKE_TIMEOUT) else { return };
            let line = Vec::with_capacity(CONNECT_LINE_BYTES_MAX);
            if let Some(index) = self.insert(Tenant::Handshake { stream, deadline, line }) {
                self.handshakes = self.handshakes.saturating_add(1);
                self.host.watch.arm(deadline);
                self.shake_hands(index);
            }
        }
    }

    /// Reads a host program's `CONNECT <port>\n`, if it is complete, and not a byte more.
    fn shake_hands(&mut self, index: usize) {
        let Some(Tenant::Handshake { stream, line, .. }) = self.tenant(index) else { return };
        let peer_port = loop {
            // At most nineteen calls: what follows the line is the guest's.
            match receive_byte(stream) {
                Ok(Some(b'\n')) => break parse_connect(line),
                Ok(Some(byte)) if line.len() < CONNECT_LINE_BYTES_MAX.saturating_sub(1) => {
                    line.push(byte);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => break None,
            }
        };
        match peer_port {
            Some(peer_port) => self.request(index, peer_port),
            None => self.remove(index),
        }
    }

    /// Turns a handshake into a connection that asks the guest.
    fn request(&mut self, index: usize, peer_port: u32) {
        let local_port = self.free_port();
        let deadline = Instant::now().checked_add(HANDSHAKE_TIMEOUT);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let (Some(Tenant::Handshake { stream, .. }), Some(deadline)) =
            (slot.tenant.take(), deadline)
        else {
            return;
        };
        self.handshakes = self.handshakes.saturating_sub(1);
        let connection = Connection::from_host(stream, local_port, peer_port, deadline);
        slot.tenant = Some(Tenant::Connection(Box::new(connection)));
        self.by_ports.insert((local_port, peer_port), index);
        self.host.watch.arm(deadline);
        self.queue(index);
    }

    /// A host port that no connection uses; there are far more ports than connections.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(HOST_PORT_FIRST);
            if self.by_ports.range((port, 0)..=(port, u32::MAX)).next().is_none() {
                return port;
            }
        }
    }

    /// Ends what has been waiting too long, and sets the timer for what waits next.
    fn expire(&mut self) {
        self.host.watch.disarm();
        let now = Instant::now();
        for index in 0..self.slots.len() {
            let deadline = match self.tenant(index) {
                Some(Tenant::Handshake { deadline, .. }) => Some(*deadline),
                Some(Tenant::Connection(connection)) => connection.deadline,
                None => None,
            };
            match deadline {
                Some(deadline) if deadline <= now => self.conclude(index, Verdict::Reset),
                Some(deadline) => self.host.watch.arm(deadline),
                None => {}
            }
        }
    }

    /// Acts on what is to become of a tenant.
    fn conclude(&mut self, index: usize, verdict: Verdict) {
        match verdict {
            Verdict::Keep if self.watch_room(index) => return self.queue(index),
            // What waits in it would wait for ever.
            Verdict::Keep => return self.conclude(index, Verdict::Reset),
            Verdict::Reset => {
                if let Some((local, peer)) = self.connection(index).map(|it| it.ports()) {
                    self.reply_reset(local, peer);
                }
            }
            Verdict::Gone => {}
        }
        self.remove(index);
    }

    /// Has a connection's socket watched for room if it needs some, and only then. False if the kernel refuses.
    fn watch_room(&mut self, index: usize) -> bool {
        let Some(Slot { generation, tenant: Some(Tenant::Connection(connection)) }) =
            self.slots.get_mut(index)
        else {
            return true;
        };
        let needed = connection.needs_room();
        if needed == connection.room_watched {
            return true;
        }
        connection.room_watched = needed;
        self.host.watch_room(connection.stream(), join(index, *generation), needed).is_ok()
    }

    /// Queues a connection that has something for the guest, unless it is queued.
    fn queue(&mut self, index: usize) {
        let Some(connection) = self.connection(index) else { return };
        if !connection.queued && connection.wants_to_send() {
            connection.queued = true;
            self.turns.push_back(index);
        }
    }

    fn insert(&mut self, tenant: Tenant) -> Option<usize> {
        let free = self.slots.iter().position(|slot| slot.tenant.is_none());
        let index = match free {
            Some(index) => index,
            None if self.slots.len() < CONNECTIONS_MAX => {
                self.slots.push(Slot { generation: 0, tenant: None });
                self.slots.len().checked_sub(1)?
            }
            None => return None,
        };
        let slot = self.slots.get_mut(index)?;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        let data = join(index, slot.generation);
        let stream = match &tenant {
            Tenant::Handshake { stream, .. } => stream,
            Tenant::Connection(connection) => connection.stream(),
        };
        self.host.watch_stream(stream, data).ok()?;
        slot.tenant = Some(tenant);
        Some(index)
    }

    fn remove(&mut self, index: usize) {
        let Some(tenant) = self.slots.get_mut(index).and_then(|slot| slot.tenant.take()) else {
            return;
        };
        match tenant {
            Tenant::Handshake { stream, .. } => {
                self.handshakes = self.handshakes.saturating_sub(1);
                self.host.watch.remove(&stream);
            }
            Tenant::Connection(connection) => {
                self.host.watch.remove(connection.stream());
                self.by_ports.remove(&connection.ports());
                self.count_buffer(connection.holds_buffer(), false);
                self.turns.retain(|&queued| queued != index);
            }
        }
    }

    fn count_buffer(&mut self, held: bool, holds: bool) {
        match (held, holds) {
            (false, true) => self.buffers = self.buffers.saturating_add(1),
            (true, false) => self.buffers = self.buffers.saturating_sub(1),
            _ => {}
        }
    }

    fn tenant(&mut self, index: usize) -> Option<&mut Tenant> {
        self.slots.get_mut(index)?.tenant.as_mut()
    }

    fn connection(&mut self, index: usize) -> Option<&mut Connection> {
        match self.tenant(index)? {
            Tenant::Connection(connection) => Some(connection),
            Tenant::Handshake { .. } => None,
        }
    }
}

impl AsFd for Muxer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.host.watch.as_fd()
    }
}

/// Keeps event data of slots apart from that of the listener and the timer.
const GENERATION_MASK: u32 = 0x7fff_ffff;

fn join(index: usize, generation: u32) -> u64 {
    (u64::from(generation) << 32) | index as u64
}

fn split(data: u64) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = data.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

/// The port in `CONNECT <port>`: decimal digits only.
fn parse_connect(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?;
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all_digits.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}
