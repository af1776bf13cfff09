//! Facts about what the kernel is told.

use std::io::Write;
use std::sync::Arc;

use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{BootParamsError, Initrd, e820, load_initrd, write, zero_page};
use crate::layout::{CMDLINE, ZERO_PAGE};
use crate::memory::{GuestRam, LowMemory};
use crate::spec::KernelMemory;

const MIB: u64 = 1 << 20;

#[test]
fn the_zero_page_is_one_page_with_the_boot_protocols_fields_at_their_offsets() {
    let params = zero_page(128 * MIB, Some(Initrd { gpa: 0x7fe_0000, bytes: 0x1234 }));
    let bytes = params.as_slice();
    assert_eq!(bytes.len(), 4096);
    let at = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
    assert_eq!(at(0x202), 0x5372_6448, "header");
    assert_eq!(at(0x218), 0x7fe_0000, "ramdisk_image");
    assert_eq!(at(0x21c), 0x1234, "ramdisk_size");
    assert_eq!(u64::from(at(0x228)), CMDLINE, "cmd_line_ptr");
    assert_eq!(bytes[0x210], 0xff, "type_of_loader");
    assert_eq!(bytes[0x1e8], 2, "e820_entries");
}

#[test]
fn the_memory_map_leaves_out_the_bios_area_and_the_hole() {
    assert_eq!(e820(128 * MIB), [(0, 0x9_fc00), (MIB, 127 * MIB)]);
    assert_eq!(e820(4096 * MIB), [(0, 0x9_fc00), (MIB, 0xd000_0000 - MIB), (1 << 32, 768 * MIB)]);
}

#[test]
fn the_command_line_ends_with_a_nul_and_is_refused_when_too_long() {
    let ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    write(&ram, "a=b", None).unwrap();
    let mut seen = [1; 4];
    ram.shared().read_slice(&mut seen, GuestAddress(CMDLINE)).unwrap();
    assert_eq!(&seen, b"a=b\0");
    let flag: u16 = ram.shared().read_obj(GuestAddress(ZERO_PAGE + 0x1fe)).unwrap();
    assert_eq!(flag, 0xaa55);
    let error = write(&ram, &"x".repeat(2048), None).expect_err("it is too long");
    assert!(matches!(error, BootParamsError::CmdlineSize { bytes: 2048 }));
    write(&ram, &"x".repeat(2047), None).unwrap();
}

#[test]
fn an_initrd_lies_behind_the_kernel_and_within_memory() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0x5a; 10_000]).unwrap();
    let file = Arc::new(file);
    let ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    let initrd = load_initrd(&file, &ram, 32 * MIB + 1, KernelMemory::Mapped).unwrap();
    assert_eq!(u64::from(initrd.gpa), 32 * MIB + 4096);
    assert_eq!(initrd.bytes, 10_000);
    let last = GuestAddress(u64::from(initrd.gpa) + 9_999);
    assert_eq!(ram.shared().read_obj::<u8>(last).unwrap(), 0x5a);
    assert_eq!(ram.shared().read_obj::<u8>(GuestAddress(last.0 + 1)).unwrap(), 0);
    load_initrd(&file, &ram, 128 * MIB - 3 * 4096, KernelMemory::Copied).unwrap();
    let error =
        load_initrd(&file, &ram, 128 * MIB - 2 * 4096, KernelMemory::Mapped).expect_err("no room");
    assert!(matches!(error, BootParamsError::InitrdRoom { .. }), "{error}");
}

#[test]
fn an_empty_or_huge_initrd_is_refused() {
    let ram = GuestRam::map(128 * MIB, LowMemory::HugePage).unwrap();
    for bytes in [0, 65 * MIB] {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(bytes).unwrap();
        let error = load_initrd(&file, &ram, 32 * MIB, KernelMemory::Mapped)
            .expect_err("its size is wrong");
        assert!(matches!(error, BootParamsError::InitrdSize { .. }), "{error}");
    }
}
