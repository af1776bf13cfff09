//! From the VMM's hands to [`crate::run`] at privilege level 3; exceptions; what the compiler calls by name.
//!
//! The VMM gives 64-bit mode and page tables for the first GiB that user code may not use. Here are others, for the first GiB
//! and the last below 4 GiB, and descriptor tables with a task whose bitmap allows all ports. An undefined instruction is how
//! user code asks for privileged work ([`crate::machine::Privileged`]); any other exception ends the machine.

#![expect(unsafe_code, reason = "the entry point, and memory routines that the compiler calls")]

use core::arch::{asm, global_asm};

use crate::layout::{CODE_EXCEPTION, CODE_PANIC};
use crate::machine::{EXIT_PORT, KEYBOARD_PORT, KEYBOARD_RESET};

const STACK_BYTES: usize = 64 << 10;

global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    "cld",
    "mov r12, rsi",
    "lea rsp, [rip + kernel_stack_top]",
    "lea rax, [rip + pml4]",
    "mov cr3, rax",
    // SSE for user code: CR4.OSFXSR and OSXMMEXCPT, no emulation of the x87.
    "mov rax, cr4",
    "or rax, 0x600",
    "mov cr4, rax",
    "mov rax, cr0",
    "and rax, -5",
    "or rax, 2",
    "mov cr0, rax",
    // The task's address goes into its descriptor in pieces.
    "lea rax, [rip + task]",
    "mov word ptr [rip + task_descriptor + 2], ax",
    "shr rax, 16",
    "mov byte ptr [rip + task_descriptor + 4], al",
    "mov byte ptr [rip + task_descriptor + 7], ah",
    "lgdt [rip + gdt_pointer]",
    "mov ax, 0x38",
    "ltr ax",
    "lea rax, [rip + unexpected]",
    "lea rbx, [rip + idt]",
    "mov ecx, 256",
    "2: mov word ptr [rbx], ax",
    "mov word ptr [rbx + 2], 0x10",
    "mov word ptr [rbx + 4], 0xee00",
    "mov edx, eax",
    "shr edx, 16",
    "mov word ptr [rbx + 6], dx",
    "add rbx, 16",
    "dec ecx",
    "jnz 2b",
    "lea rax, [rip + asked]",
    "lea rbx, [rip + idt + 6 * 16]",
    "mov word ptr [rbx], ax",
    "shr eax, 16",
    "mov word ptr [rbx + 6], ax",
    "lidt [rip + idt_pointer]",
    // To user code: SS, RSP, RFLAGS with I/O privilege 3 and interrupts off, CS, RIP.
    "lea rax, [rip + user_stack_top]",
    "push 0x2b",
    "push rax",
    "push 0x3002",
    "push 0x33",
    "lea rax, [rip + user]",
    "push rax",
    "iretq",
    "user:",
    "mov rdi, r12",
    "xor ebp, ebp",
    "call {run}",
    "ud2",
    // What user code asks for.
    "asked:",
    "cmp rdi, 1",
    "je 3f",
    "cmp rdi, 2",
    "je 4f",
    "cmp rdi, 3",
    "je 5f",
    "cmp rdi, 4",
    "je 7f",
    "cmp rdi, 5",
    "je 8f",
    "jmp unexpected",
    "3: cli",
    "hlt",
    "jmp 3b",
    "4: lidt [rip + no_idt_pointer]",
    "ud2",
    "5: mov rdx, rax",
    "shr rdx, 32",
    "wrmsr",
    "add qword ptr [rsp], 2",
    "iretq",
    "8: jmp rax",
    "7: lea rsi, [rip + second_start]",
    "mov edi, 0x8000",
    "mov ecx, 512",
    "rep movsb",
    "add qword ptr [rsp], 2",
    "iretq",
    // The second processor, in 64-bit mode.
    "second_long:",
    "lea rsp, [rip + second_kernel_stack_top]",
    "mov ax, 0x18",
    "mov ss, ax",
    "mov ds, ax",
    "mov es, ax",
    "lidt [rip + idt_pointer]",
    "lea rax, [rip + second_user_stack_top]",
    "push 0x2b",
    "push rax",
    "push 0x3002",
    "push 0x33",
    "lea rax, [rip + second_user]",
    "push rax",
    "iretq",
    "second_user:",
    "call {second}",
    "ud2",
    "unexpected:",
    "mov al, {code}",
    "out {exit_port}, al",
    "mov al, {reset}",
    "out {keyboard}, al",
    "6: hlt",
    "jmp 6b",
    ".popsection",
    ".pushsection .data.entry, \"aw\"",
    ".balign 4096",
    "pml4: .quad pdpt + 7",
    ".fill 511, 8, 0",
    "pdpt: .quad low + 7, 0, 0, high + 7",
    ".fill 508, 8, 0",
    "low:",
    ".set page, 0",
    ".rept 512",
    ".quad page + 0x87",
    ".set page, page + 0x200000",
    ".endr",
    "high:",
    ".set page, 0xc0000000",
    ".rept 512",
    ".quad page + 0x87",
    ".set page, page + 0x200000",
    ".endr",
    // Null, unused, kernel code and data, unused, user data and code, the task's two words.
    "gdt: .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00cff3000000ffff, 0x00affb000000ffff",
    "task_descriptor: .quad 0x0000890000002068, 0",
    "gdt_pointer: .word 71",
    ".quad gdt",
    "idt_pointer: .word 4095",
    ".quad idt",
    "no_idt_pointer: .word 0",
    ".quad 0",
    ".balign 16",
    // The stack of exceptions, and a bitmap that allows every port.
    "task: .long 0",
    ".quad kernel_stack_top",
    ".fill 90, 1, 0",
    ".word 104",
    ".fill 8193, 1, 0",
    ".popsection",
    ".pushsection .bss.entry, \"aw\", @nobits",
    ".balign 4096",
    "idt: .skip 4096",
    ".skip 4096",
    "kernel_stack_top:",
    ".skip {stack}",
    "user_stack_top:",
    ".skip 4096",
    "second_kernel_stack_top:",
    ".skip {stack}",
    "second_user_stack_top:",
    ".popsection",
    run = sym run,
    second = sym second,
    code = const CODE_EXCEPTION,
    exit_port = const EXIT_PORT,
    keyboard = const KEYBOARD_PORT,
    reset = const KEYBOARD_RESET,
    stack = const STACK_BYTES,
);

