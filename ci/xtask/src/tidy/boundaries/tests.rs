//! Tests of judging dependency lists.

use super::{Boundary, judge};

const BOUNDARY: Boundary = Boundary { package: "a", without: &["bad"], why: "it must not" };

#[test]
fn a_crate_within_its_bounds_passes() {
    assert_eq!(judge(&BOUNDARY, "a v0.1.0 (/x)\nb v1.0.0\nc v1.0.0 (*)\nb v1.0.0 (*)\n"), [""; 0]);
}

#[test]
fn forbidden_crates_are_named() {
    let tree = "a v0.1.0\nb v1.0.0\nc v1.0.0\nbad v0.2.0\n";
    assert_eq!(judge(&BOUNDARY, tree), ["a depends on bad: it must not"]);
}
