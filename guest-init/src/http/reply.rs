//! Answers of the Runtime API, and of the APIs beside it, word for word those of AWS's runtime interface emulator.

use crate::extensions::answer::{Answer, Context, id_text};
use crate::limits::REPLY_MAX;
use crate::runtime::State;

/// An answer without a payload of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 202: an answer or an error report was taken.
    Accepted,
    /// 200 `pong`
    Pong,
    /// 404: no such path.
    NotFound,
    /// 405: the path knows another method.
    MethodNotAllowed {
        /// The method that it knows.
        allow: &'static str,
    },
    /// 400: not the invocation that is under way.
    InvalidRequestId,
    /// 400: a response mode that does not exist.
    InvalidResponseMode,
    /// 400: the body ended too early.
    Truncated,
    /// 403: not in this state.
    Forbidden {
        /// The runtime's state.
        from: State,
        /// The state that the request asks for.
        to: State,
    },
    /// 413: the answer is over its limit.
    TooLarge,
    /// What extensions are answered.
    Extension(Answer),
    /// 400 without JSON: no HTTP request.
    BadRequest,
    /// 400 without JSON: HTTP/1.1 asks for a host.
    NoHost,
    /// 417: an expectation that nobody can meet.
    ExpectationFailed,
    /// 431: the head is too long.
    HeadTooLarge,
    /// 501: a transfer coding that nobody knows.
    UnknownCoding,
    /// 505: neither HTTP/1.0 nor HTTP/1.1.
    UnknownVersion,
}

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes bytes one after the other into a buffer. What does not fit is left out and remembered.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
    overflowed: bool,
}

impl<'a> Writer<'a> {
    /// A writer at the start of `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0, overflowed: false }
    }

    /// Adds `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        match self.buffer.get_mut(self.len..self.len.saturating_add(bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflowed = true,
        }
    }

    /// Adds `number` in decimal digits.
    pub fn push_decimal(&mut self, number: u64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut left = number;
        while let Some(place) = at.checked_sub(1).and_then(|before| digits.get_mut(before)) {
            *place = b'0' + (left % 10) as u8;
            at -= 1;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.push(digits.get(at..).unwrap_or(&[]));
    }

    /// Bytes written, or nothing if some did not fit.
    #[must_use]
    pub fn finish(self) -> Option<usize> {
        (!self.overflowed).then_some(self.len)
    }
}

/// Status line, content type, body.
struct Shape {
    status: &'static str,
    content_type: &'static str,
    body: &'static str,
}

const INTERNAL: Reply = Reply::Extension(Answer::Internal);
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl Reply {
    /// Writes the whole answer into `buffer` and gives its length. `close` says that the connection ends behind it. One that
    /// does not fit becomes a 500.
    pub fn write(self, close: bool, context: Context<'_>, buffer: &mut [u8]) -> usize {
        match self.try_write(close, context, buffer) {
            Some(len) => len,
            None if self == INTERNAL => 0,
            None => INTERNAL.write(close, context, buffer),
        }
    }

    fn try_write(self, close: bool, context: Context<'_>, buffer: &mut [u8]) -> Option<usize> {
        let mut body = [0_u8; REPLY_MAX];
        let mut body_writer = Writer::new(&mut body);
        let shape = self.shape();
        match self {
            Self::Forbidden { from, to } => {
                for part in [
                    "{\"errorMessage\":\"State transition from ",
                    from.name(),
                    " to ",
                    to.name(),
                    " failed for runtime. Error: State transition is not allowed\",",
                    "\"errorType\":\"InvalidStateTransition\"}\n",
                ] {
                    body_writer.push(part.as_bytes());
                }
            }
            Self::Extension(answer) => answer.write_body(context, &mut body_writer),
            _ => body_writer.push(shape.body.as_bytes()),
        }
        let body_len = body_writer.finish()?;
        let mut writer = Writer::new(buffer);
        writer.push(b"HTTP/1.1 ");
        writer.push(shape.status.as_bytes());
        if !shape.content_type.is_empty() {
            writer.push(b"\r\nContent-Type: ");
            writer.push(shape.content_type.as_bytes());
        }
        match self {
            Self::MethodNotAllowed { allow } => {
                writer.push(b"\r\nAllow: ");
                writer.push(allow.as_bytes());
            }
            Self::NotFound => writer.push(b"\r\nX-Content-Type-Options: nosniff"),
            Self::Extension(answer) => {
                if let Some(id) = answer.identifier(context) {
                    writer.push(b"\r\nLambda-Extension-Identifier: ");
                    writer.push(&id_text(id));
                }
            }
            _ => {}
        }
        writer.push(b"\r\nContent-Length: ");
        writer.push_decimal(body_len as u64);
        if close {
            writer.push(b"\r\nConnection: close");
        }
        writer.push(b"\r\n\r\n");
        writer.push(body.get(..body_len).unwrap_or(&[]));
        writer.finish()
    }

    fn shape(self) -> Shape {
        let (status, content_type, body) = match self {
            Self::Accepted => ("202 Accepted", JSON, "{\"status\":\"OK\"}\n"),
            Self::Pong => ("200 OK", TEXT, "pong"),
            Self::NotFound => ("404 Not Found", TEXT, "404 page not found\n"),
            Self::MethodNotAllowed { .. } => ("405 Method Not Allowed", "", ""),
            Self::InvalidRequestId => (
                "400 Bad Request",
                JSON,
                "{\"errorMessage\":\"Invalid request ID\",\"errorType\":\"InvalidRequestID\"}\n",
            ),
            Self::InvalidResponseMode => (
                "400 Bad Request",
                JSON,
                "{\"errorMessage\":\"Invalid function response mode\",\
                 \"errorType\":\"InvalidFunctionResponseMode\"}\n",
            ),
            Self::Truncated => (
                "400 Bad Request",
                JSON,
                "{\"errorMessage\":\"HTTP request detected as truncated\",\
                 \"errorType\":\"TruncatedHTTPRequest\"}\n",
            ),
            Self::Forbidden { .. } => ("403 Forbidden", JSON, ""),
            Self::Extension(answer) => (answer.status(), JSON, ""),
            Self::TooLarge => (
                "413 Request Entity Too Large",
                JSON,
                "{\"errorMessage\":\"Exceeded maximum allowed payload size (6291556 bytes).\",\
                 \"errorType\":\"RequestEntityTooLarge\"}\n",
            ),
            Self::BadRequest => ("400 Bad Request", TEXT, "400 Bad Request"),
            Self::NoHost => (
                "400 Bad Request: missing required Host header",
                TEXT,
                "400 Bad Request: missing required Host header",
            ),
            Self::ExpectationFailed => ("417 Expectation Failed", "", ""),
            Self::HeadTooLarge => {
                ("431 Request Header Fields Too Large", TEXT, "431 Request Header Fields Too Large")
            }
            Self::UnknownCoding => ("501 Not Implemented", TEXT, "Unsupported transfer encoding"),
            Self::UnknownVersion => (
                "505 HTTP Version Not Supported: unsupported protocol version",
                TEXT,
                "505 HTTP Version Not Supported: unsupported protocol version",
            ),
        };
        Shape { status, content_type, body }
    }
}
