//! One connection between the guest and a stream socket of the host: its state, its credit, its bytes.
//!
//! ```text
//!  host asks:   Requested --RESPONSE--> Established        guest asks:   (RESPONSE owed) Established
//!  guest ends:  SHUTDOWN of both ways, buffer written out -> RST, gone
//!  host ends:   end of file -> SHUTDOWN(send); hung up -> SHUTDOWN(both), then gone with the guest's RST or a time-out
//! ```
//! Bytes from the guest go straight from guest RAM into the socket; what it does not take waits in a buffer that the guest's
//! credit can never exceed. Bytes for the guest go straight from the socket into its receive buffers, never more than its
//! credit. Sockets are watched edge-triggered: `readable` and `writable` hold until a call says otherwise.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::host::{receive, send, send_bytes};
use super::limits::{BUFFER_BYTES, BUFFERS_MAX, LINGER_TIMEOUT};
use super::packet::{HEADER_BYTES, HOST_CID, Header, TYPE_STREAM, op, shutdown};
use crate::virtio::ring::parts;
use crate::virtio::{Chain, Nonsense};

/// Most data bytes in one packet to the guest.
const PACKET_BYTES_MAX: u64 = 64 << 10;

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// It is over, and the guest is to be told by RST.
    Reset,
    /// It is over, and the guest has said so.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// We asked the guest, which has not answered.
    Requested,
    /// Both ends agreed.
    Established,
}

/// Packets that are due whatever the socket has.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit_update: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    state: State,
    local_port: u32,
    peer_port: u32,
    owed: Owed,
    /// The connection is in the queue of those that have packets to send.
    pub(super) queued: bool,
    /// When it is given up unless something happens.
    pub(super) deadline: Option<Instant>,

    readable: bool,
    writable: bool,
    /// The socket is watched for room.
    pub(super) room_watched: bool,
    /// Nothing follows what can be read now.
    hung_up: bool,
    /// The host's end of file was read, or reading failed.
    ended: bool,
    /// The host takes no more bytes; what comes is thrown away.
    deaf: bool,

    /// Bytes the guest sent so far, and those of them that left for the host, modulo 2^32.
    received: u32,
    forwarded: u32,
    /// `forwarded` as the guest last heard of it.
    forwarded_told: u32,
    buffer: VecDeque<u8>,
    /// What the guest said it will no longer do, and what we said.
    guest_shutdown: u32,
    shutdown_told: u32,

    /// Bytes sent to the guest so far, those it consumed, and the size of its buffer.
    sent: u32,
    peer_forwarded: u32,
    peer_buffer: u32,
    /// CREDIT_REQUEST was sent and its answer is outstanding.
    credit_asked: bool,
}

impl Connection {
    /// A host program asked for the guest's `peer_port`; we call ourselves `local_port`.
    pub(super) fn from_host(
        stream: UnixStream,
        local_port: u32,
        peer_port: u32,
        deadline: Instant,
    ) -> Self {
        let mut connection = Self::new(stream, State::Requested, local_port, peer_port);
        connection.owed.request = true;
        connection.deadline = Some(deadline);
        connection
    }

    /// The guest asked for what `stream` is connected to.
    pub(super) fn from_guest(stream: UnixStream, request: &Header) -> Self {
        let mut connection =
            Self::new(stream, State::Established, request.dst_port, request.src_port);
        connection.owed.response = true;
        connection.learn_credit(request);
        connection
    }

