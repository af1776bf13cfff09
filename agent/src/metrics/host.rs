//! What counts the host's posture.

use metrics::gauge;

use super::HOST_FLAWS;
use crate::posture::{Flaw, Posture};

/// Tells which flaws the host has. It is looked at once, when the worker starts.
pub fn tell(posture: &Posture) {
    for flaw in Flaw::ALL {
        let there = posture.flaws.iter().any(|(other, _)| *other == flaw);
        gauge!(HOST_FLAWS, "flaw" => flaw.name()).set(if there { 1.0 } else { 0.0 });
    }
}
