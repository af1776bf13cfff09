//! A kernel image.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_vmm::fuzz::kernel(data));
