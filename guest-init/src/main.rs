//! The entry point of PID 1, and what a program without a C library has to bring along.
//!
//! A build that has the standard library in it (tests do, by their tools) cannot hold a second panic handler: the feature
//! `std` says so, and the program only explains itself then.

#![cfg_attr(not(feature = "std"), no_std, no_main)]
#![cfg_attr(
    not(feature = "std"),
    expect(unsafe_code, reason = "entry point, and the memory routines that the compiler calls")
)]

#[cfg(not(feature = "std"))]
mod start;

/// A panic is a bug of PID 1's: the microVM ends, and the agent sees its link end.
#[cfg(not(feature = "std"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    votive_init::guest::panicked()
}

#[cfg(feature = "std")]
fn main() -> std::process::ExitCode {
    eprintln!("this is no PID 1: build votive-init without its feature std");
    std::process::ExitCode::FAILURE
}
