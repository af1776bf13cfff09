//! The one check that matters on a built kernel: that a VMM can map it instead of copying it.

use anyhow::{Result, bail, ensure};

const PAGE: u64 = 4096;
const PROGRAM_HEADER_BYTES: usize = 56;
const PT_LOAD: u32 = 1;

/// Fails unless every loadable segment of a 64-bit ELF starts at a page of the file and at a page of guest memory.
pub(crate) fn check_mappable(image: &[u8]) -> Result<()> {
    ensure!(image.get(..5) == Some(&[0x7f, b'E', b'L', b'F', 2]), "not a 64-bit ELF file");
    let table = number(image, 32, 8)?;
    let count = number(image, 56, 2)?;
    let mut loadable = 0;
    for index in 0..count {
        let at = usize::try_from(table + index * PROGRAM_HEADER_BYTES as u64)?;
        if number(image, at, 4)? != u64::from(PT_LOAD) {
            continue;
        }
        let (offset, address) = (number(image, at + 8, 8)?, number(image, at + 24, 8)?);
        if offset % PAGE != 0 || address % PAGE != 0 {
            bail!("segment {index} is at {offset:#x} in the file and at {address:#x} in memory");
        }
        loadable += 1;
    }
    ensure!(loadable > 0, "no loadable segment");
    Ok(())
}

/// A little-endian number of `size` bytes.
fn number(image: &[u8], at: usize, size: usize) -> Result<u64> {
    let Some(bytes) = at.checked_add(size).and_then(|end| image.get(at..end)) else {
        bail!("cut short at byte {at}");
    };
    Ok(bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
