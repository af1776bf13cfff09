//! The kernel: an ELF image checked whole, then mapped into guest memory segment by segment.
//!
//! The image comes from whoever runs the worker, yet every number in it is checked before it is
//! used, so that a wrong or cut file is a named error and not a guest that dies oddly. A file that
//! is cut *after* it was mapped makes its lost pages unreadable: the vCPU that needs one fails with
//! `EFAULT`, and a device that is told to read one raises SIGBUS, which `machine` turns into a
//! reason. Either way one microVM ends with a non-zero code.
//!
//! linux-loader's own loader copies what it reads, which is most of a start's cost; hence this one.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::limits::MAX_PROGRAM_HEADERS;
use crate::memory::{self, GuestRam, MemoryError, kernel_range};
use crate::spec::KernelMemory;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PF_W: u32 = 2;
const HUGE_PAGE: u64 = 2 << 20;

/// Why an image is no kernel that can be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The image cannot be read.
    #[error("cannot read the kernel")]
    Read(#[source] io::Error),
    /// It does not begin as an ELF file does.
    #[error("the kernel is not an ELF file; an uncompressed vmlinux is needed")]
    NotElf,
    /// An ELF file of another kind.
    #[error("the kernel is not a 64-bit little-endian ELF executable")]
    WrongKind,
    /// For another machine.
    #[error("the kernel is for ELF machine {machine}, not for x86-64 ({MACHINE_X86_64})")]
    WrongMachine {
        /// `e_machine`.
        machine: u16,
    },
    /// A program header table of odd shape.
    #[error(
        "the kernel has {count} program headers of {size} bytes; 1 to {MAX_PROGRAM_HEADERS} of {PROGRAM_HEADER_BYTES} are allowed"
    )]
    ProgramHeaders {
        /// `e_phnum`.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// The file ends before what its headers name.
    #[error("the kernel is cut short: {end} bytes are named, the file has {file_bytes}")]
    Truncated {
        /// Where the named part ends; the largest number when that cannot be expressed.
        end: u64,
        /// The file's size.
        file_bytes: u64,
    },
    /// More bytes in the file than in memory.
    #[error(
        "kernel segment {index} has {file_bytes} bytes in the file but {memory_bytes} in memory"
    )]
    SegmentSizes {
        /// Which program header.
        index: u16,
        /// `p_filesz`.
        file_bytes: u64,
        /// `p_memsz`.
        memory_bytes: u64,
    },
    /// Not in the memory that a kernel may take.
    #[error("kernel segment {index} at {gpa:#x} with {bytes} bytes is outside memory; {:#x} to {:#x} is allowed", .allowed.start, .allowed.end)]
    OutsideMemory {
        /// Which program header.
        index: u16,
        /// `p_paddr`.
        gpa: u64,
        /// `p_memsz`.
        bytes: u64,
        /// Where a kernel may lie.
        allowed: Range<u64>,
    },
    /// Two segments share memory.
    #[error("kernel segments {first} and {second} overlap")]
    Overlap {
        /// The lower program header.
        first: u16,
        /// The higher one.
        second: u16,
    },
    /// Nothing to load.
    #[error("the kernel has no segment to load")]
    NoSegments,
    /// The entry point is not in what the file gives.
    #[error("the kernel's entry {entry:#x} is outside its segments")]
    Entry {
        /// `e_entry`.
        entry: u64,
    },
    /// A segment cannot be placed.
    #[error("cannot place kernel segment {index}")]
    Place {
        /// Which program header.
        index: u16,
        /// Why.
        source: MemoryError,
    },
}

/// Bytes that a kernel is read from.
pub trait Image {
    /// Size in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn size(&self) -> io::Result<u64>;
    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// The operating system's, and when the image ends before.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Image for File {
    fn size(&self) -> io::Result<u64> {
        memory::size(self)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        memory::read_into(self, offset, into)
    }
}

impl Image for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A segment whose every number has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Which program header it comes from.
    pub index: u16,
    /// Where its bytes are in the file.
    pub offset: u64,
    /// Where it lies in guest memory.
    pub gpa: u64,
    /// Bytes from the file.
    pub file_bytes: u64,
    /// Bytes in memory; what the file does not give is zero.
    pub memory_bytes: u64,
    /// Whether the kernel writes to it as a matter of course.
    pub writable: bool,
}

impl Segment {
    /// The guest memory that the segment takes.
    #[must_use]
    pub fn memory(&self) -> Range<u64> {
        self.gpa..self.gpa + self.memory_bytes
    }
}

/// What is to be loaded where, and where the guest begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The first instruction's guest physical address.
    pub entry: u64,
    /// The segments, none of which overlap.
    pub segments: Vec<Segment>,
}

impl Plan {
    /// Reads and checks an image's headers for a kernel that must lie in `allowed`.
    ///
    /// # Errors
    /// One of [`KernelError`]'s for everything that is not as it must be.
    pub fn read<I: Image + ?Sized>(image: &I, allowed: &Range<u64>) -> Result<Self, KernelError> {
        let file_bytes = image.size().map_err(KernelError::Read)?;
        let header = Header::read(image, file_bytes)?;
        let mut segments: Vec<Segment> = Vec::new();
        for index in 0..header.count {
            let offset = header.table + u64::from(index) * PROGRAM_HEADER_BYTES as u64;
            let mut bytes = [0; PROGRAM_HEADER_BYTES];
            image.read_at(&mut bytes, offset).map_err(KernelError::Read)?;
            let Some(segment) = segment(index, &bytes, file_bytes, allowed)? else { continue };
            if let Some(other) = segments.iter().find(|other| overlap(other, &segment)) {
                return Err(KernelError::Overlap { first: other.index, second: index });
            }
            segments.push(segment);
        }
        if segments.is_empty() {
            return Err(KernelError::NoSegments);
        }
        let entry = header.entry;
        let filled = |segment: &Segment| segment.gpa..segment.gpa + segment.file_bytes;
        if !segments.iter().any(|segment| filled(segment).contains(&entry)) {
            return Err(KernelError::Entry { entry });
        }
        Ok(Self { entry, segments })
    }