    fn new(stream: UnixStream, state: State, local_port: u32, peer_port: u32) -> Self {
        Connection {
            stream,
            state,
            local_port,
            peer_port,
            owed: Owed::default(),
            queued: false,
            deadline: None,
            // Until a call says otherwise.
            readable: true,
            writable: true,
            room_watched: false,
            hung_up: false,
            ended: false,
            deaf: false,
            received: 0,
            forwarded: 0,
            forwarded_told: 0,
            buffer: VecDeque::new(),
            guest_shutdown: 0,
            shutdown_told: 0,
            sent: 0,
            peer_forwarded: 0,
            peer_buffer: 0,
            credit_asked: false,
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Local and peer port: what identifies a connection.
    pub(super) fn ports(&self) -> (u32, u32) {
        (self.local_port, self.peer_port)
    }

    /// True while it holds one of the device's buffers.
    pub(super) fn holds_buffer(&self) -> bool {
        self.buffer.capacity() > 0
    }

    /// True while something waits for room in the socket.
    pub(super) fn needs_room(&self) -> bool {
        !self.writable && !self.deaf
    }

    /// Something happened to the socket.
    pub(super) fn on_host_events(&mut self, events: EventSet) -> Verdict {
        let ended = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        if events.intersects(EventSet::IN | ended) {
            self.readable = true;
        }
        self.hung_up |= events.intersects(ended);
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            if self.state == State::Requested {
                return Verdict::Reset;
            }
            self.go_deaf();
        }
        if events.intersects(EventSet::OUT) {
            self.writable = true;
        }
        self.flush()
    }

    /// True when [`Connection::send`] is worth a receive buffer.
    pub(super) fn wants_to_send(&self) -> bool {
        let Owed { request, response, credit_update } = self.owed;
        request
            || self.state == State::Established
                && (response
                    || credit_update
                    || self.credit_update_due()
                    || self.shutdown_due() != 0
                    || self.can_read() && (self.peer_free() > 0 || !self.credit_asked))
    }

    fn can_read(&self) -> bool {
        self.readable && !self.ended && self.guest_shutdown & shutdown::RECEIVE == 0
    }

    /// Bytes the guest has room for. It may name any numbers: what it lets us owe it is its own memory's trouble.
    fn peer_free(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_buffer.saturating_sub(in_flight)
    }

    /// The guest believes that less than half of our buffer is free, and is wrong.
    fn credit_update_due(&self) -> bool {
        let believed_used = self.received.wrapping_sub(self.forwarded_told);
        self.forwarded != self.forwarded_told && believed_used >= BUFFER_BYTES / 2
    }

    /// Flags of a SHUTDOWN that the guest has not heard of yet.
    fn shutdown_due(&self) -> u32 {
        let mut flags = 0;
        if self.ended {
            flags |= shutdown::SEND;
        }
        if self.deaf {
            flags |= shutdown::RECEIVE;
        }
        if flags & !self.shutdown_told == 0 { 0 } else { flags | self.shutdown_told }
    }

    /// Puts the next packet into `chain`; the bytes written, or `None` when there is nothing to send after all.
    pub(super) fn send(
        &mut self,
        guest_cid: u64,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
    ) -> Option<u32> {
        let (op, flags, len) = self.next_packet(ram, chain)?;
        self.owed.credit_update = false;
        self.forwarded_told = self.forwarded;
        let header = Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.local_port,
            dst_port: self.peer_port,
            len,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: BUFFER_BYTES,
            fwd_cnt: self.forwarded,
        };
        header.write(ram, chain);
        len.checked_add(u32::try_from(HEADER_BYTES).ok()?)
    }

    /// Operation, flags and data length of the next packet, the data being in place.
    fn next_packet(&mut self, ram: &GuestMemoryMmap<()>, chain: &Chain) -> Option<(u16, u32, u32)> {
        if std::mem::take(&mut self.owed.request) {
            return Some((op::REQUEST, 0, 0));
        }
        if self.state == State::Requested {
            return None;
        }
        if std::mem::take(&mut self.owed.response) {
            return Some((op::RESPONSE, 0, 0));
        }
        if self.can_read() && self.peer_free() > 0 {
            let len = self.read(ram, chain);
            if len > 0 {
                self.sent = self.sent.wrapping_add(len);
                return Some((op::RW, 0, len));
            }
        }
        let flags = self.shutdown_due();
        if flags != 0 {
            self.shutdown_told = flags;
            if flags == shutdown::BOTH {
                self.deadline = Instant::now().checked_add(LINGER_TIMEOUT);
            }
            return Some((op::SHUTDOWN, flags, 0));
        }
        if self.can_read() && self.peer_free() == 0 && !self.credit_asked {
            self.credit_asked = true;
            return Some((op::CREDIT_REQUEST, 0, 0));
        }
        if self.owed.credit_update || self.credit_update_due() {
            return Some((op::CREDIT_UPDATE, 0, 0));
        }
        None
    }

