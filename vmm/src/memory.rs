//! Guest memory: one anonymous private mapping, with files placed into it without copying.
//!
//! The mapping is as large as the guest's memory and costs nothing until the guest touches it. A
//! file's whole pages are *mapped* over it (`MAP_PRIVATE`): the guest sees the file's bytes and
//! writes to copies of its own, and all microVMs share the page cache's pages until then. Only the
//! ragged ends, where a page is not wholly the file's, are copied. What is copied may also be
//! deferred: then it is noted here, and [`crate::demand`] does it while the guest runs.
//!
//! What holding a [`GuestRam`] proves: its ranges are mapped for as long as the process lives. What
//! it does not: that a byte in it stays the same between two reads; the guest runs. Hence nothing
//! makes references into it; bytes go in and out by value, through vm-memory.
#![expect(unsafe_code, reason = "mapping guest memory and files over it")]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::Arc;

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion, VolatileSlice,
};

use crate::layout::{HIGH_RAM, IDENTITY_MAPPED_END, LOW_RAM_END, RAM_ABOVE_4G};

/// Guest memory as devices see it.
pub type SharedRam = Arc<GuestMemoryMmap<()>>;

const PAGE: u64 = 4096;
/// Alignment at which the host can back guest memory with huge pages.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Why guest memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The mapping itself.
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        /// Size asked for.
        bytes: usize,
        /// The operating system's reason.
        source: io::Error,
    },
    /// vm-memory refused the ranges.
    #[error("guest memory ranges do not fit together")]
    Ranges,
    /// Bytes outside guest memory.
    #[error("no guest memory at {gpa:#x} for {bytes} bytes")]
    Outside {
        /// Guest physical address.
        gpa: u64,
        /// Number of bytes.
        bytes: u64,
    },
    /// A file over guest memory.
    #[error("cannot map {bytes} bytes of a file at {gpa:#x}")]
    MapFile {
        /// Guest physical address.
        gpa: u64,
        /// Number of bytes.
        bytes: u64,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file's ragged end.
    #[error("cannot read {bytes} bytes of a file at offset {offset}")]
    ReadFile {
        /// Where in the file.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// The guest's memory.
#[derive(Debug)]
pub struct GuestRam {
    shared: SharedRam,
    bytes: u64,
    /// What is to be in it once the guest looks, if it is filled on demand.
    deferred: Option<RefCell<Vec<Piece>>>,
}

/// Bytes that are to be in guest memory, all inside one huge page.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The huge page's host address.
    pub(crate) block: u64,
    /// Where in it they begin.
    pub(crate) at: usize,
    /// How many they are.
    pub(crate) bytes: usize,
    /// Where they come from.
    pub(crate) source: Source,
}

/// Where bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// These they are.
    Bytes(Box<[u8]>),
    /// A file, from this offset on.
    File(Arc<File>, u64),
}

/// Which pages the lowest 2 MiB of guest memory have. The VMM itself writes seven of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowMemory {
    /// Small ones: clearing the rest of a huge page would be a quarter of a start's cost.
    SmallPages,
    /// A huge one: Linux uses all of it before PID 1 runs, and then has no fault for each small page.
    HugePage,
}

/// The guest physical ranges of `bytes` of memory: (first address, size), one or two.
#[must_use]
pub fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(LOW_RAM_END);
    let mut ranges = vec![(0, low)];
    if bytes > low {
        ranges.push((RAM_ABOVE_4G, bytes - low));
    }
    ranges
}

/// What a kernel of a guest with `bytes` of memory may be loaded into: above the first MiB, and
/// mapped by the page tables of the first instructions.
#[must_use]
pub fn kernel_range(bytes: u64) -> std::ops::Range<u64> {
    HIGH_RAM..bytes.min(IDENTITY_MAPPED_END)
}

