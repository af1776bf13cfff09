//! The bytes of one layer: unpacked as they are read, counted, and compared with both digests at their end.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::entries::Stream;
use super::limits::{RATIO, RATIO_FREE_BYTES, ZSTD_WINDOW_BYTES};
use super::source::Blob;
use crate::digest::{Digest, Hasher};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// Why a layer's bytes are refused. It travels inside an `io::Error`, for what reads a layer reads any stream.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// There are more bytes than allowed, in all layers together.
    #[error("the layers unpack to more than the {limit} bytes allowed")]
    TooMuch {
        /// The most that is allowed.
        limit: u64,
    },
    /// There are more bytes than anything but a bomb has.
    #[error("the layer unpacks to more than {RATIO} times its size")]
    Ratio,
    /// The blob is longer or shorter than the manifest says, or its content is another.
    #[error("the blob is not the one that the manifest names")]
    Blob,
    /// What was unpacked is not what the configuration names.
    #[error("the unpacked layer is not the one that the configuration names")]
    Unpacked,
    /// It is no such stream.
    #[error("the layer cannot be unpacked")]
    Damaged(#[source] io::Error),
}

impl From<LayerError> for io::Error {
    fn from(error: LayerError) -> io::Error {
        io::Error::other(error)
    }
}

/// Reads a layer, unpacked.
pub(super) struct LayerReader {
    decoder: Decoder,
    hasher: Hasher,
    packed: Rc<Packed>,
    unpacked: u64,
    left: u64,
    limit: u64,
}

impl LayerReader {
    /// `left` is how many bytes may still come out, of the `limit` for all layers.
    pub(super) fn new(blob: Blob, compression: Compression, left: u64, limit: u64) -> LayerReader {
        let packed = Rc::new(Packed::default());
        let source = BufReader::with_capacity(64 << 10, Counted { blob, packed: packed.clone() });
        let decoder = match compression {
            Compression::Plain => Decoder::Plain(source),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => Decoder::Zstd(Box::new(Frames::new(source))),
        };
        LayerReader { decoder, hasher: Hasher::new(), packed, unpacked: 0, left, limit }
    }

    /// Reads all that is left, and compares the digests: of the blob and of what came out of it. Returns how much that was.
    pub(super) fn finish(mut self, blob: &Digest, unpacked: &Digest) -> Result<u64, io::Error> {
        io::copy(&mut self, &mut io::sink())?;
        // After the last frame there may be bytes that say nothing, but they have been digested.
        io::copy(self.decoder.source(), &mut io::sink())?;
        let LayerReader { hasher, packed, unpacked: bytes, .. } = self;
        if packed.hasher.take().finish() != *blob {
            return Err(LayerError::Blob.into());
        }
        if hasher.finish() != *unpacked {
            return Err(LayerError::Unpacked.into());
        }
        Ok(bytes)
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.unpacked += count as u64;
        if self.unpacked > self.left {
            return Err(LayerError::TooMuch { limit: self.limit }.into());
        }
        let allowed = self.packed.bytes.get().saturating_mul(RATIO).max(RATIO_FREE_BYTES);
        if self.unpacked > allowed {
            return Err(LayerError::Ratio.into());
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl Stream for LayerReader {}

/// What has been read of the blob: its decoder has the blob itself.
#[derive(Default)]
struct Packed {
    bytes: Cell<u64>,
    hasher: Cell<Hasher>,
}

/// A blob of which every byte is counted and digested.
struct Counted {
    blob: Blob,
    packed: Rc<Packed>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.packed.bytes.set(self.packed.bytes.get() + count as u64);
        let mut hasher = self.packed.hasher.take();
        hasher.update(&buffer[..count]);
        self.packed.hasher.set(hasher);
        Ok(count)
    }
}

type Source = BufReader<Counted>;

enum Decoder {
    Plain(Source),
    Gzip(Box<MultiGzDecoder<Source>>),
    Zstd(Box<Frames>),
}

impl Decoder {
    fn source(&mut self) -> &mut Source {
        match self {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(frames) => &mut frames.source,
        }
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(source) => source.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(frames) => frames.read(buffer),
        }
        .map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<LayerError>() => error,
            _ => LayerError::Damaged(error).into(),
        })
    }
}

/// zstd frames one after another; those that hold no data are left out.
struct Frames {
    source: Source,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl Frames {
    fn new(source: Source) -> Frames {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW_BYTES);
        Frames { source, decoder, in_frame: false }
    }

    /// Begins the next frame; false if there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            self.in_frame = true;
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                let wanted = buffer.len() - self.decoder.can_collect();
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBytes(wanted))
                    .map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.in_frame = false;
        }
    }
}