    /// Reads from the socket behind the header's place in `chain`, as much as fits buffer and credit.
    fn read(&mut self, ram: &GuestMemoryMmap<()>, chain: &Chain) -> u32 {
        let header = HEADER_BYTES as u64;
        let room = chain.writable_bytes().saturating_sub(header);
        let limit = room.min(self.peer_free().into()).min(PACKET_BYTES_MAX);
        let mut total: u32 = 0;
        for part in parts(chain.writable(), header, limit) {
            for slice in GuestMemoryBackend::get_slices(ram, part.addr, part.len as usize) {
                let Ok(slice) = slice else { return total };
                match receive(&self.stream, &slice) {
                    Ok(0) => {
                        self.ended = true;
                        return total;
                    }
                    Ok(count) => {
                        total = total.saturating_add(u32::try_from(count).unwrap_or(0));
                        if count < slice.len() {
                            // The socket is empty, and says so when it no longer is; only its end may have been said already.
                            self.readable = self.hung_up;
                            return total;
                        }
                    }
                    Err(error) => {
                        self.on_read_error(&error);
                        return total;
                    }
                }
            }
        }
        total
    }

    fn on_read_error(&mut self, error: &io::Error) {
        match transient(error) {
            Some(true) => self.readable = false,
            Some(false) => {}
            None => {
                self.ended = true;
                self.go_deaf();
            }
        }
    }

    /// The guest sent a packet for this connection. `buffers` is the number of buffers in use by all others.
    pub(super) fn receive(
        &mut self,
        header: &Header,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
        buffers: usize,
    ) -> Result<Verdict, Nonsense> {
        self.learn_credit(header);
        match (self.state, header.op) {
            (_, op::RST) => Ok(Verdict::Gone),
            (State::Requested, op::RESPONSE) => Ok(self.establish()),
            (State::Established, op::RW) => self.receive_data(header.len, ram, chain, buffers),
            (State::Established, op::SHUTDOWN) => Ok(self.receive_shutdown(header.flags)),
            (State::Established, op::CREDIT_UPDATE) => Ok(Verdict::Keep),
            (State::Established, op::CREDIT_REQUEST) => {
                self.owed.credit_update = true;
                Ok(Verdict::Keep)
            }
            _ => Err(Nonsense::Request),
        }
    }

    fn learn_credit(&mut self, header: &Header) {
        if (self.peer_buffer, self.peer_forwarded) != (header.buf_alloc, header.fwd_cnt) {
            self.credit_asked = false;
        }
        self.peer_buffer = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
    }

    /// The guest accepted: tell the host program, whose socket is empty so far.
    fn establish(&mut self) -> Verdict {
        self.state = State::Established;
        self.deadline = None;
        let line = format!("OK {}\n", self.local_port);
        match send_bytes(&self.stream, line.as_bytes()) {
            Ok(count) if count == line.len() => Verdict::Keep,
            _ => Verdict::Reset,
        }
    }

