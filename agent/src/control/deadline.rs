//! The deadline that a caller tells: the header `grpc-timeout` as gRPC over HTTP/2 has it, at most eight digits and a unit.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// The header.
pub const HEADER: &str = "grpc-timeout";

/// The most digits.
const DIGITS_MAX: usize = 8;

/// Reads the header's value; `None` if it is none.
#[must_use]
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    let mut amount: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Eight digits are below 1e8.
        amount = amount * 10 + u64::from(digit - b'0');
    }
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}