impl GuestRam {
    /// Maps `bytes` of guest memory, which must be a multiple of 1 MiB and more than 2.
    ///
    /// # Errors
    /// When the address space or the operating system refuses.
    pub fn map(bytes: u64, low: LowMemory) -> Result<Self, MemoryError> {
        let base = reserve(bytes as usize, low)?;
        let mut offset = 0;
        let mut regions = Vec::new();
        for (gpa, size) in ranges(bytes) {
            let size = size as usize;
            let host = base.wrapping_add(offset);
            // SAFETY: `reserve` mapped `bytes` from `base`, the ranges' sizes add up to `bytes`, and
            // nothing ever unmaps them.
            let mapping = unsafe { MmapRegion::<()>::build_raw(host, size, PROTECTION, FLAGS) };
            let mapping = mapping.map_err(|_| MemoryError::Ranges)?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(gpa));
            regions.push(region.ok_or(MemoryError::Ranges)?);
            offset += size;
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|_| MemoryError::Ranges)?;
        Ok(Self { shared: Arc::new(memory), bytes, deferred: None })
    }

    /// The same memory, still untouched, to be filled on demand: what is written or copied from now on is noted and not
    /// done, until [`crate::demand`] takes it over. What is mapped is mapped.
    #[must_use]
    pub fn deferring(self) -> Self {
        Self { deferred: Some(RefCell::default()), ..self }
    }

    /// What was to be written and copied. From now on it is done at once.
    pub(crate) fn take_deferred(&mut self) -> Vec<Piece> {
        self.deferred.take().map(RefCell::into_inner).unwrap_or_default()
    }

    /// The memory as devices see it.
    #[must_use]
    pub fn shared(&self) -> &SharedRam {
        &self.shared
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// KVM's view: (guest physical address, size, host address) of each range.
    #[must_use]
    pub fn slots(&self) -> Vec<(u64, u64, u64)> {
        let slot = |region: &GuestRegionMmap<()>| {
            (region.start_addr().0, region.len(), region.as_ptr() as u64)
        };
        self.shared.iter().map(slot).collect()
    }

    /// Copies `bytes` to `gpa`.
    ///
    /// # Errors
    /// When they do not lie in guest memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let mut rest = bytes;
        self.by_block(gpa, bytes.len() as u64, |gpa, block, size| {
            let (piece, behind) = rest.split_at(size);
            rest = behind;
            if self.defer(gpa, block, size, || Source::Bytes(piece.into())) {
                return Ok(());
            }
            self.shared
                .write_slice(piece, GuestAddress(gpa))
                .map_err(|_| MemoryError::Outside { gpa, bytes: size as u64 })
        })
    }

    /// Makes `bytes` of `file` from `offset` on appear at `gpa`: mapped where both share a page
    /// boundary, copied elsewhere.
    ///
    /// # Errors
    /// When the range is outside guest memory, or the file cannot be mapped or read.
    pub fn place(
        &self,
        file: &Arc<File>,
        offset: u64,
        gpa: u64,
        bytes: u64,
    ) -> Result<(), MemoryError> {
        let outside = MemoryError::Outside { gpa, bytes };
        let Some(end) = gpa.checked_add(bytes) else { return Err(outside) };
        if !self.shared.check_range(GuestAddress(gpa), bytes as usize) {
            return Err(outside);
        }
        let first_page = gpa.next_multiple_of(PAGE);
        let last_page = end / PAGE * PAGE;
        // A huge page that is filled on demand takes the place of all that is mapped in it.
        let ragged = !(first_page | last_page).is_multiple_of(HUGE_PAGE as u64);
        let apart = gpa % PAGE != offset % PAGE || first_page >= last_page;
        if apart || ragged && self.deferred.is_some() {
            return self.copy_in(file, offset, gpa, bytes);
        }
        let (head, whole) = (first_page - gpa, last_page - first_page);
        self.copy_in(file, offset, gpa, head)?;
        self.map_file(file, offset + head, first_page, whole)?;
        self.copy_in(file, offset + head + whole, last_page, end - last_page)
    }

    /// Copies `bytes` of `file` from `offset` on to `gpa`.
    ///
    /// # Errors
    /// When the range is outside guest memory, or the file cannot be read.
    pub fn copy_in(
        &self,
        file: &Arc<File>,
        offset: u64,
        gpa: u64,
        bytes: u64,
    ) -> Result<(), MemoryError> {
        let failed = |source| MemoryError::ReadFile { offset, bytes, source };
        if bytes == 0 {
            return Ok(());
        }
        let start = gpa;
        self.by_block(gpa, bytes, |gpa, block, size| {
            let offset = offset + (gpa - start);
            if self.defer(gpa, block, size, || Source::File(Arc::clone(file), offset)) {
                return Ok(());
            }
            let host = self.host(gpa, size as u64)?;
            // SAFETY: the slice is guest memory, which no Rust reference points into.
            unsafe { read_exact(file, offset, host.ptr_guard_mut().as_ptr(), size) }.map_err(failed)
        })
    }

    /// Calls `act` for each part of a range that is inside one huge page, with the part's address, the huge page's, and size.
    fn by_block(
        &self,
        gpa: u64,
        bytes: u64,
        mut act: impl FnMut(u64, u64, usize) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let outside = MemoryError::Outside { gpa, bytes };
        let Some(end) = gpa.checked_add(bytes) else { return Err(outside) };
        if bytes > 0 && !self.shared.check_range(GuestAddress(gpa), bytes as usize) {
            return Err(outside);
        }
        let mut at = gpa;
        while at < end {
            let block = at / HUGE_PAGE as u64 * HUGE_PAGE as u64;
            let next = end.min(block + HUGE_PAGE as u64);
            act(at, block, (next - at) as usize)?;
            at = next;
        }
        Ok(())
    }

    /// Notes `bytes` at `gpa` in the huge page at `block`, unless they are to be there at once.
    fn defer(&self, gpa: u64, block: u64, bytes: usize, source: impl FnOnce() -> Source) -> bool {
        let Some(deferred) = &self.deferred else { return false };
        // Memory may end inside a huge page.
        let Ok(host) = self.host(block, HUGE_PAGE as u64) else { return false };
        let block = host.ptr_guard_mut().as_ptr() as u64;
        let at = (gpa % HUGE_PAGE as u64) as usize;
        deferred.borrow_mut().push(Piece { block, at, bytes, source: source() });
        true
    }

    /// Guest memory as this process sees it.
    fn host(&self, gpa: u64, bytes: u64) -> Result<VolatileSlice<'_>, MemoryError> {
        let slice = self.shared.get_slice(GuestAddress(gpa), bytes as usize);
        slice.map_err(|_| MemoryError::Outside { gpa, bytes })
    }

    /// Maps whole pages of a file over guest memory. Bounds and alignment have been checked.
    fn map_file(&self, file: &File, offset: u64, gpa: u64, bytes: u64) -> Result<(), MemoryError> {
        let failed = |source| MemoryError::MapFile { gpa, bytes, source };
        let host = self.host(gpa, bytes)?.ptr_guard_mut();
        let offset =
            i64::try_from(offset).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let fd = file.as_raw_fd();
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: the slice shows that `bytes` from `host` on are guest memory, which is this
        // process's own mapping that no Rust reference points into; MAP_FIXED replaces just that.
        let mapped = unsafe {
            libc::mmap(host.as_ptr().cast(), bytes as usize, PROTECTION, flags, fd, offset)
        };
        if mapped == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(())
    }
}

