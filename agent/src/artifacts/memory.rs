//! An image in memory: a file for its bytes and a file for the table of chunks, neither with a name.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};
use votive_artifact::chunk::{CHUNK_BYTES, ChunkReads, PAGE_BYTES};
use votive_artifact::manifest::Manifest;

/// What the table holds for a chunk that is there.
const PRESENT: u8 = 1;

/// The two files. Both keep their length for ever, since others map or read them.
#[derive(Debug)]
pub(super) struct Memory {
    image: File,
    presence: File,
    image_bytes: u64,
}

impl Memory {
    /// For the image of this manifest: its chunks of zeros are there, and no other.
    pub(super) fn new(manifest: &Manifest) -> io::Result<Memory> {
        let zeros = manifest.zeros();
        let table: Vec<u8> =
            (0..zeros.chunks()).map(|index| u8::from(zeros.is_zero(index)) * PRESENT).collect();
        let image = memory_file("votive-image", manifest.image_bytes())?;
        let presence = memory_file("votive-presence", u64::from(zeros.chunks()))?;
        presence.write_all_at(&table, 0)?;
        Ok(Memory { image, presence, image_bytes: manifest.image_bytes() })
    }

    /// Writes a chunk, and then says that it is there.
    pub(super) fn fill(&self, index: u32, chunk: &[u8]) -> io::Result<()> {
        let there = usize::try_from(self.bytes_of(index)).unwrap_or(usize::MAX);
        let chunk = chunk.get(..there).ok_or(io::ErrorKind::InvalidInput)?;
        self.image.write_all_at(chunk, start_of(index))?;
        self.presence.write_all_at(&[PRESENT], index.into())
    }

    /// The bytes that a chunk has in the image: the last one may be shorter.
    pub(super) fn bytes_of(&self, index: u32) -> u64 {
        self.image_bytes.saturating_sub(start_of(index)).min(CHUNK_BYTES as u64)
    }

    /// A table in which no page was read.
    pub(super) fn page_table(&self) -> io::Result<PageTable> {
        memory_file("votive-reads", self.image_bytes.div_ceil(PAGE_BYTES as u64)).map(PageTable)
    }

    /// The image and the table, to be read only.
    pub(super) fn read_only(&self) -> io::Result<(File, File)> {
        Ok((reopen(&self.image)?, reopen(&self.presence)?))
    }
}

/// Which pages one guest has read, a byte for each: its VMM writes it, and may be in its guest's hands.
#[derive(Debug)]
pub(super) struct PageTable(File);

impl PageTable {
    /// The table, to be written.
    pub(super) fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// What was read of these chunks.
    pub(super) fn of(&self, chunks: &[u32]) -> Vec<ChunkReads> {
        let pages = |index: u32| {
            let mut table = [0; CHUNK_BYTES / PAGE_BYTES];
            let at = u64::from(index) * table.len() as u64;
            // The last chunk may have fewer pages; what cannot be read was not.
            let length = self.0.read_at(&mut table, at).unwrap_or(0);
            let read = table.iter().take(length).enumerate().filter(|(_, byte)| **byte != 0);
            read.fold(0, |pages, (page, _)| pages | 1 << page)
        };
        chunks.iter().map(|index| ChunkReads { index: *index, pages: pages(*index) }).collect()
    }
}

fn start_of(index: u32) -> u64 {
    u64::from(index) * CHUNK_BYTES as u64
}

/// A file of so many zeros, which nobody else opens for writing.
fn memory_file(name: &str, bytes: u64) -> io::Result<File> {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(bytes)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    // Whoever has a descriptor could open the file anew for writing, were its mode that of every such file.
    fchmod(&file, Mode::RUSR)?;
    Ok(file)
}

/// The same file by a descriptor that cannot write.
fn reopen(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The bytes that all images may have in memory together.
#[derive(Debug)]
pub(super) struct Budget {
    most: u64,
    taken: AtomicU64,
}

impl Budget {
    pub(super) fn new(most: u64) -> Arc<Budget> {
        Arc::new(Budget { most, taken: AtomicU64::new(0) })
    }

    /// So many bytes, if they are to be had.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let more = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Share { budget: Arc::clone(self), bytes })
    }

    /// The bytes that are in memory, or about to be.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Buffers for chunks, kept because new memory for each would cost as much as decrypting it. All that lie here are zeros.
#[derive(Debug)]
pub(super) struct Buffers {
    kept: std::sync::Mutex<Vec<Vec<u8>>>,
    most: usize,
}

impl Buffers {
    pub(super) fn new(most: usize) -> Buffers {
        Buffers { kept: std::sync::Mutex::default(), most }
    }

    pub(super) fn take(&self) -> Vec<u8> {
        super::lock(&self.kept).pop().unwrap_or_default()
    }

    /// Wipes a buffer, whatever becomes of it then.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        use zeroize::Zeroize;
        buffer.as_mut_slice().zeroize();
        let mut kept = super::lock(&self.kept);
        if kept.len() < self.most {
            kept.push(buffer);
        }
    }
}
