//! Roles in certificates, addresses of workers, deadlines: what the control channel reads with code of our own.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    votive_control::fuzz::names(input);
    if let Some(deadline) = votive_agent::control::deadline::parse(input) {
        assert!(deadline.as_secs() <= 99_999_999 * 3600);
    }
});
