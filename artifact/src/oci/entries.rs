//! Reads a tar: the headers of its entries, with GNU's long names and pax's records, and their contents.
//!
//! It is read here and not by a library because of what a hostile one could do with the libraries there are: what stands before
//! an entry is read into memory only up to a limit, a size in a pax header is obeyed like one in the entry's own, and values of
//! extended attributes may hold line ends. Where formats leave room, it means what Go's `archive/tar` means, with which images are
//! made and unpacked elsewhere.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

use super::limits::EXTENSION_BYTES;
use super::pax::{self, Pax};
use crate::archive::shown;
use crate::erofs::Timestamp;

const BLOCK: usize = 512;

/// What a tar is read from.
pub(super) trait Stream: Read + Sized {
    /// Leaves so many bytes out.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Stream for File {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.metadata()?.len();
        let at = self.stream_position()?.checked_add(bytes).filter(|at| *at <= end);
        let at = at.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.seek(SeekFrom::Start(at)).map(drop)
    }
}

impl Stream for &[u8] {}

/// Why a tar cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes do not come, or end in the middle.
    #[error("the tar cannot be read")]
    Read(#[from] io::Error),
    /// A header is no header.
    #[error("the header after entry {after:?} is damaged")]
    Header {
        /// The entry before it.
        after: String,
    },
    /// The pax records of an entry are malformed.
    #[error("the extended header after entry {after:?} is malformed")]
    Pax {
        /// The entry before it.
        after: String,
    },
    /// More stands before an entry than is read.
    #[error("the extended header after entry {after:?} is larger than {EXTENSION_BYTES} bytes")]
    Long {
        /// The entry before it.
        after: String,
    },
    /// A number in a header is none, or too large.
    #[error("entry {name:?} has no valid {field}")]
    Number {
        /// The entry.
        name: String,
        /// What it should be.
        field: &'static str,
    },
    /// A sparse file: nobody makes images with those.
    #[error("entry {name:?} is a sparse file, which is not supported")]
    Sparse {
        /// The entry.
        name: String,
    },
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File {
        size: u64,
    },
    Folder,
    Link {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
    /// A device, a pipe, or something unknown, by its letter.
    Other(u8),
}

/// One entry. Nothing of it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) permissions: u16,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) modified: Timestamp,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// A tar that is read from its beginning to its end.
#[derive(Debug)]
pub(super) struct Entries<R> {
    source: R,
    /// What is left of the current entry's content, and of the zeros that fill its last block.
    content: u64,
    filling: u64,
    /// The name of the last entry, for errors.
    last: String,
    /// How many bytes of the tar come before what is read next.
    position: u64,
}

impl<R: Stream> Entries<R> {
    pub(super) fn new(source: R) -> Entries<R> {
        Entries { source, content: 0, filling: 0, last: String::new(), position: 0 }
    }

    /// The next entry; nothing at the end. What was not read of the one before is left out.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_target) = (None, None);
        loop {
            let rest = self.content + self.filling;
            self.source.skip(rest)?;
            self.position += rest;
            (self.content, self.filling) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            match header.flag() {
                b'L' => long_name = Some(text(&self.extension(&header)?).to_vec()),
                b'K' => long_target = Some(text(&self.extension(&header)?).to_vec()),
                b'x' => {
                    let records = self.extension(&header)?;
                    pax = pax::parse(&records)
                        .ok_or_else(|| TarError::Pax { after: self.last.clone() })?;
                }
                // It would hold for all entries; Go leaves what it means to its caller, and none gives it a meaning.
                b'g' => drop(self.extension(&header)?),
                _ => {
                    let name = pax.path.take().or(long_name).unwrap_or_else(|| header.name());
                    return self.entry(&header, name, pax, long_target).map(Some);
                }
            }
        }
    }

    /// Reads from the current entry's content; nothing is read at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let most = self.content.min(buffer.len() as u64) as usize;
        loop {
            match self.source.read(&mut buffer[..most]) {
                Ok(0) if most > 0 => {
                    return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(count) => {
                    self.content -= count as u64;
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where the current entry's content goes on, in bytes from the tar's beginning.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The source, at any place in it.
    pub(super) fn into_source(self) -> R {
        self.source
    }

    /// Makes an entry of everything that was said about it, and begins its content.
    fn entry(
        &mut self,
        header: &Header,
        name: Vec<u8>,
        pax: Pax,
        long_target: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        self.last = shown(&name);
        let wrong = |field| TarError::Number { name: self.last.clone(), field };
        if pax.sparse || header.flag() == b'S' {
            return Err(TarError::Sparse { name: self.last.clone() });
        }
        let size = pax.size.or_else(|| header.unsigned(124..136)).ok_or(wrong("size"))?;
        let target = pax.target.or(long_target).unwrap_or_else(|| text(&header.0[157..257]).into());
        let kind = match header.flag() {
            // Before there was a letter for them, folders were files whose names end with a slash.
            b'0' | 0 if name.ends_with(b"/") => EntryKind::Folder,
            b'0' | 0 | b'7' => EntryKind::File { size },
            b'1' => EntryKind::HardLink { target },
            b'2' => EntryKind::Link { target },
            b'5' => EntryKind::Folder,
            other => EntryKind::Other(other),
        };
        // Links, devices and folders have no content, whatever their size.
        if !matches!(header.flag(), b'1'..=b'6') {
            self.content = size;
            self.filling = size.wrapping_neg() % BLOCK as u64;
            size.checked_add(self.filling).ok_or(wrong("size"))?;
        }
        let owner = |of: Option<u64>, field: std::ops::Range<usize>, called| {
            let number = of.or_else(|| header.unsigned(field)).and_then(|n| u32::try_from(n).ok());
            number.filter(|number| *number != u32::MAX).ok_or(wrong(called))
        };
        let modified = || Some(Timestamp { seconds: header.number(136..148)?, nanoseconds: 0 });
        Ok(Entry {
            kind,
            permissions: (header.unsigned(100..108).ok_or(wrong("mode"))? & 0o7777) as u16,
            user: owner(pax.user, 108..116, "owner")?,
            group: owner(pax.group, 116..124, "group")?,
            modified: pax.modified.or_else(modified).ok_or(wrong("time"))?,
            xattrs: pax.xattrs,
            name,
        })
    }

    /// The next header; nothing at the end, which is two blocks of zeros or the end of the bytes.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.block()? {
                Some(block) if block != [0; BLOCK] => {
                    Err(TarError::Header { after: self.last.clone() })
                }
                _ => Ok(None),
            };
        }
        let header = Header(block);
        if !header.is_intact() {
            return Err(TarError::Header { after: self.last.clone() });
        }
        Ok(Some(header))
    }

    /// The next block; nothing if the bytes end before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    /// Reads what stands before an entry.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let wrong = || TarError::Header { after: self.last.clone() };
        let size = header.unsigned(124..136).ok_or_else(wrong)?;
        if size > EXTENSION_BYTES {
            return Err(TarError::Long { after: self.last.clone() });
        }
        let mut bytes = Vec::new();
        self.source.by_ref().take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        self.position += size;
        self.filling = size.wrapping_neg() % BLOCK as u64;
        Ok(bytes)
    }
}

