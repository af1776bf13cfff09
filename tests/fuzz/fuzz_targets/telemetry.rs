//! Events for telemetry's subscribers, and what becomes of their batches.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_init::exercise::telemetry(data));
