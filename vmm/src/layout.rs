//! Where things are in guest physical memory, and which interrupt lines devices have.
//!
//! ```text
//! 0x0000_7000  zero page (boot_params)
//! 0x0000_9000  page tables: PML4, PDPT, one page directory (identity map of the first GiB)
//! 0x0002_0000  kernel command line; behind it the GDT
//! 0x0009_fc00  extended BIOS data area: MP table
//! 0x0010_0000  RAM that the kernel may use: kernel at its own address, initrd at the end
//! 0xd000_0000  virtio-mmio windows, 4 KiB each; the IOAPIC and local APICs above them
//! 0x1_0000_0000  RAM above 3,328 MiB
//! ```

/// The zero page: Linux's `boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables of the first instructions: three pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// The global descriptor table; it shares the command line's page, so that one page less is touched.
pub const GDT: u64 = CMDLINE + crate::limits::MAX_CMDLINE_BYTES as u64;
/// The extended BIOS data area, where Linux looks for an MP table first.
pub const EBDA: u64 = 0x9_fc00;
/// Size of the extended BIOS data area in bytes.
pub const EBDA_BYTES: usize = 0x400;
/// First byte of RAM that a kernel may be loaded to.
pub const HIGH_RAM: u64 = 0x10_0000;
/// End of what the page tables of the first instructions map.
pub const IDENTITY_MAPPED_END: u64 = 1 << 30;
/// End of RAM below 4 GiB, and start of the virtio-mmio windows.
pub const LOW_RAM_END: u64 = 0xd000_0000;
/// Start of RAM above the hole.
pub const RAM_ABOVE_4G: u64 = 1 << 32;

/// First virtio-mmio window.
pub const MMIO_BASE: u64 = LOW_RAM_END;
/// Size of one virtio-mmio window in bytes.
pub const MMIO_WINDOW_BYTES: u64 = 0x1000;
/// First interrupt line of a virtio device.
pub const FIRST_GSI: u32 = 5;
/// Devices that have an interrupt line below 16, where Linux's ISA rules hold without ACPI.
pub const MAX_DEVICES: usize = 11;

/// Physical address of the IOAPIC.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Physical address of the local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Where KVM keeps its task state segment on Intel: above the local APICs, in no memory slot.
pub const TSS: u64 = 0xfffb_d000;

/// Where marks are written to: a byte is a mark.
pub const MARK_PORT: u16 = 0x0f4;
/// Where the guest ends the microVM: 0 is a power-off.
pub const EXIT_PORT: u16 = 0x0f5;
/// The 16550's first port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The 16550's interrupt line.
pub const SERIAL_GSI: u32 = 4;

/// The window of device `index`.
#[must_use]
pub fn mmio_address(index: usize) -> u64 {
    MMIO_BASE + index as u64 * MMIO_WINDOW_BYTES
}

/// The interrupt line of device `index`, which must be below [`MAX_DEVICES`].
#[must_use]
pub fn gsi(index: usize) -> u32 {
    assert!(index < MAX_DEVICES, "the spec's caps leave room for every device");
    FIRST_GSI + index as u32
}
