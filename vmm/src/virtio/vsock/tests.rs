//! The socket device between a fake driver and real Unix sockets.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that panics has found something"
)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::limits::{
    BUFFER_BYTES, BUFFERS_MAX, CONNECTIONS_MAX, HANDSHAKES_MAX, HOST_PORT_FIRST, REPLIES_MAX,
};
use super::packet::{HEADER_BYTES, Header, op, shutdown};
use super::*;
use crate::virtio::driver::{Buffer, DATA, GuestDriver, HIGH, TURNS_MAX, ram, readable, writable};

const CID: u64 = 42;
const RX_BYTES: u32 = 4096;
const TX_AT: u64 = HIGH;
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
/// What the guest of these tests has room for, on each connection.
const GUEST_BUFFER: u32 = 64 << 10;

struct Rig {
    driver: GuestDriver,
    folder: tempfile::TempDir,
    /// Receive buffers by head, as long as the device has them.
    posted: usize,
}

impl Rig {
    fn new() -> Self {
        Self::with_ports(Vec::new())
    }

    fn with_ports(ports: Vec<(u32, OwnedFd)>) -> Self {
        let mut rig = Self::without_buffers(ports);
        rig.post(64);
        rig
    }

    fn without_buffers(ports: Vec<(u32, OwnedFd)>) -> Self {
        Self::with_features(ports, VERSION_1)
    }

    fn with_features(ports: Vec<(u32, OwnedFd)>, features: u64) -> Self {
        Self::telling_within(limits::TAKEN_TOLD_WITHIN, ports, features)
    }

    /// A device that never tells of taken packets only because time passes.
    fn patient(features: u64) -> Self {
        let mut rig = Self::telling_within(Duration::from_secs(3600), Vec::new(), features);
        rig.post(64);
        rig
    }

    fn telling_within(tell_within: Duration, ports: Vec<(u32, OwnedFd)>, features: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().join("v.sock"));
        let spec = VsockSpec { guest_cid: 42, path, ports };
        let ram = ram().unwrap();
        let device = Vsock { tell_within, ..Vsock::new(spec).unwrap() };
        let mut driver = GuestDriver::new(Box::new(device), ram).unwrap();
        assert!(driver.start(features));
        assert!(driver.run(0) > 0);
        Rig { driver, folder, posted: 0 }
    }

    /// Makes `count` receive buffers available.
    fn post(&mut self, count: usize) {
        for _ in 0..count {
            let at = DATA + (self.posted % 64) as u64 * u64::from(RX_BYTES);
            self.driver.offer(RX, &[writable(at, RX_BYTES)]);
            self.posted += 1;
        }
        self.driver.kick_if_wanted(RX, u16::try_from(count).unwrap());
        self.work();
    }

    /// Has the device deal with all there is to do. It must come to rest.
    fn work(&self) {
        assert!(self.driver.run(0) < TURNS_MAX, "the worker never sleeps");
    }

    fn host_ready(&self) -> bool {
        self.driver.run(0) > 0
    }

    /// Waits for something to happen on the host's side, and has the device deal with it.
    fn wait_host(&self) {
        let turns = self.driver.run(10_000);
        assert!(turns > 0, "the host's side stays silent");
        assert!(turns < TURNS_MAX, "the worker never sleeps");
    }

    fn send_raw(&mut self, buffers: &[Buffer]) {
        self.driver.offer(TX, buffers);
        self.driver.kick_if_wanted(TX, 1);
        self.work();
        while self.driver.used(TX).is_some() {}
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        self.driver.write(TX_AT, &header.to_bytes());
        self.driver.write(TX_AT + 64, data);
        let len = u32::try_from(data.len()).unwrap();
        self.send_raw(&[readable(TX_AT, 44), readable(TX_AT + 64, len)]);
    }

    /// The packets that came in since; their buffers go back.
    fn packets(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        while let Some((head, len)) = self.driver.used(RX) {
            let at = DATA + u64::from(head) * u64::from(RX_BYTES);
            let bytes = self.driver.read(at, len as usize);
            let header = Header::from_bytes(bytes[..HEADER_BYTES].try_into().unwrap());
            assert_eq!(header.len as usize, bytes.len() - HEADER_BYTES);
            assert_eq!((header.src_cid, header.dst_cid, header.kind), (2, CID, 1));
            packets.push((header, bytes[HEADER_BYTES..].to_vec()));
        }
        if !packets.is_empty() {
            self.post(packets.len());
        }
        packets
    }

    fn one_packet(&mut self) -> (Header, Vec<u8>) {
        let mut packets = self.packets();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    /// The operations and ports of the packets that came in since.
    fn operations(&mut self) -> Vec<(u16, u32, u32)> {
        self.packets().iter().map(|(it, _)| (it.op, it.src_port, it.dst_port)).collect()
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("v.sock_{port}"))).unwrap()
    }

    /// A host program's socket, connected to the device.
    fn dial(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("v.sock")).unwrap()
    }

    /// A host program that asked for `port` and a guest that accepted: the program's socket and our side's port.
    fn established_from_host(&mut self, port: u32) -> (UnixStream, u32) {
        let mut stream = self.dial();
        writeln!(stream, "CONNECT {port}").unwrap();
        self.wait_host();
        let (request, _) = self.one_packet();
        assert_eq!((request.op, request.dst_port), (op::REQUEST, port));
        self.send(reply(&request, op::RESPONSE), &[]);
        let mut line = vec![0; format!("OK {}\n", request.src_port).len()];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", request.src_port).into_bytes());
        (stream, request.src_port)
    }

    /// A guest that connected from `from` to `port`, where a host program listens: the program's socket.
    fn established_from_guest(&mut self, from: u32, port: u32) -> UnixStream {
        let listener = self.listen(port);
        self.send(packet(from, port, op::REQUEST), &[]);
        assert_eq!(self.operations(), [(op::RESPONSE, port, from)]);
        listener.accept().unwrap().0
    }
}

