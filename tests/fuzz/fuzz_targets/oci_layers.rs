//! Layers of a container image, from their tars to the image that is made of them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_artifact::oci::fuzz::layers(data));
