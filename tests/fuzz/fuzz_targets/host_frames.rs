//! What the agent sends to PID 1.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_protocol::fuzz::host_frames(data));