/// A packet from the guest, with its credit.
fn packet(src_port: u32, dst_port: u32, op: u16) -> Header {
    Header {
        src_cid: CID,
        dst_cid: 2,
        src_port,
        dst_port,
        kind: 1,
        op,
        buf_alloc: GUEST_BUFFER,
        ..Header::default()
    }
}

fn data(src_port: u32, dst_port: u32, len: usize) -> Header {
    Header { len: u32::try_from(len).unwrap(), ..packet(src_port, dst_port, op::RW) }
}

fn reply(to: &Header, op: u16) -> Header {
    packet(to.dst_port, to.src_port, op)
}

#[test]
fn the_configuration_is_the_context_id() {
    let rig = Rig::new();
    let mut bytes = [0; 8];
    rig.driver.config(0, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), CID);
}

#[test]
fn reserved_context_ids_long_paths_and_paths_in_use_are_refused() {
    for guest_cid in [0, 1, 2, u32::MAX] {
        let error = Vsock::new(VsockSpec { guest_cid, path: None, ports: vec![] }).unwrap_err();
        assert!(matches!(error, VsockError::Cid(it) if it == guest_cid));
    }
    let path = Some(PathBuf::from(format!("/tmp/{}", "x".repeat(92))));
    let error = Vsock::new(VsockSpec { guest_cid: 3, path, ports: vec![] }).unwrap_err();
    assert!(matches!(error, VsockError::PathTooLong { max: 96, .. }), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let spec = || VsockSpec { guest_cid: 3, path: Some(path.clone()), ports: vec![] };
    let first = Vsock::new(spec()).unwrap();
    assert!(matches!(Vsock::new(spec()).unwrap_err(), VsockError::Listen { .. }));
    drop(first);
    assert!(!path.exists());
}

#[test]
fn a_guest_reaches_a_listener_and_bytes_flow_both_ways() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    rig.send(data(1000, 80, 5), b"hello");
    let mut bytes = [0; 5];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    host.write_all(b"good day").unwrap();
    rig.wait_host();
    let (header, bytes) = rig.one_packet();
    assert_eq!((header.op, header.src_port, header.dst_port), (op::RW, 80, 1000));
    assert_eq!((header.buf_alloc, header.fwd_cnt), (BUFFER_BYTES, 5));
    assert_eq!(bytes, b"good day");
    assert_eq!(rig.driver.device().counts(), Default::default());
}

#[test]
fn data_may_come_in_one_buffer_with_its_header_or_in_many() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    rig.driver.write(TX_AT, &data(1000, 80, 6).to_bytes());
    rig.driver.write(TX_AT + 44, b"abcdef");
    rig.send_raw(&[readable(TX_AT, 50)]);
    rig.send_raw(&[
        readable(TX_AT, 20),
        readable(TX_AT + 20, 25),
        readable(TX_AT + 45, 2),
        readable(TX_AT + 47, 3),
    ]);
    let mut bytes = [0; 12];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdefabcdef");
}

#[test]
fn a_given_descriptor_serves_the_first_connection_to_its_port_only() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut rig = Rig::with_ports(vec![(1024, OwnedFd::from(theirs))]);
    rig.send(packet(1, 1024, op::REQUEST), &[]);
    assert_eq!(rig.operations(), [(op::RESPONSE, 1024, 1)]);
    (&ours).write_all(b"x").unwrap();
    rig.wait_host();
    assert_eq!(rig.one_packet().1, b"x");
    rig.send(packet(2, 1024, op::REQUEST), &[]);
    assert_eq!(rig.operations(), [(op::RST, 1024, 2)]);
}

#[test]
fn a_port_nobody_listens_on_is_refused() {
    let mut rig = Rig::new();
    rig.send(packet(7, 81, op::REQUEST), &[]);
    assert_eq!(rig.operations(), [(op::RST, 81, 7)]);
}

#[test]
fn a_host_program_reaches_the_guest() {
    let mut rig = Rig::new();
    let (mut stream, port) = rig.established_from_host(52);
    assert!(port >= HOST_PORT_FIRST);
    stream.write_all(b"ping").unwrap();
    rig.wait_host();
    let (header, bytes) = rig.one_packet();
    assert_eq!((header.op, header.src_port, header.dst_port), (op::RW, port, 52));
    assert_eq!(bytes, b"ping");
    rig.send(data(52, port, 4), b"pong");
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pong");
}

#[test]
fn bytes_right_behind_the_connect_line_belong_to_the_stream() {
    let mut rig = Rig::new();
    let mut stream = rig.dial();
    stream.write_all(b"CONNECT 52\nearly").unwrap();
    rig.wait_host();
    let (request, _) = rig.one_packet();
    rig.send(reply(&request, op::RESPONSE), &[]);
    let (header, bytes) = rig.one_packet();
    assert_eq!((header.op, bytes.as_slice()), (op::RW, &b"early"[..]));
}

