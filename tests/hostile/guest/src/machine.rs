//! The machine, bare: ports, memory by its physical address, and the gate to privilege level 0.
//!
//! These functions can do anything to the guest that calls them. That is the point of this program, which is the only one in
//! its machine; none of the addresses belongs to an object that Rust knows of, but for those of `entry`.

#![expect(unsafe_code, reason = "ports, physical memory and privileged instructions")]

use core::arch::asm;

use crate::command_line::CommandLine;

/// Where votive's guests end their microVM: a byte, 0 for a power-off.
pub(crate) const EXIT_PORT: u16 = 0xf5;
/// Where votive's guests write marks.
pub(crate) const MARK_PORT: u16 = 0xf4;
/// The keyboard controller's command port, and its command to reset the machine.
pub(crate) const KEYBOARD_PORT: u16 = 0x64;
/// See [`KEYBOARD_PORT`].
pub(crate) const KEYBOARD_RESET: u8 = 0xfe;

macro_rules! memory {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $class:ident) => {
        /// Reads at a physical address, aligned or not.
        pub(crate) fn $read(address: u64) -> $type {
            let value: $type;
            // SAFETY: one load, of an address that means nothing to Rust; see the module.
            unsafe { asm!($load, out($class) value, in(reg) address, options(nostack, preserves_flags)) };
            value
        }

        /// Writes at a physical address, aligned or not.
        pub(crate) fn $write(address: u64, value: $type) {
            // SAFETY: one store, to an address that means nothing to Rust; see the module.
            unsafe { asm!($store, in($class) value, in(reg) address, options(nostack, preserves_flags)) };
        }
    };
}

memory!(read8, write8, u8, "mov {0}, byte ptr [{1}]", "mov byte ptr [{1}], {0}", reg_byte);
memory!(read16, write16, u16, "mov {0:x}, word ptr [{1}]", "mov word ptr [{1}], {0:x}", reg);
memory!(read32, write32, u32, "mov {0:e}, dword ptr [{1}]", "mov dword ptr [{1}], {0:e}", reg);
memory!(read64, write64, u64, "mov {0}, qword ptr [{1}]", "mov qword ptr [{1}], {0}", reg);

/// Fills memory with zeroes, a word at a time.
pub(crate) fn zero(address: u64, bytes: u64) {
    for at in (address..address + bytes).step_by(8) {
        write64(at, 0);
    }
}

macro_rules! port {
    ($read:ident, $write:ident, $type:ty, $in:literal, $out:literal, $register:tt) => {
        /// Reads a port.
        pub(crate) fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: a port access does not touch memory; see the module.
            unsafe { asm!($in, in("dx") port, out($register) value, options(nomem, nostack)) };
            value
        }

        /// Writes a port.
        pub(crate) fn $write(port: u16, value: $type) {
            // SAFETY: as for reading.
            unsafe { asm!($out, in("dx") port, in($register) value, options(nomem, nostack)) };
        }
    };
}

port!(in8, out8, u8, "in al, dx", "out dx, al", "al");
port!(in16, out16, u16, "in ax, dx", "out dx, ax", "ax");
port!(in32, out32, u32, "in eax, dx", "out dx, eax", "eax");

/// Writes `count` bytes from memory at `address` to a port, in one instruction.
pub(crate) fn out_string(port: u16, address: u64, count: u64) {
    // SAFETY: reads memory that nothing writes meanwhile; see the module.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") address => _, inout("rcx") count => _, options(nostack));
    }
}

/// Reads `count` bytes from a port into memory at `address`, in one instruction.
pub(crate) fn in_string(port: u16, address: u64, count: u64) {
    // SAFETY: writes memory that is nobody's; see the module.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rdi") address => _, inout("rcx") count => _, options(nostack));
    }
}

/// Copies within memory with one instruction, also from and to where there is none.
pub(crate) fn copy_string(from: u64, to: u64, count: u64) {
    // SAFETY: the target is nobody's; see the module.
    unsafe {
        asm!("rep movsb", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") count => _, options(nostack));
    }
}

/// The time-stamp counter: a bound for waits, not a clock.
pub(crate) fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Orders all memory accesses: devices are other processors.
pub(crate) fn fence() {
    // SAFETY: an instruction without operands. The compiler takes it for one that uses memory.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// Tells the processor that this is a waiting loop.
pub(crate) fn pause() {
    core::hint::spin_loop();
}

/// Goes on at an address.
pub(crate) fn jump(address: u64) -> ! {
    // SAFETY: whatever is there runs, which is what the caller wants to see.
    unsafe { asm!("jmp {}", in(reg) address, options(noreturn)) }
}

/// Calls a function of machine code at an address, which keeps all registers but RAX.
pub(crate) fn call(address: u64) -> u64 {
    let result;
    // SAFETY: the caller wrote that code.
    unsafe { asm!("call {}", in(reg) address, out("rax") result, clobber_abi("C")) };
    result
}

/// What privilege level 0 does for the rest; the numbers are known to `entry`.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Privileged {
    /// Halts with interrupts off, for ever.
    Halt = 1,
    /// An exception that nothing handles.
    TripleFault = 2,
    /// Writes a model-specific register: its number and value.
    WriteMsr = 3,
    /// Copies the second processor's first instructions to 0x8000.
    CopyStart = 4,
    /// Goes on at an address, the second argument: where user code would only get an exception from KVM.
    Jump = 5,
}

/// Does something at privilege level 0.
pub(crate) fn privileged(what: Privileged, first: u64, second: u64) {
    // SAFETY: the handler of this exception does it, changes the named registers only and comes back behind the instruction.
    unsafe {
        asm!(
            "ud2",
            inout("rdi") what as u64 => _,
            out("rsi") _,
            inout("rcx") first => _,
            inout("rax") second => _,
            out("rdx") _,
        );
    }
}

/// Ends the machine with a code, as far as the VMM knows codes.
pub(crate) fn end(command_line: &CommandLine<'_>, code: u8) -> ! {
    if !command_line.is_firecracker {
        out8(EXIT_PORT, code);
    }
    out8(KEYBOARD_PORT, KEYBOARD_RESET);
    loop {
        pause();
    }
}
