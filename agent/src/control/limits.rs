//! Every limit of the control channel's server.

use std::time::Duration;

use crate::control::admission::AdmissionLimits;

/// What peers may take and how long they may take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlLimits {
    /// How many connections there may be.
    pub admission: AdmissionLimits,
    /// How long a TLS handshake may take: two round trips around the world, with packets lost on the way.
    pub handshake: Duration,
    /// How long a connection may be without a call. A client that comes back makes a new one.
    pub idle: Duration,
    /// How long a connection is used for new calls: a caller whose certificate is not renewed is gone after this at the latest.
    pub age: Duration,
    /// How long calls may go on after a connection was told to end: the longest invocation with its start and its end.
    pub age_grace: Duration,
    /// How long an answer may wait for a caller that does not read it.
    pub unread: Duration,
    /// How long a request may pause.
    pub pause: Duration,
    /// How long a request may take in all: 6 MiB at 1 Mbit/s.
    pub request: Duration,
    /// Calls under way on one connection.
    pub streams: u32,
    /// Bytes of payloads that are being received, on all connections together.
    pub payload_bytes: usize,
    /// How long nothing is accepted after accepting has failed.
    pub accept_pause: Duration,
    /// How long calls under way may go on when the channel ends.
    pub end_grace: Duration,
}

impl Default for ControlLimits {
    fn default() -> Self {
        Self {
            admission: AdmissionLimits::default(),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            age: Duration::from_secs(3600),
            age_grace: Duration::from_secs(1200),
            unread: Duration::from_secs(120),
            pause: Duration::from_secs(10),
            request: Duration::from_secs(60),
            streams: 1024,
            payload_bytes: 256 * 1024 * 1024,
            accept_pause: Duration::from_millis(100),
            end_grace: Duration::from_secs(10),
        }
    }
}

/// HTTP/2 frames of this size: what TLS makes one record of.
pub(crate) const FRAME_MAX: u32 = 16 * 1024;
/// Bytes of answers that one stream may hold ready for a peer.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;
/// Streams that a peer may open and reset before we have looked at them ("rapid reset"); then the connection ends.
pub(crate) const PENDING_RESETS: usize = 20;
/// Streams that we reset for a peer's mistakes; then the connection ends.
pub(crate) const OWN_RESETS: usize = 128;
/// Events that wait for one watcher.
pub(crate) const WATCHED_EVENTS: usize = 64;
/// How long the beginning of an answer waits for its first part. With most warm invocations the two leave together then, in
/// one record that wakes the caller once; nobody notices on a longer one.
pub(crate) const ANSWER_SOON: Duration = Duration::from_millis(10);
