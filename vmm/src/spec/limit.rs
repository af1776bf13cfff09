//! Limits of disks and of the network device: `RATE[/BURST]`, per second and at once.

use super::{SpecError, decimal, wrong};
use crate::limiter::Limit;

const LIMIT_ALLOWED: &str =
    "RATE[/BURST], RATE from 1 and BURST from RATE/20, each at most 1099511627776";

// The text above names these numbers.
const _: () = assert!(crate::limiter::MOST == 1_099_511_627_776);
const _: () = assert!(crate::limiter::LEAST_BURST_SHARE == 20);

/// Reads one limit.
pub(super) fn read(field: &'static str, text: &str) -> Result<Limit, SpecError> {
    let limit = match text.split_once('/') {
        None => decimal(text).and_then(|rate| Limit::new(rate, None)),
        Some((rate, burst)) => decimal(rate)
            .zip(decimal(burst))
            .and_then(|(rate, burst)| Limit::new(rate, Some(burst))),
    };
    limit.ok_or_else(|| wrong(field, text, LIMIT_ALLOWED))
}