#[test]
fn a_connect_line_may_come_in_pieces() {
    let mut rig = Rig::new();
    let mut stream = rig.dial();
    for piece in ["CON", "NECT 4", "2949"] {
        stream.write_all(piece.as_bytes()).unwrap();
        rig.wait_host();
        assert_eq!(rig.operations(), []);
    }
    stream.write_all(b"67295\n").unwrap();
    rig.wait_host();
    assert_eq!(rig.one_packet().0.dst_port, u32::MAX);
}

#[test]
fn a_guest_that_refuses_closes_the_host_programs_socket() {
    let mut rig = Rig::new();
    let mut stream = rig.dial();
    stream.write_all(b"CONNECT 52\n").unwrap();
    rig.wait_host();
    let (request, _) = rig.one_packet();
    rig.send(reply(&request, op::RST), &[]);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(rig.operations(), []);
}

#[test]
fn connect_lines_that_make_no_sense_are_hung_up_on() {
    for line in [
        "\n",
        "CONNECT\n",
        "CONNECT \n",
        "connect 5\n",
        "CONNECT -5\n",
        "CONNECT +5\n",
        "CONNECT 5 \n",
        "CONNECT 5\r\n",
        "CONNECT 4294967296\n",
        "CONNECT 00000000000052\n",
        "GET / HTTP/1.1\r\n",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ] {
        let mut rig = Rig::new();
        let mut stream = rig.dial();
        stream.write_all(line.as_bytes()).unwrap();
        rig.wait_host();
        // End of file, or ECONNRESET because some of the line was never read.
        assert!(!matches!(stream.read(&mut [0; 8]), Ok(1..)), "{line:?}");
        assert_eq!(rig.operations(), [], "{line:?}");
    }
}

#[test]
fn a_host_program_that_ends_its_sending_can_still_receive() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    host.write_all(b"last words").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    rig.wait_host();
    let packets = rig.packets();
    assert_eq!(packets[0].1, b"last words");
    assert_eq!((packets[1].0.op, packets[1].0.flags), (op::SHUTDOWN, shutdown::SEND));
    assert_eq!(packets.len(), 2);
    rig.send(data(1000, 80, 6), b"answer");
    let end = Header { flags: shutdown::BOTH, ..packet(1000, 80, op::SHUTDOWN) };
    rig.send(end, &[]);
    assert_eq!(rig.operations(), [(op::RST, 80, 1000)]);
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"answer");
}

#[test]
fn a_guest_that_ends_its_sending_can_still_receive() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    rig.send(data(1000, 80, 3), b"ask");
    let end = Header { flags: shutdown::SEND, ..packet(1000, 80, op::SHUTDOWN) };
    rig.send(end, &[]);
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"ask");
    host.write_all(b"tell").unwrap();
    rig.wait_host();
    assert_eq!(rig.one_packet().1, b"tell");
    drop(host);
    rig.wait_host();
    let (header, _) = rig.one_packet();
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, shutdown::BOTH));
    rig.send(packet(1000, 80, op::RST), &[]);
    assert_eq!(rig.operations(), []);
    // The ports are free again.
    rig.send(packet(1000, 81, op::REQUEST), &[]);
    assert_eq!(rig.operations(), [(op::RST, 81, 1000)]);
}

#[test]
fn a_host_program_that_goes_away_delivers_what_it_wrote_first() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    host.write_all(&[7; 10_000]).unwrap();
    drop(host);
    rig.wait_host();
    let packets = rig.packets();
    let bytes: usize = packets.iter().map(|(_, data)| data.len()).sum();
    assert_eq!(bytes, 10_000);
    let (last, _) = packets.last().unwrap();
    assert_eq!((last.op, last.flags), (op::SHUTDOWN, shutdown::BOTH));
    // What the guest sent meanwhile is thrown away, and costs it no credit.
    let piece = vec![1; 50_000];
    for _ in 0..20 {
        rig.send(data(1000, 80, piece.len()), &piece);
        assert!(rig.operations().iter().all(|&(it, ..)| it == op::CREDIT_UPDATE));
    }
}

#[test]
fn packets_for_nobody_are_answered_with_reset() {
    for operation in
        [op::RESPONSE, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 0, 8, 0xffff]
    {
        let mut rig = Rig::new();
        rig.send(packet(9, 10, operation), &[]);
        assert_eq!(rig.operations(), [(op::RST, 10, 9)], "operation {operation}");
    }
    let mut rig = Rig::new();
    rig.send(packet(9, 10, op::RST), &[]);
    assert_eq!(rig.operations(), []);
}

#[test]
fn packets_of_other_context_ids_are_dropped_and_other_types_reset() {
    let mut rig = Rig::new();
    for (src_cid, dst_cid) in [(41, 2), (CID, 3), (CID, 0), (u64::MAX, 2), (CID | 1 << 32, 2)] {
        rig.send(Header { src_cid, dst_cid, ..packet(9, 10, op::REQUEST) }, &[]);
        assert_eq!(rig.operations(), []);
    }
    assert_eq!(rig.driver.device().counts().requests, 5);
    for kind in [0, 2, 0xffff] {
        rig.send(Header { kind, ..packet(9, 10, op::REQUEST) }, &[]);
        assert_eq!(rig.operations(), [(op::RST, 10, 9)]);
    }
}

