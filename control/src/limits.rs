//! Every limit that both sides of the channel know.

use std::time::Duration;

/// The longest piece of a payload in one message.
pub const PIECE_MAX: usize = 1024 * 1024;

/// The longest message that a worker takes: a piece of a payload with its frame. Everything else that it is sent is smaller.
pub const REQUEST_MESSAGE_MAX: usize = PIECE_MAX + 1024;

/// The longest message that a client takes. A list of 10,000 environments has about 2 MiB.
pub const RESPONSE_MESSAGE_MAX: usize = 8 * 1024 * 1024;

/// The longest request payload, as AWS Lambda has it.
pub const REQUEST_PAYLOAD_MAX: usize = 6 * 1024 * 1024;

/// The longest list of HTTP/2 headers, uncompressed. A call has about ten short ones; a refusal has its details in one.
pub const HEADERS_MAX: u32 = 16 * 1024;

/// The longest path of a Unix socket (`sun_path`, with its NUL).
pub const UNIX_PATH_MAX: usize = 107;

/// A request stream's flow-control window: a whole piece may be on its way.
pub const STREAM_WINDOW: u32 = 1024 * 1024;

/// A connection's flow-control window: two pieces, so that one slow stream leaves room for others.
pub const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// How often a silent connection is asked whether it lives.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// How long the answer to that may take.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

const _: () = assert!(PIECE_MAX < REQUEST_MESSAGE_MAX);
const _: () = assert!(REQUEST_MESSAGE_MAX < RESPONSE_MESSAGE_MAX);
const _: () = assert!(STREAM_WINDOW < CONNECTION_WINDOW);
