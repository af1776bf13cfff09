//! Every cap and time-out of the socket device.

use std::time::Duration;

/// Connections and host handshakes at a time; each costs about 200 bytes and a descriptor.
pub const CONNECTIONS_MAX: usize = 256;
/// Host programs that have connected and not yet said whom they want.
pub const HANDSHAKES_MAX: usize = 32;
/// Bytes that the guest may send on a connection before the host has read them (`buf_alloc`).
pub const BUFFER_BYTES: u32 = 128 << 10;
/// Buffers in use at a time: one only where a host program reads slower than the guest writes. Together at most 8 MiB; a
/// connection that would need another is reset.
pub const BUFFERS_MAX: usize = 64;
/// Replies that belong to no connection, waiting for receive buffers; at the limit no packets are taken from the guest.
pub const REPLIES_MAX: usize = 64;
/// Bytes of `CONNECT <port>\n`, with a port of ten digits.
pub const CONNECT_LINE_BYTES_MAX: usize = 19;
/// For a host program to say whom it wants, and then for the guest to answer.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the guest to confirm the end of a connection. Linux itself waits 8 seconds.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a guest may wait to be told that its packets were taken, while there is nothing else to tell it.
pub const TAKEN_TOLD_WITHIN: Duration = Duration::from_millis(10);
/// Host events looked at in one turn.
pub const EVENTS_MAX: usize = 32;
/// Host port numbers for connections from the host start here.
pub const HOST_PORT_FIRST: u32 = 1 << 30;

const _: () = assert!(HANDSHAKES_MAX < CONNECTIONS_MAX && BUFFERS_MAX <= CONNECTIONS_MAX);
