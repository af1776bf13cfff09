//! A disk for scratch data: what its file holds can be read by nobody once this process has ended.
//!
//! Each sector is encrypted under a key that is drawn here and never leaves ([`Xts`]). Sectors that were never written read as
//! the template's, a file in the clear that is never written, or as zeros: which were written stands in a bitmap, whose size is
//! the disk's. So a file system that is the same for all guests costs no disk anything. Data goes through one buffer of a
//! fixed size, since guest memory must not hold what is half encrypted. The unit is a sector, so that no write
//! has to read what is around it; and a bitmap for 10 GiB has 2.5 MiB, of which only what was written is touched.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use zeroize::Zeroize;

use super::io::{Transfer, read_at, write_all_at};
use super::xts::{UNIT_BYTES, Xts};
use crate::virtio::Chain;

#[cfg(test)]
mod tests;

/// Bytes that are encrypted or decrypted at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// What makes a disk encrypted.
#[derive(Debug, Default)]
pub struct EncryptedSpec {
    /// What unwritten sectors read as; zeros behind its end.
    pub template: Option<File>,
}

/// The state of an encrypted disk.
pub(super) struct Encrypted {
    /// Gone once the machine has ended.
    xts: Option<Box<Xts>>,
    template: Option<File>,
    written: Written,
    buffer: Box<[u8]>,
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither key nor data.
        f.debug_struct("Encrypted").field("template", &self.template).finish_non_exhaustive()
    }
}

impl Encrypted {
    /// For a disk of `sectors` sectors, none of which was written.
    ///
    /// # Errors
    /// There is no key, or the template is larger than the disk or of no known size.
    pub(super) fn new(sectors: u64, mut spec: EncryptedSpec) -> io::Result<Self> {
        if let Some(template) = &mut spec.template {
            let bytes = template.seek(SeekFrom::End(0))?;
            if bytes.div_ceil(UNIT_BYTES as u64) > sectors {
                return Err(io::Error::other("the template is larger than the disk"));
            }
        }
        Ok(Encrypted {
            xts: Some(Xts::draw()?),
            template: spec.template,
            written: Written::new(sectors),
            buffer: vec![0; BUFFER_BYTES].into(),
        })
    }

    /// Overwrites the keys and the last data; what was written can be read by nobody from now on.
    pub(super) fn forget(&mut self) {
        self.xts = None;
        self.buffer.zeroize();
    }

    /// Reads `bytes` bytes of the disk into the first writable ones of `chain`.
    pub(super) fn read(&mut self, io: &Transfer<'_>, chain: &Chain, bytes: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some((sector, count)) = io.piece(done, bytes, self.buffer.len())? {
            let mut buffer = std::mem::take(&mut self.buffer);
            let piece = buffer.get_mut(..count).unwrap_or_default();
            let copied = self
                .fill(io.file, sector, piece)
                .and_then(|()| is_so(chain.write_at(io.ram, done, piece)));
            self.buffer = buffer;
            copied?;
            done = done.saturating_add(count as u64);
        }
        Ok(())
    }

    /// Fills `piece` with the sectors from `sector` on, in the clear.
    fn fill(&self, file: &File, mut sector: u64, piece: &mut [u8]) -> io::Result<()> {
        let (mut left, _) = piece.as_chunks_mut::<UNIT_BYTES>();
        while !left.is_empty() {
            let (count, is_written) = self.written.run(sector, left.len());
            let (now, rest) = left.split_at_mut(count);
            let offset = sector.saturating_mul(UNIT_BYTES as u64);
            let bytes = now.as_flattened_mut();
            if is_written {
                let xts = self.xts.as_ref().ok_or(io::ErrorKind::PermissionDenied)?;
                is_so(read_at(file, bytes, offset)? == bytes.len())?;
                for (number, unit) in (sector..).zip(now) {
                    xts.decrypt(unit, number);
                }
            } else {
                let template = self.template.as_ref();
                let there = template.map_or(Ok(0), |template| read_at(template, bytes, offset))?;
                bytes.get_mut(there..).unwrap_or_default().fill(0);
            }
            sector = sector.saturating_add(count as u64);
            left = rest;
        }
        Ok(())
    }

    /// Writes `bytes` bytes of the readable ones of `chain` behind its first `skip` to the disk.
    pub(super) fn write(
        &mut self,
        io: &Transfer<'_>,
        chain: &Chain,
        skip: u64,
        bytes: u64,
    ) -> io::Result<()> {
        let mut done = 0;
        while let Some((sector, count)) = io.piece(done, bytes, self.buffer.len())? {
            let piece = self.buffer.get_mut(..count).unwrap_or_default();
            is_so(chain.read_at(io.ram, skip.saturating_add(done), piece))?;
            let xts = self.xts.as_ref().ok_or(io::ErrorKind::PermissionDenied)?;
            let (units, _) = piece.as_chunks_mut::<UNIT_BYTES>();
            for (number, unit) in (sector..).zip(units.iter_mut()) {
                xts.encrypt(unit, number);
            }
            let sectors = units.len();
            write_all_at(io.file, piece, sector.saturating_mul(UNIT_BYTES as u64))?;
            self.written.add(sector, sectors);
            done = done.saturating_add(count as u64);
        }
        Ok(())
    }
}

/// What is moved is checked before: otherwise the disk's file is shorter than it was.
fn is_so(it: bool) -> io::Result<()> {
    if it { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A bit for each sector: whether it was ever written.
struct Written(Box<[u64]>);

impl Written {
    fn new(sectors: u64) -> Self {
        let words = usize::try_from(sectors.div_ceil(64)).unwrap_or(usize::MAX);
        // Zeros that nobody touched cost nothing.
        Written(vec![0; words].into())
    }

    /// How many sectors from `first` on are like it, at most `most` and at least one; and whether they were written.
    fn run(&self, first: u64, most: usize) -> (usize, bool) {
        let is_written = self.has(first);
        let like_it = (first..).take(most).take_while(|sector| self.has(*sector) == is_written);
        (like_it.count().max(1).min(most), is_written)
    }

    fn has(&self, sector: u64) -> bool {
        let (word, bit) = place(sector);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    fn add(&mut self, first: u64, count: usize) {
        for sector in (first..).take(count) {
            let (word, bit) = place(sector);
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
    }
}

fn place(sector: u64) -> (usize, u64) {
    (usize::try_from(sector / 64).unwrap_or(usize::MAX), 1 << (sector % 64))
}
