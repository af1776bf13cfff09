//! The header that stands before every frame, and what can be wrong with one.

use serde::{Deserialize, Serialize};

/// Bytes of a frame's header: kind, three zeros, and the body's length as a little-endian `u32`.
pub const HEADER_LEN: usize = 8;
/// The most bytes in a frame's body, chosen so that a whole frame fits 64 KiB.
pub const BODY_MAX: usize = 64 * 1024 - HEADER_LEN;

/// What a frame is. Kinds below 0x80 come from the host, the others from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the frame of that name in HostFrame or GuestFrame")]
pub enum Kind {
    Configure = 0x01,
    Invoke = 0x02,
    Payload = 0x03,
    Reset = 0x04,
    Shutdown = 0x05,
    Hello = 0x81,
    Phase = 0x82,
    Ready = 0x83,
    ResponseStart = 0x84,
    ResponsePayload = 0x85,
    ResponseEnd = 0x86,
    RuntimeError = 0x87,
    Done = 0x88,
    RuntimeExited = 0x89,
    Log = 0x8a,
    Fault = 0x8b,
    Extension = 0x8c,
    ExtensionExited = 0x8d,
    Subscription = 0x8e,
    Down = 0x8f,
}

impl Kind {
    const ALL: [Self; 20] = [
        Self::Configure,
        Self::Invoke,
        Self::Payload,
        Self::Reset,
        Self::Shutdown,
        Self::Hello,
        Self::Phase,
        Self::Ready,
        Self::ResponseStart,
        Self::ResponsePayload,
        Self::ResponseEnd,
        Self::RuntimeError,
        Self::Done,
        Self::RuntimeExited,
        Self::Log,
        Self::Fault,
        Self::Extension,
        Self::ExtensionExited,
        Self::Subscription,
        Self::Down,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame's header. Holding one proves that the kind is known and that `body_len` is at most [`BODY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Bytes of the body that follows.
    pub body_len: usize,
}

impl Header {
    /// A header for a body of `body_len` bytes.
    ///
    /// # Errors
    /// [`FrameError::BodyTooLong`] above [`BODY_MAX`].
    pub fn new(kind: Kind, body_len: usize) -> Result<Self, FrameError> {
        if body_len > BODY_MAX {
            return Err(FrameError::BodyTooLong { len: body_len });
        }
        Ok(Self { kind, body_len })
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::UnknownKind`], [`FrameError::Reserved`] or [`FrameError::BodyTooLong`]; the stream cannot be followed
    /// after any of them.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [kind, r0, r1, r2, l0, l1, l2, l3] = bytes;
        let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind { kind })?;
        if [r0, r1, r2] != [0; 3] {
            return Err(FrameError::Reserved);
        }
        let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        Self::new(kind, len)
    }

    /// The bytes of this header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        // `new` and `parse` keep `body_len` within BODY_MAX, far below u32::MAX.
        let [l0, l1, l2, l3] = u32::try_from(self.body_len).unwrap_or(u32::MAX).to_le_bytes();
        [self.kind as u8, 0, 0, 0, l0, l1, l2, l3]
    }
}

/// Why a frame was refused. None of them can be recovered from: the link is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind is none of [`Kind`].
    #[error("unknown frame kind {kind:#04x}")]
    UnknownKind {
        /// The byte that was read.
        kind: u8,
    },
    /// A frame that only the other side may send.
    #[error("frame {kind:?} comes from the wrong side")]
    WrongSide {
        /// The frame's kind.
        kind: Kind,
    },
    /// A reserved byte of the header is not zero.
    #[error("reserved bytes of the frame header are not zero")]
    Reserved,
    /// The body is longer than [`BODY_MAX`].
    #[error("frame body of {len} bytes, at most {BODY_MAX} are allowed")]
    BodyTooLong {
        /// The length that the header names.
        len: usize,
    },
    /// A field is longer than its limit.
    #[error("field of {len} bytes, at most {max} are allowed")]
    FieldTooLong {
        /// The field's length in bytes.
        len: usize,
        /// Its limit in [`crate::limits`].
        max: usize,
    },
    /// A list's last item is not ended by a NUL.
    #[error("the last item of a list is not ended by a NUL")]
    Unterminated,
    /// The body is not what its kind says.
    #[error("malformed body of a {kind:?} frame")]
    Malformed {
        /// The frame's kind.
        kind: Kind,
    },
    /// The buffer to encode into is too small.
    #[error("the buffer is too small for the frame")]
    BufferTooSmall,
}

/// Encodes a header and a postcard body into `buffer`; gives the whole frame's length.
pub(crate) fn encode_postcard<T: Serialize>(
    kind: Kind,
    body: &T,
    buffer: &mut [u8],
) -> Result<usize, FrameError> {
    let (head, rest) = buffer.split_at_mut_checked(HEADER_LEN).ok_or(FrameError::BufferTooSmall)?;
    let body_len = postcard::to_slice(body, rest).map_err(|_| FrameError::BufferTooSmall)?.len();
    head.copy_from_slice(&Header::new(kind, body_len)?.to_bytes());
    Ok(HEADER_LEN + body_len)
}

/// Encodes a header and a raw body into `buffer`; gives the whole frame's length.
pub(crate) fn encode_raw(
    kind: Kind,
    parts: [&[u8]; 2],
    buffer: &mut [u8],
) -> Result<usize, FrameError> {
    let [first, second] = parts;
    let header = Header::new(kind, first.len().saturating_add(second.len()))?;
    let whole = buffer.get_mut(..HEADER_LEN + header.body_len).ok_or(FrameError::BufferTooSmall)?;
    let (head, body) = whole.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&header.to_bytes());
    let (body_first, body_second) = body.split_at_mut(first.len());
    body_first.copy_from_slice(first);
    body_second.copy_from_slice(second);
    Ok(HEADER_LEN + header.body_len)
}

/// Decodes a postcard body, which must be used up whole.
pub(crate) fn decode_postcard<'a, T: Deserialize<'a>>(
    kind: Kind,
    body: &'a [u8],
) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(FrameError::Malformed { kind }),
    }
}

/// Refuses a field longer than its limit.
pub(crate) fn check_len(len: usize, max: usize) -> Result<(), FrameError> {
    if len > max { Err(FrameError::FieldTooLong { len, max }) } else { Ok(()) }
}
