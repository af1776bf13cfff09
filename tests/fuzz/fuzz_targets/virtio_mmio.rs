//! Register accesses of a guest, in any order and size.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_vmm::virtio::fuzz::mmio(data));
