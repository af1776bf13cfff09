//! Facts about kernels, good and hostile.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::{any, prop_assert, proptest};
use vm_memory::{Bytes, GuestAddress};

use super::{KernelError, Plan, load};
use crate::demand;
use crate::memory::{GuestRam, LowMemory};
use crate::spec::KernelMemory;

const MIB: u64 = 1 << 20;
const ALLOWED: Range<u64> = MIB..128 * MIB;

/// A program header: (type, file offset, guest address, bytes in the file, bytes in memory).
type Header = (u32, u64, u64, u64, u64);

/// An ELF file of `bytes` bytes with these program headers right behind its own header.
fn elf(entry: u64, headers: &[Header], bytes: usize) -> Vec<u8> {
    let mut file = vec![0x90; bytes];
    let mut put = |at: usize, data: &[u8]| file[at..at + data.len()].copy_from_slice(data);
    put(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &(headers.len() as u16).to_le_bytes());
    for (index, (kind, offset, gpa, file_bytes, memory_bytes)) in headers.iter().enumerate() {
        let at = 64 + index * 56;
        put(at, &kind.to_le_bytes());
        for (field, value) in
            [(8, offset), (16, gpa), (24, gpa), (32, file_bytes), (40, memory_bytes)]
        {
            put(at + field, &value.to_le_bytes());
        }
    }
    file
}

/// A kernel as Linux is one: page-aligned text, data with a ragged end and zeroes behind it, a note.
fn good() -> Vec<u8> {
    elf(
        16 * MIB,
        &[
            (1, 0x1000, 16 * MIB, 0x2000, 0x2000),
            (1, 0x3000, 17 * MIB, 0x1234, 0x8000),
            (4, 0x1100, 16 * MIB + 0x100, 0x20, 0x20),
            (1, 0x5008, 18 * MIB, 0x10, 0x10),
        ],
        0x6000,
    )
}

fn plan(image: &[u8]) -> Result<Plan, KernelError> {
    Plan::read(image, &ALLOWED)
}

#[test]
fn a_good_kernel_is_in_memory_as_its_headers_say() {
    for how in [KernelMemory::Demand, KernelMemory::Mapped, KernelMemory::Copied] {
        loads_as_its_headers_say(how);
    }
}

fn loads_as_its_headers_say(how: KernelMemory) {
    let mut image = good();
    for (at, byte) in image.iter_mut().enumerate().skip(0x1000) {
        *byte = (at % 251) as u8 | 1;
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image).unwrap();
    let file = Arc::new(file);
    let mut ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    if how == KernelMemory::Demand {
        ram = ram.deferring();
    }
    let plan = load(&file, &ram, how).unwrap();
    if how == KernelMemory::Demand {
        demand::tests::start(&mut ram, |filled| filled.unwrap());
    }
    assert_eq!((plan.entry, plan.segments.len()), (16 * MIB, 3));
    assert_eq!(plan.end(), 18 * MIB + 0x10);
    for segment in &plan.segments {
        let mut seen = vec![1; segment.memory_bytes as usize];
        ram.shared().read_slice(&mut seen, GuestAddress(segment.gpa)).unwrap();
        let (filled, zero) = seen.split_at(segment.file_bytes as usize);
        let offset = segment.offset as usize;
        assert_eq!(filled, &image[offset..offset + filled.len()], "segment {}", segment.index);
        assert!(zero.iter().all(|byte| *byte == 0), "segment {}", segment.index);
    }
}

/// The good kernel with one change is refused by `expected`.
fn refused(change: impl FnOnce(&mut Vec<u8>), expected: impl FnOnce(&KernelError) -> bool) {
    let mut image = good();
    change(&mut image);
    let error = plan(&image).expect_err("the kernel is not good any more");
    assert!(expected(&error), "{error}");
}

/// Writes `value` to field `field` of program header `index`.
fn set(image: &mut [u8], index: usize, field: usize, value: u64) {
    let at = 64 + index * 56 + field;
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn what_is_no_kernel_is_named() {
    for image in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &[0; 4096]] {
        assert!(matches!(plan(image), Err(KernelError::NotElf)));
    }
    refused(|image| image[4] = 1, |error| matches!(error, KernelError::WrongKind));
    refused(|image| image[5] = 2, |error| matches!(error, KernelError::WrongKind));
    refused(|image| image[16] = 3, |error| matches!(error, KernelError::WrongKind));
    refused(
        |image| image[18] = 183,
        |error| matches!(error, KernelError::WrongMachine { machine: 183 }),
    );
}

