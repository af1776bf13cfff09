//! What the kernel is told at its entry: zero page, command line, initial file system
//! (Linux's Documentation/arch/x86/boot.rst, the 64-bit protocol).

use std::fs::File;
use std::io;
use std::sync::Arc;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::ByteValued;

use crate::layout::{CMDLINE, EBDA, HIGH_RAM, IDENTITY_MAPPED_END, LOW_RAM_END, ZERO_PAGE};
use crate::limits::{MAX_CMDLINE_BYTES, MAX_INITRD_BYTES};
use crate::memory::{self, GuestRam, MemoryError, ranges};
use crate::spec::KernelMemory;

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const E820_RAM: u32 = 1;
const PAGE: u64 = 4096;

/// Why the kernel could not be told.
#[derive(Debug, thiserror::Error)]
pub enum BootParamsError {
    /// The initial file system cannot be read.
    #[error("cannot read the initrd")]
    ReadInitrd(#[source] io::Error),
    /// It has no bytes, or too many.
    #[error("the initrd has {bytes} bytes; 1 to {MAX_INITRD_BYTES} are allowed")]
    InitrdSize {
        /// Its size.
        bytes: u64,
    },
    /// It does not fit beside the kernel.
    #[error(
        "the initrd of {bytes} bytes does not fit between the kernel's end at {kernel_end:#x} and the memory's end at {end:#x}"
    )]
    InitrdRoom {
        /// Its size.
        bytes: u64,
        /// The first address behind the kernel.
        kernel_end: u64,
        /// The end of the memory that an initrd may take.
        end: u64,
    },
    /// The kernel command line is longer than the kernel reads.
    #[error(
        "the kernel command line has {bytes} bytes; {MAX_CMDLINE_BYTES} with its NUL are allowed"
    )]
    CmdlineSize {
        /// Its size without the NUL.
        bytes: usize,
    },
    /// Guest memory refused.
    #[error("cannot write boot data")]
    Memory(#[from] MemoryError),
}

/// Where an initial file system lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd {
    /// Guest physical address.
    pub gpa: u32,
    /// Size in bytes.
    pub bytes: u32,
}

/// Places the initial file system right behind the kernel.
///
/// It is mapped or copied as the kernel is. Memory around a mapped file has small pages: behind the kernel such
/// memory is there already; at the end of memory, where Linux allocates first, it would cost a fault for every
/// page that Linux touches there.
///
/// # Errors
/// When it is empty, too large or leaves the kernel no room.
pub fn load_initrd(
    file: &Arc<File>,
    ram: &GuestRam,
    kernel_end: u64,
    how: KernelMemory,
) -> Result<Initrd, BootParamsError> {
    let bytes = memory::size(file).map_err(BootParamsError::ReadInitrd)?;
    if !(1..=MAX_INITRD_BYTES).contains(&bytes) {
        return Err(BootParamsError::InitrdSize { bytes });
    }
    let end = ram.bytes().min(IDENTITY_MAPPED_END);
    let gpa = kernel_end.next_multiple_of(PAGE);
    if gpa + bytes > end {
        return Err(BootParamsError::InitrdRoom { bytes, kernel_end, end });
    }
    match how {
        KernelMemory::Mapped => ram.place(file, 0, gpa, bytes)?,
        KernelMemory::Demand | KernelMemory::Copied => ram.copy_in(file, 0, gpa, bytes)?,
    }
    // Both are below IDENTITY_MAPPED_END.
    Ok(Initrd { gpa: gpa as u32, bytes: bytes as u32 })
}

/// Writes command line and zero page.
///
/// # Errors
/// When the command line is too long.
pub fn write(ram: &GuestRam, cmdline: &str, initrd: Option<Initrd>) -> Result<(), BootParamsError> {
    if cmdline.len() >= MAX_CMDLINE_BYTES {
        return Err(BootParamsError::CmdlineSize { bytes: cmdline.len() });
    }
    // The NUL behind it is there: guest memory is zero.
    ram.write(CMDLINE, cmdline.as_bytes())?;
    let params = zero_page(ram.bytes(), initrd);
    ram.write(ZERO_PAGE, params.as_slice())?;
    Ok(())
}

fn zero_page(memory_bytes: u64, initrd: Option<Initrd>) -> boot_params {
    let mut params = boot_params::default();
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.cmdline_size = MAX_CMDLINE_BYTES as u32;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.gpa;
        params.hdr.ramdisk_size = initrd.bytes;
    }
    let map = e820(memory_bytes);
    params.e820_entries = map.len() as u8;
    for (entry, (addr, size)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type: E820_RAM };
    }
    params
}

/// The RAM that the kernel may use: all but the extended BIOS data area and what follows it below
/// 1 MiB.
fn e820(memory_bytes: u64) -> Vec<(u64, u64)> {
    let mut map = vec![(0, EBDA), (HIGH_RAM, memory_bytes.min(LOW_RAM_END) - HIGH_RAM)];
    map.extend(ranges(memory_bytes).into_iter().skip(1));
    map
}

#[cfg(test)]
mod tests;
