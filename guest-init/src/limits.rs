//! Every cap of PID 1, each with its reason.

use votive_protocol::limits::{CONTEXT_MAX, ERROR_BODY_MAX, REQUEST_PAYLOAD_MAX, STRING_MAX};
use votive_protocol::{BODY_MAX, HEADER_LEN};

/// Connections to the Runtime API at the same time. A runtime client keeps one or two, as does each extension; the rest is
/// for the stray HTTP client that reports an error of the init phase.
pub const CONNECTIONS_MAX: usize = 32;
/// Extensions of a function, external and internal ones together (CONTRACT 4.2).
pub const EXTENSIONS_MAX: usize = 10;
/// The most bytes of a request's head. AWS's clients put the whole X-Ray cause, stack included, into one header.
pub const HEAD_MAX: usize = 64 * 1024;
/// The most headers of a request, and the most fields of a trailer section.
pub const HEADERS_MAX: usize = 64;
/// What a connection can hold of a request: its head, the body of an error report, and some bytes of what follows.
pub const INPUT_MAX: usize = HEAD_MAX + ERROR_BODY_MAX + 4 * 1024;
/// Room for the head that answers `GET /runtime/invocation/next`: two contexts, three strings, names and numbers.
pub const EVENT_HEAD_MAX: usize = 2 * CONTEXT_MAX + 3 * STRING_MAX + 1024;
/// Room for the `INVOKE` event of extensions: two texts in which every character may need an escape, and numbers.
pub const EXTENSION_EVENT_MAX: usize = 12 * STRING_MAX + 512;
/// Room for any other answer. The longest is that to a registration, with the function's name, version and handler: names
/// beyond all limits of AWS's do not fit, and that registration is refused.
pub const REPLY_MAX: usize = 4 * 1024;
/// Events of the Telemetry API that are kept for subscribers: the largest batch (1 MiB) while the next one is gathered.
pub const JOURNAL_MAX: usize = 2 * 1024 * 1024;
/// The longest line that is one event of the Telemetry API; a longer one is several.
pub const LINE_MAX: usize = 16 * 1024;
/// The longest path of a telemetry destination.
pub const DESTINATION_MAX: usize = 256;
/// How long a telemetry destination that cannot be reached is left alone.
pub const RETRY_NS: u64 = 50_000_000;
/// How long a telemetry destination may take for one batch.
pub const DELIVERY_NS: u64 = 5_000_000_000;
/// How long telemetry may hold up the end of an invocation, when all else is done. What is not delivered then is delivered
/// with the next one.
pub const FLUSH_NS: u64 = 200_000_000;
/// Frames to the agent that wait for the link. One step of a connection adds at most [`STEP_ROOM`].
pub const OUTBOX_MAX: usize = 256 * 1024;
/// What has to be free in the outbox before a connection or a log pipe is read: the input it may hold, and a few small
/// frames around it.
pub const STEP_ROOM: usize = INPUT_MAX + 8 * 1024;
/// The most bytes of one log frame's text. Small enough that two chatty pipes share the link with payloads.
pub const LOG_CHUNK: usize = 16 * 1024;
/// How much of a refused body is read before the answer, so that the client is not cut off while it still writes. A longer
/// one is answered at once and read until the client hangs up.
pub const DRAIN_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of a request payload that are held for the runtime: all of it, so that a runtime which does not read cannot stop
/// [`votive_protocol::HostFrame::Reset`] behind it. Pages are touched only as far as the payload reaches.
pub const REQUEST_MAX: usize = REQUEST_PAYLOAD_MAX as usize;
/// Bytes of payload memory that stay resident between invocations; the rest goes back to the kernel.
pub const REQUEST_KEEP: usize = 64 * 1024;
/// Frames from the agent that are being put together.
pub const INBOX_MAX: usize = HEADER_LEN + BODY_MAX;

const _: () = assert!(STEP_ROOM + 64 * 1024 <= OUTBOX_MAX);
const _: () = assert!(INPUT_MAX - HEAD_MAX > ERROR_BODY_MAX);
const _: () = assert!(EVENT_HEAD_MAX > 2 * CONTEXT_MAX + 3 * STRING_MAX);
