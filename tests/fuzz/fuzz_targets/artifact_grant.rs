//! A grant, as a worker presents it: what is signed, without the signature.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_artifact::fuzz::grant(data));
