//! What a guest sends to the agent.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_protocol::fuzz::guest_frames(data));
