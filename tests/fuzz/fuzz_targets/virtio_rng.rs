//! A guest against the entropy device.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_vmm::virtio::fuzz::rng(data));