#[test]
fn packets_that_lie_about_their_length_are_reset() {
    for len in [6, 4097, 65_537, u32::MAX] {
        let mut rig = Rig::new();
        let _host = rig.established_from_guest(1000, 80);
        rig.send(Header { len, ..data(1000, 80, 5) }, b"hello");
        assert_eq!(rig.operations(), [(op::RST, 80, 1000)], "{len}");
        assert_eq!(rig.driver.device().counts().requests, 1);
    }
    let mut rig = Rig::new();
    rig.driver.write(TX_AT, &packet(1, 2, op::REQUEST).to_bytes());
    rig.send_raw(&[readable(TX_AT, 43)]);
    rig.send_raw(&[writable(TX_AT, 44)]);
    assert_eq!(rig.operations(), []);
    assert_eq!(rig.driver.device().counts().requests, 2);
}

#[test]
fn packets_that_do_not_fit_the_connection_reset_it() {
    for operation in [op::REQUEST, op::RESPONSE, 0, 8] {
        let mut rig = Rig::new();
        let mut host = rig.established_from_guest(1000, 80);
        rig.send(packet(1000, 80, operation), &[]);
        assert_eq!(rig.operations(), [(op::RST, 80, 1000)], "operation {operation}");
        assert_eq!(host.read(&mut [0; 1]).unwrap(), 0);
    }
    // Data before the connection stands, and after the guest said that there would be none.
    let mut rig = Rig::new();
    let mut stream = rig.dial();
    stream.write_all(b"CONNECT 52\n").unwrap();
    rig.wait_host();
    let (request, _) = rig.one_packet();
    rig.send(data(52, request.src_port, 1), b"x");
    assert_eq!(rig.operations(), [(op::RST, request.src_port, 52)]);
    let mut rig = Rig::new();
    let _host = rig.established_from_guest(1000, 80);
    let end = Header { flags: shutdown::SEND, ..packet(1000, 80, op::SHUTDOWN) };
    rig.send(end, &[]);
    rig.send(data(1000, 80, 1), b"x");
    assert_eq!(rig.operations(), [(op::RST, 80, 1000)]);
}

#[test]
fn the_guest_gets_no_more_than_its_credit() {
    let mut rig = Rig::new();
    let listener = rig.listen(80);
    rig.send(Header { buf_alloc: 100, ..packet(1000, 80, op::REQUEST) }, &[]);
    let (mut host, _) = listener.accept().unwrap();
    rig.packets();
    host.write_all(&[1; 250]).unwrap();
    rig.wait_host();
    let packets = rig.packets();
    assert_eq!(packets[0].1.len(), 100);
    // It asks once, and waits.
    assert_eq!(packets[1].0.op, op::CREDIT_REQUEST);
    assert_eq!(packets.len(), 2);
    rig.work();
    assert!(!rig.host_ready());
    assert_eq!(rig.operations(), []);
    let credit =
        |fwd_cnt| Header { buf_alloc: 100, fwd_cnt, ..packet(1000, 80, op::CREDIT_UPDATE) };
    rig.send(credit(60), &[]);
    assert_eq!(rig.packets()[0].1.len(), 60);
    // A guest that takes credit back, or invents it, hurts itself only.
    rig.send(Header { buf_alloc: 0, ..credit(160) }, &[]);
    rig.send(credit(10_000), &[]);
    rig.send(credit(160), &[]);
    let rest: usize = rig.packets().iter().map(|(_, data)| data.len()).sum();
    assert_eq!(rest, 90);
}

#[test]
fn a_slow_host_program_stops_the_guest_and_gets_every_byte() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    let mut sent: u32 = 0;
    let mut forwarded: u32 = 0;
    // The socket takes some, the buffer takes the rest of the credit, and then no more credit comes.
    loop {
        let free = BUFFER_BYTES - (sent - forwarded);
        let len = free.min(60_000) as usize;
        if len == 0 {
            break;
        }
        let bytes: Vec<_> = (sent as usize..sent as usize + len).map(pattern).collect();
        rig.send(data(1000, 80, len), &bytes);
        sent += u32::try_from(len).unwrap();
        for (header, _) in rig.packets() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.fwd_cnt;
        }
        assert!(sent < 16 << 20, "nothing stops the guest");
    }
    let end = Header { flags: shutdown::SEND, ..packet(1000, 80, op::SHUTDOWN) };
    rig.send(end, &[]);
    assert_eq!(rig.operations(), []);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).unwrap();
        (host, bytes)
    });
    while !reader.is_finished() {
        rig.driver.run(10);
    }
    let (_host, bytes) = reader.join().unwrap();
    rig.packets();
    let end = Header { flags: shutdown::RECEIVE, ..packet(1000, 80, op::SHUTDOWN) };
    rig.send(end, &[]);
    assert_eq!(rig.operations(), [(op::RST, 80, 1000)]);
    assert_eq!(bytes.len(), sent as usize);
    assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == pattern(i)));
}

