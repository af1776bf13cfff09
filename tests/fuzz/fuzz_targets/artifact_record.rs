//! An artifact: identity, wrapped key and sealed table, as a store gives it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_artifact::fuzz::artifact(data));
