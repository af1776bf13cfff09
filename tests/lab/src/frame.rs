//! What `lab-init` tells the host over a virtio serial port: frames of one byte of kind, four of length, then the body.

use std::io::{self, Read, Write};

/// The longest body; longer things are cut into several frames.
pub const BODY_MAX: usize = 64 * 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes that the command wrote to standard output.
    Stdout = 1,
    /// Bytes that the command wrote to standard error.
    Stderr = 2,
    /// A result file begins; the body is its path.
    ResultBegins = 3,
    /// Bytes of the result file that began last.
    ResultData = 4,
    /// The command ended; the body is its exit code, an `i32`. The last frame of a run.
    Exit = 5,
    /// The command could not be run; the body says why. The last frame of a run.
    Refused = 6,
    /// Nothing happened; L1 lives.
    Alive = 7,
}

/// Why bytes from L1 are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that does not exist.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// A body longer than [`BODY_MAX`].
    #[error("frame of {0} bytes")]
    TooLong(u32),
    /// The connection failed inside a frame.
    #[error("frame cut short")]
    Read(#[source] io::Error),
}

/// Writes `bytes` in as many frames as they need.
pub fn write(to: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    loop {
        let (body, more) = rest.split_at(rest.len().min(BODY_MAX));
        let mut frame = Vec::with_capacity(5 + body.len());
        frame.push(kind as u8);
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(body);
        to.write_all(&frame)?;
        if more.is_empty() {
            return to.flush();
        }
        rest = more;
    }
}

/// Reads one frame; `None` if the other side ended before one began.
pub fn read(from: &mut impl Read) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
    let mut first = [0];
    loop {
        match from.read(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Read(error)),
        }
    }
    let kind = kind_of(first[0])?;
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(FrameError::Read)?;
    let length = u32::from_le_bytes(length);
    if length as usize > BODY_MAX {
        return Err(FrameError::TooLong(length));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body).map_err(FrameError::Read)?;
    Ok(Some((kind, body)))
}

fn kind_of(byte: u8) -> Result<Kind, FrameError> {
    use Kind::{Alive, Exit, Refused, ResultBegins, ResultData, Stderr, Stdout};
    [Stdout, Stderr, ResultBegins, ResultData, Exit, Refused, Alive]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
        .ok_or(FrameError::Kind(byte))
}

#[cfg(test)]
mod tests;
