//! A guest and host programs against the socket device.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_vmm::virtio::fuzz::vsock(data));
