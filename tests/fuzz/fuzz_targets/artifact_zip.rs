//! A ZIP that a customer uploads: headers, names, links and contents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_artifact::fuzz::zip(data));
