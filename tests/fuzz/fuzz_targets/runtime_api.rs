//! A runtime and an agent against the Runtime API of PID 1.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_init::exercise::runtime_api(data));