#[test]
fn data_beyond_the_credit_resets_the_connection() {
    let mut rig = Rig::new();
    let _host = rig.established_from_guest(1000, 80);
    let piece = vec![3; 64 << 10];
    for _ in 0..1000 {
        rig.send(data(1000, 80, piece.len()), &piece);
        if rig.operations().contains(&(op::RST, 80, 1000)) {
            return;
        }
    }
    panic!("the host took more than it has room for");
}

#[test]
fn a_credit_request_is_answered() {
    let mut rig = Rig::new();
    let _host = rig.established_from_guest(1000, 80);
    rig.send(packet(1000, 80, op::CREDIT_REQUEST), &[]);
    let (header, _) = rig.one_packet();
    assert_eq!((header.op, header.buf_alloc), (op::CREDIT_UPDATE, BUFFER_BYTES));
}

#[test]
fn a_storm_of_connections_meets_a_limit_and_leaves_room_for_the_host() {
    let mut rig = Rig::new();
    // Its backlog holds 128; the rest is refused without waiting.
    let listener = rig.listen(80);
    let acceptor = thread::spawn(move || {
        listener.incoming().take(CONNECTIONS_MAX - HANDSHAKES_MAX).map(Result::unwrap).collect()
    });
    let (mut accepted, mut refused) = (0, 0);
    let mut port = 0;
    while accepted < CONNECTIONS_MAX - HANDSHAKES_MAX {
        port += 1;
        rig.send(packet(port, 80, op::REQUEST), &[]);
        match rig.operations()[..] {
            [(op::RESPONSE, 80, to)] if to == port => accepted += 1,
            [(op::RST, 80, to)] if to == port => {
                refused += 1;
                thread::yield_now();
            }
            ref other => panic!("{other:?}"),
        }
        assert!(refused < 10_000_000);
    }
    let streams: Vec<UnixStream> = acceptor.join().unwrap();
    let full = port + 1;
    for port in full..full + 100 {
        rig.send(packet(port, 80, op::REQUEST), &[]);
        assert_eq!(rig.operations(), [(op::RST, 80, port)]);
    }
    rig.established_from_host(52);
    drop(streams);
}

#[test]
fn host_programs_that_say_nothing_wait_in_line_and_others_pass_when_they_leave() {
    let mut rig = Rig::new();
    let mut silent: Vec<_> = (0..HANDSHAKES_MAX).map(|_| rig.dial()).collect();
    let mut late = rig.dial();
    late.write_all(b"CONNECT 52\n").unwrap();
    rig.wait_host();
    assert_eq!(rig.operations(), []);
    assert!(!rig.host_ready(), "a full table must not keep the loop awake");
    drop(silent.pop());
    rig.wait_host();
    assert_eq!(rig.one_packet().0.dst_port, 52);
}

#[test]
fn replies_nobody_collects_stop_the_intake_and_nothing_is_lost() {
    let mut rig = Rig::without_buffers(Vec::new());
    rig.driver.write(TX_AT, &packet(9, 10, op::RW).to_bytes());
    let total = REPLIES_MAX + 40;
    let mut used = 0;
    for _ in 0..total.div_ceil(64) {
        for _ in 0..64.min(total - used) {
            rig.driver.offer(TX, &[readable(TX_AT, 44)]);
        }
        rig.driver.kick(TX);
        rig.work();
        while rig.driver.used(TX).is_some() {
            used += 1;
        }
    }
    assert_eq!(used, REPLIES_MAX);
    rig.work();
    assert_eq!(rig.driver.used(TX), None);
    // For every reply that the guest collects one more packet is taken.
    rig.post(10);
    while rig.driver.used(TX).is_some() {
        used += 1;
    }
    assert_eq!(used, REPLIES_MAX + 10);
    let mut resets = 0;
    rig.post(54);
    for _ in 0..10 {
        resets += rig.packets().len();
        while rig.driver.used(TX).is_some() {
            used += 1;
        }
    }
    assert_eq!((resets, used), (total, total));
}

#[test]
fn receive_buffers_too_small_for_data_come_back_unused() {
    let mut rig = Rig::without_buffers(Vec::new());
    rig.driver.offer(RX, &[writable(DATA, 44)]);
    rig.driver.offer(RX, &[readable(DATA, 100)]);
    rig.driver.offer(RX, &[writable(DATA, 45)]);
    rig.driver.write(TX_AT, &packet(9, 10, op::RW).to_bytes());
    rig.send_raw(&[readable(TX_AT, 44)]);
    assert_eq!(rig.driver.used(RX), Some((0, 0)));
    assert_eq!(rig.driver.used(RX), Some((1, 0)));
    assert_eq!(rig.driver.used(RX), Some((2, 44)));
}

#[test]
fn a_reset_ends_all_connections_and_the_next_driver_starts_afresh() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    let mut waiting = rig.dial();
    rig.wait_host();
    rig.driver.set(0x70, 0);
    rig.work();
    assert_eq!(host.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(waiting.read(&mut [0; 1]).unwrap(), 0);
    // A program that comes while there is no driver waits for one, without keeping the loop awake.
    let mut early = rig.dial();
    early.write_all(b"CONNECT 52\n").unwrap();
    rig.work();
    assert!(!rig.host_ready());
    assert!(rig.driver.start(1 << 32));
    rig.work();
    rig.posted = 0;
    rig.post(64);
    rig.work();
    assert_eq!(rig.one_packet().0.dst_port, 52);
}

