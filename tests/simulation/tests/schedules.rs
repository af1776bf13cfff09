//! A few thousand worlds on every run of the tests; a million by `votive-simulation` itself.

use votive_simulation::{Counts, run};

#[test]
fn thousands_of_random_schedules_keep_every_promise() {
    let mut counts = Counts::default();
    for seed in 1..=4000 {
        match run(seed) {
            Ok(world) => counts.add(&world),
            Err(failure) => panic!("{failure}"),
        }
    }
    // Each kind of thing did happen.
    for (what, count) in [
        ("environments", counts.environments),
        ("invocations", counts.invocations),
        ("refusals", counts.refused),
        ("faults", counts.faults),
        ("restarts", counts.restarts),
        ("ends", counts.terminated),
        ("restored environments", counts.restored),
    ] {
        assert!(count > 200, "{count} {what}: {counts:?}");
    }
}

#[test]
fn a_seed_is_one_world() {
    let once = run(7).map(|counts| format!("{counts:?}"));
    let again = run(7).map(|counts| format!("{counts:?}"));
    assert_eq!(once.unwrap(), again.unwrap());
}
