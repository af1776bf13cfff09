//! What is over budget.

use super::{Budget, Figure, complaints};

fn figure(subject: &str, median: f64) -> Figure {
    let (bench, unit) = ("b".to_owned(), "exits".to_owned());
    Figure { bench, subject: subject.to_owned(), unit, n: 1, min: median, median, max: median }
}

fn budget() -> Budget {
    Budget { bench: "b".to_owned(), max: Some(10.0), peer: Some("p".to_owned()), ratio: Some(0.5) }
}

#[test]
fn within_both_limits_is_no_complaint() {
    assert!(complaints(&budget(), &[figure("votive", 10.0), figure("p", 20.0)]).is_empty());
}

#[test]
fn each_limit_is_told() {
    let found = complaints(&budget(), &[figure("votive", 11.0), figure("p", 20.0)]);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_peer_that_was_not_measured_limits_nothing() {
    assert!(complaints(&budget(), &[figure("votive", 9.0)]).is_empty());
}

#[test]
fn what_was_not_measured_is_over() {
    assert_eq!(complaints(&budget(), &[figure("p", 1.0)]).len(), 1);
}
