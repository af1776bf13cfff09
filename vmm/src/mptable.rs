//! The MP table (MultiProcessor Specification 1.4): how a guest without ACPI finds its processors,
//! its IOAPIC and its interrupt lines.
//!
//! Linux looks at the extended BIOS data area early and finds the table at its first byte. The
//! interrupt lines are those ISA lines that a device has, wired one to one, edge-triggered and active
//! high; each line named costs a boot an interrupt descriptor.

use crate::layout::{EBDA, IOAPIC, LOCAL_APIC};

const POINTER_BYTES: usize = 16;
const HEADER_BYTES: usize = 44;
const PROCESSOR_BYTES: usize = 20;
const ENTRY_BYTES: usize = 8;
const ISA_LINES: usize = 16;

const REVISION_1_4: u8 = 4;
/// Version number of an APIC that is not an 82489DX and has its usual registers.
const APIC_VERSION: u8 = 0x14;
const PROCESSOR_ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
const EVERY_APIC: u8 = 0xff;

/// Size in bytes of the table of a guest with that many vCPUs and every line in use.
#[must_use]
pub const fn bytes(vcpus: u8) -> usize {
    // Besides processors and interrupt lines: a bus, an IOAPIC and two local interrupts.
    let entries = 4 + ISA_LINES;
    POINTER_BYTES + HEADER_BYTES + vcpus as usize * PROCESSOR_BYTES + entries * ENTRY_BYTES
}

/// The table of a guest whose vCPUs have the APIC ids 0 to `vcpus` - 1 and whose devices have `lines`, each below 16 and there
/// once; to be placed at [`EBDA`].
#[must_use]
pub fn table(vcpus: u8, lines: &[u8]) -> Vec<u8> {
    let ioapic_id = vcpus;
    let mut entries = Vec::with_capacity(bytes(vcpus));
    for apic_id in 0..vcpus {
        entries.extend_from_slice(&processor(apic_id));
    }
    entries.extend_from_slice(&[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IOAPIC.to_le_bytes();
    entries.extend_from_slice(&[IO_APIC, ioapic_id, APIC_VERSION, 1, a, b, c, d]);
    for line in lines {
        entries.extend_from_slice(&[IO_INTERRUPT, VECTORED, 0, 0, 0, *line, ioapic_id, *line]);
    }
    entries.extend_from_slice(&[LOCAL_INTERRUPT, EXTERNAL, 0, 0, 0, 0, 0, 0]);
    entries.extend_from_slice(&[LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, EVERY_APIC, 1]);

    let mut table = pointer().to_vec();
    table.extend_from_slice(&header(vcpus, lines, &entries));
    table.extend_from_slice(&entries);
    table
}

/// The floating pointer, which says where the table is: right behind itself.
fn pointer() -> [u8; POINTER_BYTES] {
    let mut pointer = [0; POINTER_BYTES];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(EBDA as u32 + POINTER_BYTES as u32).to_le_bytes());
    pointer[8] = 1;
    pointer[9] = REVISION_1_4;
    pointer[10] = checksum(&[&pointer]);
    pointer
}

fn header(vcpus: u8, lines: &[u8], entries: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(b"PCMP");
    header[4..6].copy_from_slice(&((HEADER_BYTES + entries.len()) as u16).to_le_bytes());
    header[6] = REVISION_1_4;
    header[8..16].copy_from_slice(b"VOTIVE  ");
    header[16..28].copy_from_slice(b"VMM         ");
    let count = u16::from(vcpus) + lines.len() as u16 + 4;
    header[34..36].copy_from_slice(&count.to_le_bytes());
    header[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    header[7] = checksum(&[&header, entries]);
    header
}

fn processor(apic_id: u8) -> [u8; PROCESSOR_BYTES] {
    let flags = if apic_id == 0 { PROCESSOR_ENABLED | BOOT_PROCESSOR } else { PROCESSOR_ENABLED };
    let mut entry = [0; PROCESSOR_BYTES];
    entry[..4].copy_from_slice(&[PROCESSOR, apic_id, APIC_VERSION, flags]);
    // Family 6, an FPU and an APIC: Linux reads CPUID for anything that matters.
    entry[4..8].copy_from_slice(&0x600_u32.to_le_bytes());
    entry[8..12].copy_from_slice(&0x201_u32.to_le_bytes());
    entry
}

/// The byte that makes the sum of all bytes zero.
fn checksum(parts: &[&[u8]]) -> u8 {
    parts.iter().flat_map(|part| part.iter()).fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests;
