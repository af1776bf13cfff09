//! JSON from extensions: registrations and subscriptions.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_init::exercise::json(data));
