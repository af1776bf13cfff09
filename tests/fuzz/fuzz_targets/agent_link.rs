//! What a guest makes of the agent: frames, and the environment behind them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| votive_agent::fuzz::agent_link(data));
