//! HTTP/1.1 (RFC 9112) as far as the Runtime API needs it: heads of requests, bodies of requests, answers.
//!
//! Nothing here does I/O or allocates. The bytes come from the function's own processes: whatever they hold, a parser gives
//! a value or an error.

mod body;
mod head;
mod reply;
#[cfg(test)]
mod tests;

pub use body::{BodyError, Decoded, Decoder, Trailers};
pub use head::{Framing, Head, HeadError, ModeHeader, Span, find_head_end, leading_blank_lines};
pub use reply::{CONTINUE, Reply, Writer};
