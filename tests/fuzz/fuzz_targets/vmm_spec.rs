//! A command line of the VMM.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_vmm::fuzz::spec(data));
