//! The names that a worker gives: short, fixed in form, and read back strictly.

use std::fmt;
use std::str::FromStr;

use votive_protocol::InvocationId;

use crate::worker::errors::InvalidId;

/// Account, function, version, code and configuration together, for ever: half of a SHA-256 over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionVersionId(pub [u8; 16]);

impl fmt::Display for FunctionVersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for FunctionVersionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = lower_hexadecimal(text, 32)?;
        u128::from_str_radix(digits, 16).map(|id| Self(id.to_be_bytes())).map_err(|_| InvalidId)
    }
}

/// One execution environment of this worker. No other of the same host has the same, restarts included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentId(pub u64);

impl fmt::Display for EnvironmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for EnvironmentId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = lower_hexadecimal(text, 16)?;
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| InvalidId)
    }
}

fn lower_hexadecimal(text: &str, len: usize) -> Result<&str, InvalidId> {
    let digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    if text.len() == len && text.bytes().all(digit) { Ok(text) } else { Err(InvalidId) }
}

/// Reads the text form of an invocation's id: a UUID with its hyphens.
///
/// # Errors
/// [`InvalidId`] if it is anything else.
pub fn parse_invocation_id(text: &str) -> Result<InvocationId, InvalidId> {
    if text.len() != InvocationId::TEXT_LEN {
        return Err(InvalidId);
    }
    let id = uuid::Uuid::try_parse(text).map_err(|_| InvalidId)?;
    Ok(InvocationId(id.into_bytes()))
}