#[test]
fn a_broken_ring_does_not_let_the_host_keep_the_worker_awake() {
    let mut rig = Rig::new();
    let mut host = rig.established_from_guest(1000, 80);
    rig.driver.set_available_index(TX, 0xff27);
    rig.driver.kick(TX);
    rig.work();
    assert_eq!(rig.driver.status() & 64, 64);
    assert_eq!(host.read(&mut [0; 1]).unwrap(), 0);
    let _waiting = rig.dial();
    rig.work();
    assert!(!rig.host_ready());
}

#[test]
fn no_connection_starves_another() {
    let mut rig = Rig::without_buffers(Vec::new());
    let listener = rig.listen(80);
    let hosts: Vec<_> = (0..8)
        .map(|from| {
            rig.send(packet(from, 80, op::REQUEST), &[]);
            listener.accept().unwrap().0
        })
        .collect();
    rig.post(8);
    assert_eq!(rig.operations().len(), 8);
    // `packets` gave the buffers back.
    for mut host in &hosts {
        host.write_all(&[1; 30_000]).unwrap();
    }
    rig.wait_host();
    let mut turns: Vec<_> = rig.packets().iter().map(|(it, _)| it.dst_port).collect();
    turns.sort_unstable();
    assert_eq!(turns, [0, 1, 2, 3, 4, 5, 6, 7]);
}

/// A byte of the stream at `index`.
fn pattern(index: usize) -> u8 {
    (index.wrapping_mul(31) ^ (index >> 8) ^ (index >> 16)).to_le_bytes()[0]
}

#[test]
fn ten_megabytes_are_echoed_unchanged() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let mut rig = Rig::with_features(Vec::new(), features);
        rig.post(64);
        echo_ten_megabytes(rig);
    }
}

fn echo_ten_megabytes(mut rig: Rig) {
    const TOTAL: usize = 10 << 20;
    let host = rig.established_from_guest(1000, 80);
    let echo = thread::spawn(move || std::io::copy(&mut &host, &mut &host).unwrap());
    let (mut sent, mut got) = (0usize, 0usize);
    let (mut their_buffer, mut their_forwarded) = (BUFFER_BYTES, 0u32);
    let mut idle = 0;
    while got < TOTAL {
        let in_flight = u32::try_from(sent).unwrap().wrapping_sub(their_forwarded);
        let free = their_buffer.saturating_sub(in_flight) as usize;
        let len = free.min(TOTAL - sent).min(50_000);
        let fwd_cnt = u32::try_from(got).unwrap();
        if len > 0 {
            let bytes: Vec<_> = (sent..sent + len).map(pattern).collect();
            rig.send(Header { fwd_cnt, ..data(1000, 80, len) }, &bytes);
            sent += len;
        }
        let packets = rig.packets();
        let quiet = packets.is_empty() && len == 0;
        for (header, bytes) in packets {
            (their_buffer, their_forwarded) = (header.buf_alloc, header.fwd_cnt);
            for (i, &byte) in bytes.iter().enumerate() {
                assert_eq!(byte, pattern(got + i));
            }
            got += bytes.len();
            if header.op == op::CREDIT_REQUEST || bytes.len() > 4000 {
                let fwd_cnt = u32::try_from(got).unwrap();
                rig.send(Header { fwd_cnt, ..packet(1000, 80, op::CREDIT_UPDATE) }, &[]);
            }
        }
        if quiet {
            idle += 1;
            rig.wait_host();
        }
    }
    assert!(idle < 100_000);
    let end = Header { flags: shutdown::BOTH, ..packet(1000, 80, op::SHUTDOWN) };
    rig.send(end, &[]);
    assert_eq!(echo.join().unwrap(), TOTAL as u64);
    assert_eq!(rig.driver.device().counts(), Default::default());
}

