//! Facts about guest memory.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::{GuestRam, LowMemory, MemoryError, ranges};

const MIB: u64 = 1 << 20;

/// A file whose byte at offset n is `pattern(n)`.
fn patterned(bytes: usize) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&(0..bytes).map(pattern).collect::<Vec<_>>()).unwrap();
    Arc::new(file)
}

fn pattern(offset: usize) -> u8 {
    (offset % 251) as u8 ^ (offset >> 12) as u8 | 1
}

#[test]
fn memory_beyond_the_hole_continues_at_4_gib() {
    assert_eq!(ranges(128 * MIB), [(0, 128 * MIB)]);
    assert_eq!(ranges(3328 * MIB), [(0, 0xd000_0000)]);
    assert_eq!(ranges(3329 * MIB), [(0, 0xd000_0000), (1 << 32, MIB)]);
    assert_eq!(ranges(10752 * MIB), [(0, 0xd000_0000), (1 << 32, 7424 * MIB)]);
}

#[test]
fn the_host_address_is_aligned_for_huge_pages_in_every_range() {
    let ram = GuestRam::map(3500 * MIB, LowMemory::HugePage).unwrap();
    for (gpa, _, host) in ram.slots() {
        assert_eq!(gpa % (2 * MIB), host % (2 * MIB));
    }
}

#[test]
fn a_placed_file_has_the_same_bytes_whatever_its_alignment_and_touches_nothing_else() {
    let file = patterned(64 << 10);
    let ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    let cases = [
        (0, MIB, 0x3000),
        (0, MIB, 0x3001),
        (0x1000, MIB, 0x2fff),
        (0x123, MIB + 0x123, 0x5000),
        (0x123, MIB + 0x122, 0x5000),
        (0x123, MIB + 0x123, 0x10),
        (0xfff, MIB + 0xfff, 2),
        (0, MIB + 1, 1),
        (7, MIB, 0),
    ];
    for (index, (offset, gpa, bytes)) in cases.into_iter().enumerate() {
        // Every case gets memory that no case before it has touched.
        let gpa = gpa + index as u64 * MIB;
        ram.place(&file, offset, gpa, bytes).unwrap();
        let mut seen = vec![0; bytes as usize + 2];
        ram.shared().read_slice(&mut seen, GuestAddress(gpa - 1)).unwrap();
        let expected: Vec<u8> = (offset..offset + bytes).map(|n| pattern(n as usize)).collect();
        assert_eq!(seen[1..=bytes as usize], expected, "case {index}");
        assert_eq!((seen[0], seen[bytes as usize + 1]), (0, 0), "case {index}");
    }
}

#[test]
fn what_the_guest_writes_to_a_mapped_file_stays_out_of_the_file() {
    let file = patterned(0x4000);
    let ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    ram.place(&file, 0, MIB, 0x4000).unwrap();
    ram.write(MIB + 0x1000, &[0xee; 0x1000]).unwrap();
    let again = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    again.place(&file, 0, MIB, 0x4000).unwrap();
    let byte: u8 = again.shared().read_obj(GuestAddress(MIB + 0x1000)).unwrap();
    assert_eq!(byte, pattern(0x1000));
}

#[test]
fn nothing_is_placed_outside_guest_memory() {
    let file = patterned(0x2000);
    let ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    for (gpa, bytes) in [
        (128 * MIB, 0x1000),
        (128 * MIB - 0x1000, 0x2000),
        (u64::MAX - 0xfff, 0x2000),
        (1 << 32, 1),
    ] {
        let error = ram.place(&file, 0, gpa, bytes).expect_err("it is outside");
        assert!(matches!(error, MemoryError::Outside { .. }), "{error}");
    }
}

#[test]
fn a_copied_part_that_the_file_does_not_have_is_an_error() {
    let file = patterned(0x800);
    let ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    let error = ram.place(&file, 0, MIB, 0x900).expect_err("the file ends before");
    assert!(matches!(error, MemoryError::ReadFile { offset: 0, bytes: 0x900, .. }), "{error}");
}
