//! A guest and a host against the network device.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_vmm::virtio::fuzz::net(data));