#[test]
fn buffers_are_counted_and_freed() {
    let mut rig = Rig::new();
    let listener = rig.listen(80);
    let piece = vec![3; 64 << 10];
    let mut hosts = Vec::new();
    let mut reset = 0;
    for from in 0..u32::try_from(BUFFERS_MAX).unwrap() + 5 {
        rig.send(packet(from, 80, op::REQUEST), &[]);
        assert_eq!(rig.operations(), [(op::RESPONSE, 80, from)]);
        hosts.push(listener.accept().unwrap().0);
        // Until the socket is full and a byte waits in a buffer: no credit update comes any more.
        loop {
            rig.send(data(from, 80, piece.len()), &piece);
            match rig.operations()[..] {
                [(op::CREDIT_UPDATE, 80, _)] => {}
                [] => break,
                [(op::RST, 80, _)] => {
                    reset += 1;
                    break;
                }
                ref other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(reset, 5);
    // One program reads all it has: its connection lets go of the buffer, and another one may have it.
    let host = &mut hosts[0];
    host.set_nonblocking(true).unwrap();
    let mut sink = vec![0; 1 << 20];
    while host.read(&mut sink).is_ok() {
        rig.work();
    }
    rig.work();
    while host.read(&mut sink).is_ok() {}
    assert!(matches!(rig.operations()[..], [(op::CREDIT_UPDATE, 80, 0), ..]));
    rig.send(packet(999, 80, op::REQUEST), &[]);
    rig.packets();
    let _last = listener.accept().unwrap();
    fill(&mut rig, 999);
    // So do connections that end: all but the last one, and others take their places.
    for from in 1..u32::try_from(BUFFERS_MAX).unwrap() {
        rig.send(packet(from, 80, op::RST), &[]);
    }
    for from in 1..u32::try_from(BUFFERS_MAX).unwrap() {
        rig.send(packet(from, 80, op::REQUEST), &[]);
        assert_eq!(rig.operations(), [(op::RESPONSE, 80, from)]);
        hosts.push(listener.accept().unwrap().0);
        fill(&mut rig, from);
    }
}

/// Sends on a connection until bytes wait in its buffer.
fn fill(rig: &mut Rig, from: u32) {
    let piece = vec![3; 64 << 10];
    loop {
        rig.send(data(from, 80, piece.len()), &piece);
        match rig.operations()[..] {
            [(op::CREDIT_UPDATE, 80, to)] if to == from => {}
            [] => break,
            ref other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_waits_for_a_host_program_that_goes_away_is_thrown_away() {
    let mut rig = Rig::new();
    let host = rig.established_from_guest(1000, 80);
    fill(&mut rig, 1000);
    drop(host);
    rig.wait_host();
    let (last, _) = rig.packets().pop().unwrap();
    assert_eq!((last.op, last.flags), (op::SHUTDOWN, shutdown::BOTH));
    let piece = vec![3; 64 << 10];
    for _ in 0..4 {
        rig.send(data(1000, 80, piece.len()), &piece);
        assert!(rig.operations().iter().all(|&(it, ..)| it == op::CREDIT_UPDATE));
    }
}

#[test]
fn silence_is_given_up_on_in_time() {
    let mut rig = Rig::new();
    let mut silent = rig.dial();
    let mut unanswered = rig.dial();
    unanswered.write_all(b"CONNECT 52\n").unwrap();
    rig.wait_host();
    let (request, _) = rig.one_packet();
    // The timer is the only thing that can happen: it ends both.
    let mut ended = 0;
    while ended == 0 {
        rig.wait_host();
        ended = rig.operations().len();
    }
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(unanswered.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(request.dst_port, 52);
    rig.send(reply(&request, op::RESPONSE), &[]);
    assert_eq!(rig.operations(), [(op::RST, request.src_port, 52)]);
}

#[test]
fn a_guest_that_never_confirms_an_end_is_reset_in_time() {
    let mut rig = Rig::new();
    drop(rig.established_from_guest(1000, 80));
    rig.wait_host();
    let (header, _) = rig.one_packet();
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, shutdown::BOTH));
    // The first time it may only be that the guest's request was taken.
    let mut operations = Vec::new();
    while operations.is_empty() {
        rig.wait_host();
        operations = rig.operations();
    }
    assert_eq!(operations, [(op::RST, 80, 1000)]);
}

/// A guest with a connection to a host program, told of all it sent so far: the program's socket.
fn told_and_connected(rig: &mut Rig) -> UnixStream {
    let stream = rig.established_from_guest(1000, 80);
    rig.driver.interrupts();
    stream
}

impl Rig {
    /// Offers a packet of one byte of data in `descriptors` descriptors.
    fn offer_packet(&mut self, descriptors: u64) {
        self.driver.write(TX_AT, &data(1000, 80, 1).to_bytes());
        let mut buffers = vec![readable(TX_AT, 45)];
        buffers.extend((1..descriptors).map(|_| readable(TX_AT, 0)));
        self.driver.offer(TX, &buffers);
        self.driver.kick_if_wanted(TX, 1);
    }

    /// As `offer_packet`, and the device takes it.
    fn send_unreaped(&mut self, descriptors: u64) {
        self.offer_packet(descriptors);
        self.work();
    }
}

#[test]
fn a_guest_is_told_of_taken_packets_along_with_the_next_one_for_it() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let mut rig = Rig::patient(features);
        let mut stream = told_and_connected(&mut rig);
        for round in 0..100 {
            // With the event index, the next interrupt is wanted for the next buffer of each queue.
            let (taken, received) = (3 * round + 1, round + 1);
            rig.driver.set_used_event(TX, taken);
            rig.driver.set_used_event(RX, received);
            for _ in 0..3 {
                rig.send_unreaped(2);
            }
            assert_eq!(rig.driver.interrupts(), 0, "{round}");
            stream.write_all(b"x").unwrap();
            rig.wait_host();
            assert_eq!(rig.driver.interrupts(), 1, "{round}");
            assert_eq!(std::iter::from_fn(|| rig.driver.used(TX)).count(), 3);
            assert_eq!(rig.packets().len(), 1);
        }
    }
}

#[test]
fn a_guest_is_told_of_taken_packets_that_hold_a_quarter_of_its_queue() {
    for (descriptors, packets) in [(1, 16), (2, 8), (3, 6), (16, 1), (40, 1)] {
        let mut rig = Rig::patient(VERSION_1);
        let _stream = told_and_connected(&mut rig);
        for _ in 0..3 {
            for sent in 1..=packets {
                rig.send_unreaped(descriptors);
                assert_eq!(rig.driver.interrupts(), u64::from(sent == packets), "{sent}");
            }
            assert_eq!(std::iter::from_fn(|| rig.driver.used(TX)).count(), packets);
        }
    }
}

#[test]
fn a_guest_to_which_nothing_is_said_is_told_of_taken_packets_soon() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        for polls in [false, true] {
            let mut rig = Rig::with_features(Vec::new(), features);
            rig.post(64);
            let mut stream = told_and_connected(&mut rig);
            rig.driver.set_used_event(TX, 1);
            rig.send_unreaped(2);
            if polls {
                // Something is said to it, but it polls that queue and wants no interrupts for it.
                rig.driver.set_available_flags(RX, 1);
                rig.driver.set_used_event(RX, 0x8000);
                stream.write_all(b"x").unwrap();
                rig.wait_host();
                assert_eq!(rig.driver.used(RX).map(|(_, len)| len), Some(45));
            }
            while rig.driver.interrupts() == 0 {
                rig.wait_host();
            }
            assert!(rig.driver.used(TX).is_some());
            assert!(rig.driver.run(50) <= 1, "the timer fires once");
            assert_eq!(rig.driver.interrupts(), 0);
        }
    }
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none_for_taken_packets() {
    let mut rig = Rig::new();
    let _stream = told_and_connected(&mut rig);
    rig.driver.set_available_flags(TX, 1);
    for _ in 0..40 {
        rig.send_unreaped(2);
        assert!(rig.driver.used(TX).is_some());
    }
    rig.driver.run(50);
    assert_eq!(rig.driver.interrupts(), 0);
}

#[test]
fn a_driver_that_looks_at_its_queue_only_when_interrupted_never_starves() {
    for (size, descriptors) in
        [(64, 1), (64, 2), (64, 19), (64, 64), (8, 2), (4, 3), (2, 1), (1, 1)]
    {
        let mut rig = Rig::without_buffers(Vec::new());
        rig.driver.negotiate(VERSION_1);
        for (queue, size) in [(RX, 64), (TX, size), (EVENT, 8)] {
            rig.driver.set_up_queue(queue, size);
        }
        rig.driver.add_status(4);
        rig.work();
        rig.post(64);
        let listener = rig.listen(80);
        rig.driver.write(TX_AT, &packet(1000, 80, op::REQUEST).to_bytes());
        rig.driver.offer(TX, &[readable(TX_AT, 44)]);
        rig.driver.kick(TX);
        rig.work();
        let mut stream = listener.accept().unwrap().0;
        let mut free = u64::from(size) - 1;
        let mut first = true;
        let mut sent = 0;
        // A socket of the host's takes so many bytes that came one by one.
        while sent < 200 {
            while free >= descriptors && sent < 200 {
                rig.offer_packet(descriptors);
                free -= descriptors;
                sent += 1;
            }
            // The device is not always as fast as the guest, nor always slower.
            rig.work();
            if free >= descriptors {
                continue;
            }
            while rig.driver.interrupts() == 0 {
                rig.wait_host();
            }
            while rig.driver.used(TX).is_some() {
                free += if std::mem::take(&mut first) { 1 } else { descriptors };
            }
        }
        rig.work();
        stream.set_nonblocking(true).unwrap();
        let mut bytes = vec![0; 201];
        assert_eq!(stream.read(&mut bytes).unwrap(), 200, "{size} {descriptors}");
    }
}

#[test]
fn a_guest_with_too_many_replies_to_collect_is_told_of_all_that_was_taken() {
    let mut rig = Rig::without_buffers(Vec::new());
    rig.driver.write(TX_AT, &packet(9, 10, op::RW).to_bytes());
    // Each is answered with RST, for which there is no buffer. The last are fewer than a quarter of the queue.
    for round in [0..60, 60..REPLIES_MAX + 5] {
        for _ in round {
            rig.driver.offer(TX, &[readable(TX_AT, 44)]);
        }
        rig.driver.interrupts();
        rig.driver.kick(TX);
        rig.work();
        while rig.driver.used(TX).is_some() {}
    }
    assert_eq!(rig.driver.interrupts(), 1);
}

#[test]
fn a_reset_device_tells_nobody_of_packets_that_were_taken_before() {
    let mut rig = Rig::new();
    let _stream = told_and_connected(&mut rig);
    rig.send_unreaped(2);
    assert!(rig.driver.start(VERSION_1));
    rig.driver.run(50);
    assert_eq!(rig.driver.interrupts(), 0);
}

#[test]
fn a_host_program_that_reads_wakes_the_device_only_when_something_waits_for_room() {
    let mut rig = Rig::new();
    let mut stream = rig.established_from_guest(1000, 80);
    let mut piece = [0; 1000];
    for round in 0..2 {
        for _ in 0..3 {
            rig.send(data(1000, 80, piece.len()), &piece);
        }
        // Until its timer is not set.
        while rig.driver.run(50) > 0 {}
        for _ in 0..3 {
            stream.read_exact(&mut piece).unwrap();
            assert!(!rig.host_ready(), "{round}");
        }
        // One byte at a time fills the socket long before the guest's credit ends: the rest waits in the device.
        for _ in 0..1000 {
            rig.send(data(1000, 80, 1), &piece[..1]);
        }
        let mut woken = 0;
        for _ in 0..1000 {
            stream.read_exact(&mut piece[..1]).unwrap();
            woken += usize::from(rig.host_ready());
        }
        assert!(woken > 0, "{round}");
        rig.packets();
    }
}
