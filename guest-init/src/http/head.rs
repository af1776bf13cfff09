//! The head of a request.

use crate::limits::HEADERS_MAX;
use crate::route::{Method, Route};

/// A piece of a buffer by its place, so that it can be kept while the buffer is written to behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: usize,
    len: usize,
}

impl Span {
    /// The place of `part` in `whole`; empty if it does not lie there.
    #[must_use]
    pub fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        match start.checked_add(part.len()) {
            Some(end) if end <= whole.len() => Self { start, len: part.len() },
            _ => Self::default(),
        }
    }

    /// The bytes; empty if the span does not lie in `whole`.
    #[must_use]
    pub fn get(self, whole: &[u8]) -> &[u8] {
        whole.get(self.start..self.start.saturating_add(self.len)).unwrap_or(&[])
    }

    /// Bytes that it spans.
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it spans nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// How long a body is (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, or 0 without one.
    Length(u64),
    /// `Transfer-Encoding: chunked`
    Chunked,
}

/// `Lambda-Runtime-Function-Response-Mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeHeader {
    /// Not there, or empty: the answer is buffered.
    Absent,
    /// `streaming`
    Streaming,
    /// Anything else.
    Invalid,
}

/// What PID 1 wants to know of a request's head. Spans lie in the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked for.
    pub route: Route,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
    /// How the function's answer comes.
    pub mode: ModeHeader,
    /// `Content-Type`
    pub content_type: Span,
    /// `Lambda-Runtime-Function-Error-Type`
    pub error_type: Span,
    /// `Lambda-Runtime-Function-XRay-Error-Cause`
    pub xray_cause: Span,
    /// `Lambda-Extension-Name`
    pub extension_name: Span,
    /// `Lambda-Extension-Identifier`
    pub extension_id: Span,
    /// `Lambda-Extension-Accept-Feature`
    pub accept_feature: Span,
    /// `Lambda-Extension-Function-Error-Type`
    pub extension_error: Span,
}

/// Why a head was refused; the connection ends with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Not the head of an HTTP request.
    Malformed,
    /// HTTP/1.1 asks for a `Host`.
    NoHost,
    /// More headers than [`HEADERS_MAX`].
    TooManyHeaders,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    UnknownVersion,
    /// An expectation other than `100-continue`.
    UnknownExpectation,
}

/// How many bytes of blank lines stand before a request; a server ignores them (RFC 9112 section 2.2).
#[must_use]
pub fn leading_blank_lines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

/// Where a head ends: behind the first blank line at or after `from`. Looking goes on from `bytes.len() - 3` the next time.
#[must_use]
pub fn find_head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let tail = bytes.get(at..)?;
        at += tail.iter().position(|byte| *byte == b'\n')? + 1;
        match bytes.get(at..) {
            Some([b'\n', ..]) => return Some(at + 1),
            Some([b'\r', b'\n', ..]) => return Some(at + 2),
            _ => {}
        }
    }
}

impl Head {
    /// Parses `bytes`, which must end where [`find_head_end`] says.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::Version) => return Err(HeadError::UnknownVersion),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            Ok(httparse::Status::Partial) | Err(_) => return Err(HeadError::Malformed),
        }
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::Malformed);
        };
        let mut head = Self {
            route: Route::of(Method::of(method), target, bytes),
            framing: Framing::Length(0),
            expects_continue: false,
            keep_alive: minor >= 1,
            mode: ModeHeader::Absent,
            content_type: Span::default(),
            error_type: Span::default(),
            xray_cause: Span::default(),
            extension_name: Span::default(),
            extension_id: Span::default(),
            accept_feature: Span::default(),
            extension_error: Span::default(),
        };
        let mut length = None;
        let mut hosts = 0_usize;
        for header in request.headers.iter() {
            head.take(header, bytes, &mut length, &mut hosts)?;
        }
        if hosts > 1 || (minor >= 1 && hosts == 0) {
            return Err(if hosts == 0 { HeadError::NoHost } else { HeadError::Malformed });
        }
        if let (Framing::Length(_), Some(length)) = (head.framing, length) {
            head.framing = Framing::Length(length);
        }
        Ok(head)
    }

    fn take(
        &mut self,
        header: &httparse::Header<'_>,
        bytes: &[u8],
        length: &mut Option<u64>,
        hosts: &mut usize,
    ) -> Result<(), HeadError> {
        let value = header.value.trim_ascii();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let named = decimal(value).ok_or(HeadError::Malformed)?;
            if length.replace(named).is_some_and(|before| before != named) {
                return Err(HeadError::Malformed);
            }
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || self.framing == Framing::Chunked {
                return Err(HeadError::UnknownCoding);
            }
            self.framing = Framing::Chunked;
        } else if is("host") {
            *hosts += 1;
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(HeadError::UnknownExpectation);
            }
            self.expects_continue = true;
        } else if is("connection") {
            self.take_connection(value);
        } else if is("content-type") {
            self.content_type = Span::of(value, bytes);
        } else if is("lambda-runtime-function-response-mode") {
            self.mode = match value {
                b"" => ModeHeader::Absent,
                b"streaming" => ModeHeader::Streaming,
                _ => ModeHeader::Invalid,
            };
        } else if is("lambda-runtime-function-error-type") {
            self.error_type = Span::of(value, bytes);
        } else if is("lambda-runtime-function-xray-error-cause") {
            self.xray_cause = Span::of(value, bytes);
        } else if is("lambda-extension-name") {
            first(&mut self.extension_name, value, bytes);
        } else if is("lambda-extension-identifier") {
            first(&mut self.extension_id, value, bytes);
        } else if is("lambda-extension-accept-feature") {
            first(&mut self.accept_feature, value, bytes);
        } else if is("lambda-extension-function-error-type") {
            first(&mut self.extension_error, value, bytes);
        }
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            if token.eq_ignore_ascii_case(b"close") {
                self.keep_alive = false;
                return;
            }
            if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            }
        }
    }
}

/// Of headers of the same name the first one counts, as with Go's `Header.Get`.
fn first(span: &mut Span, value: &[u8], bytes: &[u8]) {
    if span.is_empty() {
        *span = Span::of(value, bytes);
    }
}

/// A decimal number of digits alone.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(value)
    })
}
