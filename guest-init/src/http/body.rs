//! The body of a request: `Content-Length` or chunked, decoded in place as it comes.

use super::{Framing, Span};
use crate::limits::HEADERS_MAX;

/// The longest line that may name a chunk's size, extensions included.
const CHUNK_LINE_MAX: usize = 1024;

/// Where in a body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// So many bytes are left.
    Rest(u64),
    /// A chunk's size line begins.
    ChunkSize,
    /// So many bytes of a chunk are left.
    ChunkData(u64),
    /// The line end behind a chunk's bytes.
    ChunkEnd,
    /// The trailer section begins.
    Trailers,
    /// Nothing of the body is left.
    Over,
}

/// Follows one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    place: Place,
}

/// What [`Decoder::decode`] did with the bytes that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes that are used up.
    pub consumed: usize,
    /// Bytes of payload, moved to the front of what was given; at most `consumed`.
    pub produced: usize,
}

/// The bytes are no body of the kind that the head announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyError;

/// What the trailer section of a streamed answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailers {
    /// `Lambda-Runtime-Function-Error-Type`
    pub error_type: Span,
    /// `Lambda-Runtime-Function-Error-Body`, base64
    pub error_body: Span,
}

impl Decoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let place = match framing {
            Framing::Length(0) => Place::Over,
            Framing::Length(length) => Place::Rest(length),
            Framing::Chunked => Place::ChunkSize,
        };
        Self { place }
    }

    /// Whether the whole body has been used up.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.place == Place::Over
    }

    /// Whether the trailer section comes next; [`Decoder::trailers`] takes it.
    #[must_use]
    pub fn at_trailers(self) -> bool {
        self.place == Place::Trailers
    }

    /// Uses up as much of `bytes` as it can and moves the payload to its front.
    ///
    /// # Errors
    /// [`BodyError`]; nothing more can be read from the connection then.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BodyError> {
        let mut done = Decoded { consumed: 0, produced: 0 };
        loop {
            let rest = bytes.get(done.consumed..).unwrap_or(&[]);
            match self.place {
                Place::Rest(left) | Place::ChunkData(left) => {
                    let now = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if now == 0 {
                        return Ok(done);
                    }
                    if done.consumed != done.produced {
                        bytes.copy_within(done.consumed..done.consumed + now, done.produced);
                    }
                    done.consumed += now;
                    done.produced += now;
                    self.place = self.after_data(left - now as u64);
                }
                Place::ChunkSize => match chunk_size(rest)? {
                    None => return Ok(done),
                    Some((line, size)) => {
                        done.consumed += line;
                        self.place =
                            if size == 0 { Place::Trailers } else { Place::ChunkData(size) };
                    }
                },
                Place::ChunkEnd => match rest {
                    [] | [b'\r'] => return Ok(done),
                    [b'\r', b'\n', ..] => {
                        done.consumed += 2;
                        self.place = Place::ChunkSize;
                    }
                    _ => return Err(BodyError),
                },
                Place::Trailers | Place::Over => return Ok(done),
            }
        }
    }

    fn after_data(self, left: u64) -> Place {
        match self.place {
            Place::Rest(_) if left == 0 => Place::Over,
            Place::Rest(_) => Place::Rest(left),
            _ if left == 0 => Place::ChunkEnd,
            _ => Place::ChunkData(left),
        }
    }

    /// Takes the trailer section from the front of `bytes`, once all of it is there; gives its length and what it says, with
    /// spans in `bytes`.
    ///
    /// # Errors
    /// [`BodyError`] if it is no list of fields.
    pub fn trailers(&mut self, bytes: &[u8]) -> Result<Option<(usize, Trailers)>, BodyError> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        match httparse::parse_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete((len, fields))) => {
                let mut trailers = Trailers::default();
                for field in fields {
                    let value = Span::of(field.value.trim_ascii(), bytes);
                    if field.name.eq_ignore_ascii_case("lambda-runtime-function-error-type") {
                        trailers.error_type = value;
                    } else if field.name.eq_ignore_ascii_case("lambda-runtime-function-error-body")
                    {
                        trailers.error_body = value;
                    }
                }
                self.place = Place::Over;
                Ok(Some((len, trailers)))
            }
            Ok(httparse::Status::Partial) => Ok(None),
            Err(_) => Err(BodyError),
        }
    }
}

/// The length of a chunk's size line and the size that it names, once the line is whole.
fn chunk_size(bytes: &[u8]) -> Result<Option<(usize, u64)>, BodyError> {
    // The parser takes an empty size for 0.
    if bytes.first().is_some_and(|digit| !digit.is_ascii_hexdigit()) {
        return Err(BodyError);
    }
    match httparse::parse_chunk_size(bytes) {
        Ok(httparse::Status::Complete((line, size))) if line <= CHUNK_LINE_MAX => {
            Ok(Some((line, size)))
        }
        Ok(httparse::Status::Partial) if bytes.len() < CHUNK_LINE_MAX => Ok(None),
        Ok(_) | Err(_) => Err(BodyError),
    }
}
