//! Which chunks a start read, in order, and which pages of them: what the next start on any worker fetches ahead, and what an image
//! can be laid out for.

use std::collections::HashSet;

use votive_artifact::chunk::ChunkReads;

/// What a list begins with; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"votiveL\x02";

/// Bytes of one chunk in a list.
const ENTRY_BYTES: usize = size_of::<u32>() + size_of::<u128>();

/// The most chunks of a list: 256 MiB, eight times what a start of a 1 GiB image reads. Whoever can write a list can have no
/// more than that fetched in vain.
pub const READS_MAX: usize = 512;

/// Chunks in the order of their first reads, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadList(Vec<ChunkReads>);

impl ReadList {
    /// The first [`READS_MAX`] of these, each once.
    #[must_use]
    pub fn new(reads: impl IntoIterator<Item = ChunkReads>) -> ReadList {
        let mut seen = HashSet::new();
        let firsts = reads.into_iter().filter(|read| seen.insert(read.index));
        ReadList(firsts.take(READS_MAX).collect())
    }

    /// The chunks, and what was read of them. Nothing of a chunk that another start read.
    #[must_use]
    pub fn chunks(&self) -> &[ChunkReads] {
        &self.0
    }

    /// The chunks.
    #[must_use]
    pub fn indices(&self) -> Vec<u32> {
        self.0.iter().map(|read| read.index).collect()
    }

    /// As it is kept: each index in 32 bits and its pages in 128, little-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for read in &self.0 {
            bytes.extend(read.index.to_le_bytes());
            bytes.extend(read.pages.to_le_bytes());
        }
        bytes
    }

    /// Reads what was kept; none if it is no list. Indices that no image has are harmless: nobody fetches them.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<ReadList> {
        let entries = bytes.strip_prefix(&MAGIC)?;
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        let sane = rest.is_empty() && entries.len() <= READS_MAX;
        sane.then(|| ReadList::new(entries.iter().map(parse_entry)))
    }
}

fn parse_entry(entry: &[u8; ENTRY_BYTES]) -> ChunkReads {
    let [i0, i1, i2, i3, pages @ ..] = *entry;
    ChunkReads { index: u32::from_le_bytes([i0, i1, i2, i3]), pages: u128::from_le_bytes(pages) }
}