    fn receive_shutdown(&mut self, flags: u32) -> Verdict {
        self.guest_shutdown |= flags & shutdown::BOTH;
        if self.guest_shutdown == shutdown::BOTH && self.deadline.is_none() {
            self.deadline = Instant::now().checked_add(LINGER_TIMEOUT);
        }
        if flags & shutdown::RECEIVE != 0 {
            // The host program learns from its next write. If the socket is closed already there is nobody to tell.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.finish_writing()
    }

    /// Once everything is written out, passes the guest's end of sending on.
    fn finish_writing(&mut self) -> Verdict {
        if self.guest_shutdown & shutdown::SEND == 0 || !self.buffer.is_empty() {
            return Verdict::Keep;
        }
        if self.guest_shutdown == shutdown::BOTH {
            return Verdict::Reset;
        }
        let _ = self.stream.shutdown(Shutdown::Write);
        Verdict::Keep
    }

    fn receive_data(
        &mut self,
        len: u32,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
        buffers: usize,
    ) -> Result<Verdict, Nonsense> {
        let waiting = self.received.wrapping_sub(self.forwarded);
        let credit = BUFFER_BYTES.saturating_sub(waiting);
        if len > credit || self.guest_shutdown & shutdown::SEND != 0 {
            return Err(Nonsense::Length);
        }
        self.received = self.received.wrapping_add(len);
        let written = self.write(len, ram, chain);
        self.forwarded = self.forwarded.wrapping_add(written);
        let rest = len.saturating_sub(written);
        if rest == 0 {
            return Ok(Verdict::Keep);
        }
        if self.buffer.capacity() == 0 {
            if buffers >= BUFFERS_MAX {
                return Ok(Verdict::Reset);
            }
            self.buffer.reserve_exact(BUFFER_BYTES as usize);
        }
        self.store(written, rest, ram, chain);
        Ok(Verdict::Keep)
    }

    /// Writes what the socket takes of the packet's `len` bytes; how many it took or needs no more.
    fn write(&mut self, len: u32, ram: &GuestMemoryMmap<()>, chain: &Chain) -> u32 {
        let mut total: u32 = 0;
        if !self.buffer.is_empty() {
            return 0;
        }
        for part in parts(chain.readable(), HEADER_BYTES as u64, len.into()) {
            for slice in GuestMemoryBackend::get_slices(ram, part.addr, part.len as usize) {
                let Ok(mut slice) = slice else { return total };
                while !slice.is_empty() {
                    if self.deaf {
                        return len;
                    }
                    if !self.writable {
                        return total;
                    }
                    match send(&self.stream, &slice) {
                        Ok(count) => {
                            total = total.saturating_add(u32::try_from(count).unwrap_or(0));
                            match slice.offset(count) {
                                Ok(rest) => slice = rest,
                                Err(_) => return total,
                            }
                        }
                        Err(error) => match transient(&error) {
                            Some(true) => self.writable = false,
                            Some(false) => {}
                            None => self.go_deaf(),
                        },
                    }
                }
            }
        }
        total
    }

    /// Copies `len` bytes of the packet, from its byte `from` on, behind what waits already.
    fn store(&mut self, from: u32, len: u32, ram: &GuestMemoryMmap<()>, chain: &Chain) {
        let mut piece = [0; 4096];
        let start = u64::from(from).saturating_add(HEADER_BYTES as u64);
        let mut done: usize = 0;
        while let Some(left) = (len as usize).checked_sub(done).filter(|&left| left > 0) {
            let (now, _) = piece.split_at_mut(left.min(4096));
            if !chain.read_at(ram, start.saturating_add(done as u64), now) {
                return;
            }
            self.buffer.extend(&*now);
            done = done.saturating_add(now.len());
        }
    }

    /// Writes out what waits in the buffer, and lets go of the buffer when it is empty.
    fn flush(&mut self) -> Verdict {
        while self.writable && !self.buffer.is_empty() && !self.deaf {
            let (front, _) = self.buffer.as_slices();
            match send_bytes(&self.stream, front) {
                Ok(count) => {
                    self.buffer.drain(..count.min(front.len()));
                    let count = u32::try_from(count).unwrap_or(0);
                    self.forwarded = self.forwarded.wrapping_add(count);
                }
                Err(error) => match transient(&error) {
                    Some(true) => self.writable = false,
                    Some(false) => {}
                    None => self.go_deaf(),
                },
            }
        }
        if self.deaf {
            self.forwarded = self.received;
            self.buffer.clear();
        }
        if !self.buffer.is_empty() {
            return Verdict::Keep;
        }
        if self.buffer.capacity() > 0 {
            self.buffer = VecDeque::new();
            return self.finish_writing();
        }
        Verdict::Keep
    }

    fn go_deaf(&mut self) {
        self.deaf = true;
    }
}

/// `Some(true)`: try when the socket is ready; `Some(false)`: try at once; `None`: it is over.
fn transient(error: &io::Error) -> Option<bool> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Some(true),
        io::ErrorKind::Interrupted => Some(false),
        _ => None,
    }
}
