//! The vCPUs' state at the first instruction: Linux's 64-bit boot protocol.
//!
//! Only vCPU 0 is set up to run. The others keep the state that KVM's reset gives them, waiting for
//! the guest's start-up interrupt. Their local APICs keep theirs, too: Linux programs LINT0 and LINT1
//! itself, from the MP table.

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use crate::cpuid;
use crate::kvm::Host;
use crate::layout::{GDT, PAGE_TABLES, ZERO_PAGE};
use crate::memory::{GuestRam, MemoryError};

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// Null, unused, `__BOOT_CS`, `__BOOT_DS`.
const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

const PRESENT_WRITABLE: u64 = 0x3;
const HUGE_PAGE: u64 = 0x80;
const PAGE: u64 = 4096;

const CR0_PROTECTION: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// The one bit of RFLAGS that is always set.
const RFLAGS_FIXED: u64 = 2;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Why a vCPU could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RegistersError {
    /// KVM refused.
    #[error("cannot {act} vcpu {vcpu}")]
    Kvm {
        /// What was being done.
        act: &'static str,
        /// To which vCPU.
        vcpu: u8,
        /// Why not.
        source: errno::Error,
    },
    /// The leaves are more than KVM takes.
    #[error("cannot make {leaves} cpuid leaves")]
    Leaves {
        /// Their number.
        leaves: usize,
    },
    /// KVM did not take a model-specific register.
    #[error("vcpu {vcpu} does not take model-specific register {msr:#x}")]
    Msr {
        /// Which vCPU.
        vcpu: u8,
        /// Which register.
        msr: u32,
    },
    /// Tables could not be written.
    #[error("cannot write the boot tables")]
    Memory(#[from] MemoryError),
}

/// Sets up all vCPUs, but for where the first will run from.
///
/// # Errors
/// When KVM refuses a state.
pub fn configure(vcpus: &[VcpuFd], host: &Host) -> Result<(), RegistersError> {
    // The spec allows 32 at most.
    let count = vcpus.len() as u8;
    for (index, vcpu) in (0..).zip(vcpus) {
        set_cpuid(vcpu, host, index, count)?;
        set_msrs(vcpu, index)?;
    }
    if let Some(first) = vcpus.first() {
        let mut special = first.get_sregs().map_err(failed("read the state of", 0))?;
        long_mode(&mut special);
        first.set_sregs(&special).map_err(failed("set the state of", 0))?;
    }
    Ok(())
}

/// Has the first vCPU run from `entry`, with the boot tables in memory.
///
/// # Errors
/// When KVM refuses the registers.
pub fn enter(vcpus: &[VcpuFd], ram: &GuestRam, entry: u64) -> Result<(), RegistersError> {
    write_tables(ram)?;
    let registers =
        kvm_regs { rip: entry, rsi: ZERO_PAGE, rflags: RFLAGS_FIXED, ..Default::default() };
    let Some(first) = vcpus.first() else { return Ok(()) };
    first.set_regs(&registers).map_err(failed("set registers of", 0))
}

fn set_cpuid(vcpu: &VcpuFd, host: &Host, index: u8, count: u8) -> Result<(), RegistersError> {
    let leaves = cpuid::leaves(host.cpuid.as_slice(), host.tsc_deadline, index, count);
    let leaves = CpuId::from_entries(&leaves)
        .map_err(|_| RegistersError::Leaves { leaves: leaves.len() })?;
    vcpu.set_cpuid2(&leaves).map_err(failed("set the cpuid of", index))
}

/// Fast string instructions, without which Linux avoids them on Intel, and write-back memory.
fn set_msrs(vcpu: &VcpuFd, index: u8) -> Result<(), RegistersError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries =
        [entry(MSR_MISC_ENABLE, FAST_STRINGS), entry(MSR_MTRR_DEFAULT_TYPE, MTRR_ON_WRITE_BACK)];
    let refused = |at: usize| RegistersError::Msr { vcpu: index, msr: entries[at].index };
    let msrs = Msrs::from_entries(&entries).map_err(|_| refused(0))?;
    let taken = vcpu.set_msrs(&msrs).map_err(failed("set registers of", index))?;
    if taken < entries.len() { Err(refused(taken)) } else { Ok(()) }
}

/// Flat 64-bit segments, paging by our tables, interrupts off.
fn long_mode(special: &mut kvm_sregs) {
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        type_: 0xb,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 0x3, db: 1, l: 0, ..code };
    special.cs = code;
    (special.ds, special.es, special.ss) = (data, data, data);
    (special.fs, special.gs) = (data, data);
    special.gdt.base = GDT;
    special.gdt.limit = size_of_val(&GDT_ENTRIES) as u16 - 1;
    special.cr0 = CR0_PROTECTION | CR0_EXTENSION_TYPE | CR0_PAGING;
    special.cr3 = PAGE_TABLES;
    special.cr4 = CR4_PAE;
    special.efer = EFER_LONG_MODE;
}

/// The GDT, and page tables that map the first GiB to itself in pages of 2 MiB.
fn write_tables(ram: &GuestRam) -> Result<(), MemoryError> {
    ram.write(GDT, words(&GDT_ENTRIES).as_slice())?;
    let (pdpt, directory) = (PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE);
    ram.write(PAGE_TABLES, &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
    ram.write(pdpt, &(directory | PRESENT_WRITABLE).to_le_bytes())?;
    let entry = |index: usize| (index as u64) << 21 | PRESENT_WRITABLE | HUGE_PAGE;
    let entries: [u64; 512] = std::array::from_fn(entry);
    ram.write(directory, words(&entries).as_slice())
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn failed(act: &'static str, vcpu: u8) -> impl Fn(errno::Error) -> RegistersError {
    move |source| RegistersError::Kvm { act, vcpu, source }
}
