//! What kind of KVM this host has, found out by running a small loop rather than by a name.
//!
//! A KVM that has the processor run guest kernel code does [`ITERATIONS`] of a two-instruction loop in microseconds. One that
//! emulates such code instruction by instruction (PVM does) needs more than [`EMULATED_NS`], and cannot boot Linux: an
//! instruction that its emulator does not know comes soon. The loop runs in 64-bit mode at privilege level 0, as a kernel does.
#![expect(unsafe_code, reason = "handing the probe's memory to KVM")]

use std::fmt;
use std::time::Instant;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::errno;

/// Iterations of the loop.
pub const ITERATIONS: u32 = 10_000;
/// A loop that took longer than this was emulated. Emulators need 10 ms or more, processors below 0.1 ms, and a processor
/// that is emulated itself (a lab under QEMU's TCG) stays below 2 ms.
pub const EMULATED_NS: u64 = 6_000_000;
/// Times that the loop is run before it is called slow. One quick run proves a processor; a slow one may have met a busy host,
/// or a lab that saw this code for the first time.
const RUNS: u32 = 12;
/// Exits that are looked at before a run is given up.
const EXITS_MAX: u32 = 64;

const MEMORY_BYTES: usize = 0x1_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const TSS: usize = 0xfffb_d000;
const DONE_PORT: u16 = 0xf5;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;
const CR0_PROTECTED: u64 = 1;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG: u64 = (1 << 8) | (1 << 10);

/// `mov ecx, 10000; 1: dec ecx; jnz 1b; out 0xf5, al; hlt`
const LOOP: [u8; 12] = [0xb9, 0x10, 0x27, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xe6, 0xf5, 0xf4];
const _: () = assert!(ITERATIONS == 0x2710);

/// What was found.
#[derive(Debug)]
pub enum Kind {
    /// The processor runs guest kernel code.
    Native {
        /// The loop's time in nanoseconds.
        loop_ns: u64,
    },
    /// Guest kernel code is emulated.
    Emulated {
        /// The loop's time in nanoseconds.
        loop_ns: u64,
    },
    /// There is no `/dev/kvm`.
    Absent,
    /// `/dev/kvm` may not be opened by this user.
    NoPermission,
    /// `/dev/kvm` is there and does not work.
    Failed(ProbeError),
}

/// Why the loop did not run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A call to KVM.
    #[error("{call}: {source}")]
    Kvm {
        /// Which.
        call: &'static str,
        /// Why.
        source: errno::Error,
    },
    /// The probe's memory.
    #[error("no memory for the probe")]
    Memory,
    /// The loop ended where it should not.
    #[error("the loop ended with {exit}")]
    Exit {
        /// KVM's word for it.
        exit: String,
    },
}

/// One line of `key=value` words, the form that `votive doctor` reads.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native { loop_ns } => write!(f, "kvm=native loop_ns={loop_ns}"),
            Self::Emulated { loop_ns } => write!(f, "kvm=emulated loop_ns={loop_ns}"),
            Self::Absent => f.write_str("kvm=absent"),
            Self::NoPermission => f.write_str("kvm=no-permission"),
            Self::Failed(error) => write!(f, "kvm=failed error={error}"),
        }
    }
}

/// Finds out.
#[must_use]
pub fn probe() -> Kind {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return unopened(error),
    };
    match quickest_loop(&kvm) {
        Ok(loop_ns) if loop_ns > EMULATED_NS => Kind::Emulated { loop_ns },
        Ok(loop_ns) => Kind::Native { loop_ns },
        Err(error) => Kind::Failed(error),
    }
}

fn unopened(error: errno::Error) -> Kind {
    match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Kind::Absent,
        libc::EACCES | libc::EPERM => Kind::NoPermission,
        _ => Kind::Failed(ProbeError::Kvm { call: "open /dev/kvm", source: error }),
    }
}

fn quickest_loop(kvm: &Kvm) -> Result<u64, ProbeError> {
    let memory = guest_memory().ok_or(ProbeError::Memory)?;
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    give_memory(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    enter_long_mode(&vcpu)?;
    let mut quickest = u64::MAX;
    for _ in 0..RUNS {
        vcpu.set_regs(&registers()).map_err(failed("KVM_SET_REGS"))?;
        let started = Instant::now();
        run_loop(&mut vcpu)?;
        let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        quickest = quickest.min(took);
        if quickest <= EMULATED_NS {
            break;
        }
    }
    Ok(quickest)
}

/// The loop's code and page tables: the first 2 MiB, mapped onto themselves.
fn guest_memory() -> Option<GuestMemoryMmap> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).ok()?;
    let entries = [
        (PML4, PDPT | PAGE_PRESENT_WRITABLE),
        (PDPT, PAGE_DIRECTORY | PAGE_PRESENT_WRITABLE),
        (PAGE_DIRECTORY, PAGE_LARGE | PAGE_PRESENT_WRITABLE),
    ];
    for (table, entry) in entries {
        memory.write_obj(entry, GuestAddress(table)).ok()?;
    }
    memory.write_slice(&LOOP, GuestAddress(CODE)).ok()?;
    Some(memory)
}

fn give_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), ProbeError> {
    let host = memory.get_host_address(GuestAddress(0)).map_err(|_| ProbeError::Memory)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_BYTES as u64,
        userspace_addr: host as u64,
    };
    // Intel's processors want a place for this; others ignore it, and some KVMs do not know it.
    let _ = vm.set_tss_address(TSS);
    // SAFETY: the region is the whole of `memory`, which the caller keeps until after the vCPU and the VM are gone.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))
}

fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), ProbeError> {
    let mut special = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    long_mode(&mut special);
    vcpu.set_sregs(&special).map_err(failed("KVM_SET_SREGS"))
}

fn long_mode(special: &mut kvm_sregs) {
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    special.cs = kvm_segment { selector: 0x8, type_: 11, l: 1, db: 0, ..data };
    for segment in [&mut special.ds, &mut special.es, &mut special.ss] {
        *segment = data;
    }
    special.cr3 = PML4;
    special.cr4 = CR4_PAE;
    special.cr0 = CR0_PROTECTED | CR0_PAGING;
    special.efer = EFER_LONG;
}

fn registers() -> kvm_regs {
    // Bit 1 of the flags is always set (Intel SDM volume 1, 3.4.3).
    kvm_regs { rip: CODE, rflags: 2, ..Default::default() }
}

fn run_loop(vcpu: &mut VcpuFd) -> Result<(), ProbeError> {
    for _ in 0..EXITS_MAX {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => return Ok(()),
            Ok(VcpuExit::Intr) => {}
            Ok(exit) => return Err(ProbeError::Exit { exit: format!("{exit:?}") }),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {}
            Err(source) => return Err(ProbeError::Kvm { call: "KVM_RUN", source }),
        }
    }
    Err(ProbeError::Exit { exit: String::from("interruptions only") })
}

fn failed(call: &'static str) -> impl Fn(errno::Error) -> ProbeError {
    move |source| ProbeError::Kvm { call, source }
}

#[cfg(test)]
mod tests;