/// Fills `into` from `offset` of `file` on, whatever others do with the file's position.
pub(crate) fn read_into(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of a slice that is borrowed for writing alone.
    unsafe { read_exact(file, offset, into.as_mut_ptr(), into.len()) }
}

/// The size of a file or a block device in bytes.
pub(crate) fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Reads `bytes` of `file` from `offset` on to `to`, whatever others do with the file's position.
///
/// # Safety
/// `bytes` from `to` on must be mapped, and no Rust reference may point to them.
pub(crate) unsafe fn read_exact(
    file: &File,
    offset: u64,
    to: *mut u8,
    bytes: usize,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let at = offset.checked_add(done as u64).and_then(|at| i64::try_from(at).ok());
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        // `done` is below `bytes`, so the rest is inside what the caller promised.
        let rest = to.wrapping_add(done).cast();
        let vector = libc::iovec { iov_base: rest, iov_len: bytes - done };
        // SAFETY: the kernel writes to the rest, and the vector is one of our own.
        match unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, at, 0) } {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // A count that is not negative fits.
            read if read > 0 => done += read as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

pub(crate) const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub(crate) const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Maps `bytes` at an address that huge pages can back. What alignment leaves over at either end
/// stays mapped and untouched, which costs address space only.
///
/// Huge pages save most of the faults of a guest's boot, each an exit.
fn reserve(bytes: usize, low: LowMemory) -> Result<*mut u8, MemoryError> {
    let failed = |source| MemoryError::Map { bytes, source };
    let size = bytes + HUGE_PAGE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let mapped = unsafe { libc::mmap(null_mut(), size, PROTECTION, FLAGS, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(failed(io::Error::last_os_error()));
    }
    let base = mapped.cast::<u8>();
    let aligned = base.wrapping_add(base.align_offset(HUGE_PAGE));
    let advise = |from: *mut u8, size: usize, advice| {
        // SAFETY: advice on parts of the mapping just made; it changes no byte.
        unsafe { libc::madvise(from.cast(), size, advice) }
    };
    // Without huge pages in this kernel, the advice is refused, and all is well.
    advise(aligned, bytes, libc::MADV_HUGEPAGE);
    if low == LowMemory::SmallPages {
        advise(aligned, HUGE_PAGE, libc::MADV_NOHUGEPAGE);
    }
    // A payload must not end up in a core file.
    if advise(base, size, libc::MADV_DONTDUMP) != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(aligned)
}

#[cfg(test)]
mod tests;
