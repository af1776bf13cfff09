//! A shell's assignment.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_vmm::fuzz::assignment(data));