/// A header's block.
struct Header([u8; BLOCK]);

impl Header {
    fn flag(&self) -> u8 {
        self.0[156]
    }

    /// The name that the header itself holds.
    fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        // GNU has other things in the prefix's place.
        if prefix.is_empty() || self.0[257..265] != *b"ustar\x0000" {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    /// The checksum is the sum of all bytes, as if its own were spaces; some have summed signed ones.
    fn is_intact(&self) -> bool {
        let bytes = || {
            let own = |i: usize| (148..156).contains(&i);
            self.0.iter().enumerate().map(move |(i, byte)| if own(i) { b' ' } else { *byte })
        };
        let told = self.number(148..156);
        told == Some(bytes().map(i64::from).sum())
            || told == Some(bytes().map(|byte| i64::from(byte as i8)).sum())
    }

    fn unsigned(&self, field: std::ops::Range<usize>) -> Option<u64> {
        self.number(field)?.try_into().ok()
    }

    /// A number: octal digits, or GNU's binary form if the first bit is set. An empty one is zero.
    fn number(&self, field: std::ops::Range<usize>) -> Option<i64> {
        let field = &self.0[field];
        if field[0] & 0x80 != 0 {
            let (high, low) = field.split_at(field.len() - 8);
            let fill = if field[0] & 0x40 != 0 { 0xff } else { 0 };
            let mut bytes: [u8; 8] = low.try_into().ok()?;
            match high.split_first() {
                Some((first, rest)) => {
                    let first = (first | 0x80) == (fill | 0x80);
                    if !first || rest.iter().any(|byte| *byte != fill) {
                        return None;
                    }
                }
                // Seven bits of the first byte belong to the number.
                None if fill == 0 => bytes[0] &= 0x7f,
                None => {}
            }
            let number = i64::from_be_bytes(bytes);
            return ((number < 0) == (fill == 0xff)).then_some(number);
        }
        let padding = |byte: &u8| *byte == b' ' || *byte == 0;
        let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
        let digits = &field[start..];
        let end = digits.iter().position(padding).unwrap_or(digits.len());
        digits[..end].iter().try_fold(0_i64, |number, digit| {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
            number.checked_mul(8)?.checked_add(digit.into())
        })
    }
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests;
