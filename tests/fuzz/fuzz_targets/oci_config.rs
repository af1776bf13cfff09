//! What is sealed with a container image.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_artifact::oci::fuzz::config(data));
