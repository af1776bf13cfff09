//! What a runtime sends to the Runtime API: heads and bodies of requests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_init::exercise::http(data));
