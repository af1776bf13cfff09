//! The entry point of PID 1, and what a program without a C library has to bring along.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "entry point, and the memory routines that the compiler calls")]

mod start;

use core::panic::PanicInfo;

/// A panic is a bug of PID 1's: the microVM ends, and the agent sees its link end without a word.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    votive_init::guest::panicked()
}
