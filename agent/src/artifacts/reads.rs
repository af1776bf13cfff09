//! Which chunks a start read, in order: what the next start on any worker fetches ahead.

use std::collections::HashSet;

/// What a list begins with; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"votiveL\x01";

/// The most chunks of a list: 256 MiB, eight times what a start of a 1 GiB image reads. Whoever can write a list can have no
/// more than that fetched in vain.
pub const READS_MAX: usize = 512;

/// Chunks in the order of their first reads, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadList(Vec<u32>);

impl ReadList {
    /// The first [`READS_MAX`] of these, each once.
    #[must_use]
    pub fn new(indices: impl IntoIterator<Item = u32>) -> ReadList {
        let mut seen = HashSet::new();
        let firsts = indices.into_iter().filter(|index| seen.insert(*index));
        ReadList(firsts.take(READS_MAX).collect())
    }

    /// The chunks.
    #[must_use]
    pub fn indices(&self) -> &[u32] {
        &self.0
    }

    /// As it is kept: each index in 32 bits, little-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let indices = self.0.iter().flat_map(|index| index.to_le_bytes());
        MAGIC.into_iter().chain(indices).collect()
    }

    /// Reads what was kept; none if it is no list. Indices that no image has are harmless: nobody fetches them.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<ReadList> {
        let indices = bytes.strip_prefix(&MAGIC)?;
        let (indices, rest) = indices.as_chunks::<4>();
        let sane = rest.is_empty() && indices.len() <= READS_MAX;
        sane.then(|| ReadList::new(indices.iter().map(|index| u32::from_le_bytes(*index))))
    }
}