// The second processor's first instructions, copied to 0x8000: from 16-bit mode straight to 64-bit mode. SSE as above.
global_asm!(
    ".pushsection .rodata.second, \"a\"",
    ".balign 256",
    "second_start:",
    ".code16",
    "cli",
    "cld",
    "xorw %ax, %ax",
    "movw %ax, %ds",
    "lgdtl 0x8100",
    "movl $0x620, %eax",
    "movl %eax, %cr4",
    "movl $pml4, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "movl $0x80000013, %eax",
    "movl %eax, %cr0",
    "ljmpl $0x10, $second_long",
    ".code64",
    ".balign 256",
    ".word 71",
    ".long gdt",
    ".balign 256",
    ".popsection",
    options(att_syntax),
);

extern "C" fn second() -> ! {
    crate::second::run()
}

extern "C" fn run(boot_params: u64) -> ! {
    crate::run(boot_params)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    crate::machine::out8(EXIT_PORT, CODE_PANIC);
    crate::machine::out8(KEYBOARD_PORT, KEYBOARD_RESET);
    loop {
        crate::machine::pause();
    }
}

/// Copies `len` bytes.
///
/// # Safety
/// As `memcpy` of the C standard.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise. In assembly, since the compiler would turn a loop into a call of this very function.
    unsafe {
        asm!("rep movsb", inout("rdi") target => _, inout("rsi") source => _, inout("rcx") len => _, options(nostack));
    }
    target
}

/// Copies `len` bytes, also where both overlap.
///
/// # Safety
/// As `memmove` of the C standard.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    if (target as usize).wrapping_sub(source as usize) >= len {
        // SAFETY: the caller's promise; the target does not begin inside the source.
        return unsafe { memcpy(target, source, len) };
    }
    // SAFETY: the caller's promise; backwards from the last byte.
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

/// Fills `len` bytes.
///
/// # Safety
/// As `memset` of the C standard.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rdi") target => _, in("al") byte as u8, inout("rcx") len => _, options(nostack));
    }
    target
}

/// Compares `len` bytes.
///
/// # Safety
/// As `memcmp` of the C standard.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: `at` is below `len`, for which the caller promises that `left` is valid.
        let one = unsafe { left.wrapping_add(at).read_volatile() };
        // SAFETY: as above, for `right`.
        let other = unsafe { right.wrapping_add(at).read_volatile() };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
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

/// Named by the unwind tables that the standard library's parts were built with; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    loop {
        crate::machine::pause();
    }
}
