//! `_start`, the routines that the compiler calls by name, and the memory that PID 1 works with.

use core::arch::{asm, global_asm};

use votive_init::arena::ARENA_LEN;

/// All the memory that PID 1 works with; it lies in `.bss`, where only touched pages are real.
#[repr(C, align(4096))]
struct Memory([u8; ARENA_LEN]);

static mut MEMORY: Memory = Memory([0; ARENA_LEN]);

// The kernel enters with the stack pointer at argc, aligned to 16 bytes; a function expects it as a call leaves it.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

extern "C" fn main() -> ! {
    let memory = &raw mut MEMORY;
    // SAFETY: this runs once, on the only thread, and nothing else names MEMORY: the reference is the only one.
    let Memory(memory) = unsafe { &mut *memory };
    votive_init::guest::run(memory)
}

/// Copies `len` bytes from `source` to `target`.
///
/// # Safety
/// As `memcpy` of the C standard: both are valid for `len` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise; sixteen bytes at a time while there are as many, then one by one. Written in assembly
    // since the compiler would turn a loop in Rust into a call of this very function.
    unsafe {
        asm!(
            "mov rcx, {len}",
            "shr rcx, 4",
            "jz 3f",
            "2:",
            "movups {wide}, [rsi]",
            "movups [rdi], {wide}",
            "add rsi, 16",
            "add rdi, 16",
            "dec rcx",
            "jnz 2b",
            "3:",
            "mov rcx, {len}",
            "and rcx, 15",
            "rep movsb",
            len = in(reg) len,
            wide = out(xmm_reg) _,
            inout("rdi") target => _,
            inout("rsi") source => _,
            out("rcx") _,
            options(nostack),
        );
    }
    target
}

/// Copies `len` bytes from `source` to `target`, which may overlap.
///
/// # Safety
/// As `memmove` of the C standard: both are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    // Copying forwards is right unless the target begins inside the source.
    if (target as usize).wrapping_sub(source as usize) >= len {
        // SAFETY: the caller's promise. A target before the source may overlap it, but no block is read behind one that was
        // written: each read of sixteen bytes is at or after the write of the same step.
        return unsafe { memcpy(target, source, len) };
    }
    // SAFETY: the caller's promise; backwards from the last byte, with the direction flag set and cleared again.
    unsafe {
        asm!(
            "std",
            "lea rsi, [rsi + rcx - 1]",
            "lea rdi, [rdi + rcx - 1]",
            "rep movsb",
            "cld",
            inout("rdi") target => _,
            inout("rsi") source => _,
            inout("rcx") len => _,
        );
    }
    target
}

/// Fills `len` bytes at `target` with `byte`.
///
/// # Safety
/// As `memset` of the C standard: `target` is valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let word = u64::from(byte as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's promise; eight bytes at a time, then one by one.
    unsafe {
        asm!(
            "mov rcx, {len}",
            "shr rcx, 3",
            "rep stosq",
            "mov rcx, {len}",
            "and rcx, 7",
            "rep stosb",
            len = in(reg) len,
            in("rax") word,
            inout("rdi") target => _,
            out("rcx") _,
            options(nostack),
        );
    }
    target
}

/// Compares `len` bytes.
///
/// # Safety
/// As `memcmp` of the C standard: both are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    let mut at = 0;
    while at < len {
        // SAFETY: `at` is below `len`, for which the caller promises that `left` is valid.
        let one = unsafe { left.wrapping_add(at).read_volatile() };
        // SAFETY: as above, for `right`.
        let other = unsafe { right.wrapping_add(at).read_volatile() };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
        at += 1;
    }
    0
}

/// Says whether `len` bytes differ.
///
/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(left, right, len) }
}

/// The length of a C string.
///
/// # Safety
/// `text` is ended by a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: no byte before this one was a NUL, so that the string reaches at least here.
    while unsafe { text.wrapping_add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}

/// Named by the unwind tables of a build that is not optimised; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    votive_init::guest::panicked()
}
