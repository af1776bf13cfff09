//! What was got against what was expected.

use crate::run::Got;
use crate::subject::Kind;
use crate::table::Expected;
use votive_hostile_guest::layout::ORDER_OPERATIONS;

/// Most resident memory of votive-vmm in KiB beyond what the guest that does nothing makes it take: up to 8 MiB of socket
/// buffers, and the guest's own rings and buffers, 16 MiB where the host backs each with a huge page.
pub const PEAK_BEYOND_KIB: u64 = 32 << 10;
/// Most bytes that a guest may make votive-vmm write to standard error and marks.
pub const LOGGED_BYTES_MAX: u64 = 64 << 10;

/// One part in so many of a guest's rest is the most that device threads may run: one that spins has the processor, or half of it.
pub const REST_SHARE: u64 = 4;

/// What VMMs need for a guest that does nothing, and for an innocent one alone.
#[derive(Clone, Copy, Debug)]
pub struct Usual {
    /// Largest resident memory of the former in KiB.
    pub peak_kib: u64,
    /// Calls of the latter's VMM for one order.
    pub calls: u64,
}

/// The complaints about `got`; none if all is as it must be.
#[must_use]
pub fn complaints(kind: Kind, expected: Expected, got: &Got, usual: Usual) -> Vec<String> {
    let mut found = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            found.push(what.to_owned());
        }
    };
    must(!got.panicked, "panicked");
    must(got.code != Some(128 + 6), "aborted");
    let is_votive = kind == Kind::Votive;
    match expected {
        Expected::Answers => {
            must(got.code.is_some(), "hung");
            must(got.code.is_none_or(|code| code == 0), "did not end with 0");
            must(got.told, "the guest told nothing");
            must(got.failed == 0 && (!got.told || got.held > 0), "facts do not hold");
        }
        Expected::AnswersUnheard => {
            must(got.code.is_some(), "hung");
            must(got.code.is_none_or(|code| code == 0), "did not end with 0");
        }
        Expected::Ends { code, reason } if is_votive => {
            must(got.code == Some(code), "another exit code");
            must(got.reason.contains(reason), "another reason");
        }
        // Each VMM has its own codes; none calls these a success.
        Expected::Ends { .. } => {
            must(got.code.is_some_and(|code| code != 0), "no error in the exit code")
        }
        Expected::Deadline if is_votive => must(got.code == Some(6), "not ended by its deadline"),
        // It has none.
        Expected::Deadline => must(got.code.is_none(), "ended by itself"),
    }
    must(got.neighbour_operations == ORDER_OPERATIONS, "the innocent microVM was not served");
    let calls_max = usual.calls + usual.calls / 4;
    must(got.neighbour_calls <= calls_max, "the innocent microVM cost more than usual");
    let rests = got.rest_ns.is_none_or(|(ran, long)| ran <= long / REST_SHARE);
    must(rests, "its threads do not rest when the guest does");
    if is_votive {
        must(got.lax == 0, "laxer than it was");
        must(got.logged_bytes <= LOGGED_BYTES_MAX, "more log than a guest may cause");
        must(got.peak_kib <= usual.peak_kib + PEAK_BEYOND_KIB, "more memory than its bound");
    }
    found
}