#[test]
fn absurd_program_header_tables_are_refused() {
    let odd = |error: &KernelError| matches!(error, KernelError::ProgramHeaders { .. });
    refused(|image| image[56..58].fill(0), odd);
    refused(|image| image[56..58].fill(0xff), odd);
    refused(|image| image[54] = 32, odd);
    let cut = |error: &KernelError| matches!(error, KernelError::Truncated { .. });
    refused(|image| image[32..40].fill(0xff), cut);
    refused(|image| image[32..40].copy_from_slice(&0x5ff0_u64.to_le_bytes()), cut);
}

#[test]
fn a_kernel_cut_anywhere_is_refused() {
    let image = good();
    for bytes in 0..0x5018 {
        assert!(plan(&image[..bytes]).is_err(), "{bytes} bytes");
    }
    assert!(plan(&image[..0x5018]).is_ok());
}

#[test]
fn segments_outside_memory_are_refused() {
    let outside =
        |error: &KernelError| matches!(error, KernelError::OutsideMemory { index: 1, .. });
    for gpa in [0, MIB - 1, 128 * MIB - 0x7fff, 128 * MIB, 1 << 40, u64::MAX, u64::MAX - 0x7fff] {
        refused(|image| set(image, 1, 24, gpa), outside);
    }
    refused(|image| set(image, 1, 40, 111 * MIB + 1), outside);
    refused(|image| set(image, 1, 40, u64::MAX), outside);
}

#[test]
fn segments_with_impossible_sizes_are_refused() {
    refused(
        |image| set(image, 1, 32, 0x8001),
        |error| matches!(error, KernelError::SegmentSizes { index: 1, .. }),
    );
    refused(
        |image| set(image, 1, 8, u64::MAX - 1),
        |error| matches!(error, KernelError::Truncated { end: u64::MAX, .. }),
    );
}

#[test]
fn overlapping_segments_are_refused() {
    for gpa in [16 * MIB - 0x7fff, 16 * MIB, 16 * MIB + 0x1fff] {
        refused(
            |image| set(image, 1, 24, gpa),
            |error| matches!(error, KernelError::Overlap { first: 0, second: 1 }),
        );
    }
}

#[test]
fn an_entry_that_no_file_byte_gives_is_refused() {
    for entry in [0, 16 * MIB - 1, 16 * MIB + 0x2000, 17 * MIB + 0x1234, u64::MAX] {
        refused(
            |image| image[24..32].copy_from_slice(&entry.to_le_bytes()),
            |error| matches!(error, KernelError::Entry { entry: seen } if *seen == entry),
        );
    }
    refused(
        |image| (0..4).for_each(|index| image[64 + index * 56] = 6),
        |error| matches!(error, KernelError::NoSegments),
    );
}

#[test]
fn a_kernel_must_fit_a_small_guest() {
    let error = Plan::read(good().as_slice(), &(MIB..17 * MIB)).expect_err("it does not fit");
    assert!(matches!(error, KernelError::OutsideMemory { index: 1, .. }), "{error}");
}

proptest! {
    #[test]
    fn any_plan_that_is_accepted_lies_in_the_file_and_in_memory_without_overlap(
        changes in proptest::collection::vec((0_usize..288, any::<u8>()), 0..12),
        cut in 0_usize..0x6000,
    ) {
        let mut image = good();
        changes.into_iter().for_each(|(at, byte)| image[at] = byte);
        image.truncate(0x6000 - cut * usize::from(cut % 3 == 0));
        if let Ok(plan) = plan(&image) {
            for (at, segment) in plan.segments.iter().enumerate() {
                prop_assert!(segment.offset + segment.file_bytes <= image.len() as u64);
                prop_assert!(segment.file_bytes <= segment.memory_bytes);
                prop_assert!(segment.gpa >= ALLOWED.start && segment.memory().end <= ALLOWED.end);
                for other in &plan.segments[..at] {
                    prop_assert!(other.memory().end <= segment.gpa || segment.memory().end <= other.gpa);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        head in proptest::collection::vec(any::<u8>(), 0..256), magic in any::<bool>()
    ) {
        let mut image = head;
        if magic && image.len() >= 64 {
            image[..6].copy_from_slice(b"\x7fELF\x02\x01");
            image[16..20].copy_from_slice(&[2, 0, 62, 0]);
        }
        let _ = plan(&image);
    }
}