    /// The first address behind the kernel.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.memory().end).max().unwrap_or_default()
    }
}

/// Checks the kernel in `file` and makes it appear in guest memory.
///
/// # Errors
/// See [`KernelError`].
pub fn load(file: &Arc<File>, ram: &GuestRam, how: KernelMemory) -> Result<Plan, KernelError> {
    let plan = Plan::read(&**file, &kernel_range(ram.bytes()))?;
    for segment in &plan.segments {
        // What the file does not give stays zero: guest memory is new.
        place(file, ram, segment, how)
            .map_err(|source| KernelError::Place { index: segment.index, source })?;
    }
    Ok(plan)
}

fn place(
    file: &Arc<File>,
    ram: &GuestRam,
    segment: &Segment,
    how: KernelMemory,
) -> Result<(), MemoryError> {
    let Segment { offset, gpa, file_bytes, .. } = *segment;
    if how == KernelMemory::Mapped {
        return ram.place(file, offset, gpa, file_bytes);
    }
    let end = gpa + file_bytes;
    // The first huge page of text has most of what a boot runs, and of what it patches: left in small pages of the file, that
    // is a fault for each and two more for each patched one. Behind it, a copy gains little, and costs every microVM memory.
    let first = gpa.next_multiple_of(HUGE_PAGE) + HUGE_PAGE;
    let last = end / HUGE_PAGE * HUGE_PAGE;
    if segment.writable || first >= last {
        return ram.copy_in(file, offset, gpa, file_bytes);
    }
    let (head, whole) = (first - gpa, last - first);
    ram.copy_in(file, offset, gpa, head)?;
    ram.place(file, offset + head, first, whole)?;
    ram.copy_in(file, offset + head + whole, last, end - last)
}

/// What is needed of an ELF header.
struct Header {
    entry: u64,
    table: u64,
    count: u16,
}

impl Header {
    fn read<I: Image + ?Sized>(image: &I, file_bytes: u64) -> Result<Self, KernelError> {
        let mut bytes = [0; HEADER_BYTES];
        let magic = &mut [0; 4];
        if file_bytes < 4 || image.read_at(magic, 0).is_err() || *magic != ELF_MAGIC {
            return Err(KernelError::NotElf);
        }
        if file_bytes < HEADER_BYTES as u64 {
            return Err(KernelError::Truncated { end: HEADER_BYTES as u64, file_bytes });
        }
        image.read_at(&mut bytes, 0).map_err(KernelError::Read)?;
        if bytes[4] != CLASS_64
            || bytes[5] != LITTLE_ENDIAN
            || u16_at(&bytes, 16) != TYPE_EXECUTABLE
        {
            return Err(KernelError::WrongKind);
        }
        let machine = u16_at(&bytes, 18);
        if machine != MACHINE_X86_64 {
            return Err(KernelError::WrongMachine { machine });
        }
        let (size, count) = (u16_at(&bytes, 54), u16_at(&bytes, 56));
        if usize::from(size) != PROGRAM_HEADER_BYTES || !(1..=MAX_PROGRAM_HEADERS).contains(&count)
        {
            return Err(KernelError::ProgramHeaders { count, size });
        }
        let table = u64_at(&bytes, 32);
        let table_bytes = u64::from(count) * PROGRAM_HEADER_BYTES as u64;
        within(table, table_bytes, file_bytes)?;
        Ok(Self { entry: u64_at(&bytes, 24), table, count })
    }
}

/// A program header's segment, if there is something to load.
fn segment(
    index: u16,
    header: &[u8; PROGRAM_HEADER_BYTES],
    image_bytes: u64,
    allowed: &Range<u64>,
) -> Result<Option<Segment>, KernelError> {
    if u32_at(header, 0) != PT_LOAD {
        return Ok(None);
    }
    let (offset, gpa) = (u64_at(header, 8), u64_at(header, 24));
    let (file_bytes, memory_bytes) = (u64_at(header, 32), u64_at(header, 40));
    if file_bytes > memory_bytes {
        return Err(KernelError::SegmentSizes { index, file_bytes, memory_bytes });
    }
    if memory_bytes == 0 {
        return Ok(None);
    }
    within(offset, file_bytes, image_bytes)?;
    let end = gpa.checked_add(memory_bytes);
    if gpa < allowed.start || end.is_none_or(|end| end > allowed.end) {
        let allowed = allowed.clone();
        return Err(KernelError::OutsideMemory { index, gpa, bytes: memory_bytes, allowed });
    }
    let writable = u32_at(header, 4) & PF_W != 0;
    Ok(Some(Segment { index, offset, gpa, file_bytes, memory_bytes, writable }))
}

fn overlap(one: &Segment, other: &Segment) -> bool {
    one.memory().start < other.memory().end && other.memory().start < one.memory().end
}

fn within(offset: u64, bytes: u64, file_bytes: u64) -> Result<(), KernelError> {
    match offset.checked_add(bytes) {
        Some(end) if end <= file_bytes => Ok(()),
        end => Err(KernelError::Truncated { end: end.unwrap_or(u64::MAX), file_bytes }),
    }
}

// The offsets are constants inside headers of constant size.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
