//! The record of a root, as a store gives it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_artifact::fuzz::root(data));
