//! A lease that is kept never grows, whatever happens to clocks and file.

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn clocks(boot: &str, boot_hours: f64, wall_hours: f64) -> Clocks {
    Clocks {
        boot_id: boot.to_owned(),
        boot_time: BootTime::default() + HOUR.mul_f64(boot_hours),
        wall: HOUR.mul_f64(wall_hours),
    }
}

/// Given at 100 h of boot time and 1000 h of the day's, renewed two hours later for eight.
fn record() -> LeaseRecord {
    LeaseRecord {
        first: clocks("a", 100.0, 1000.0),
        issued: clocks("a", 102.0, 1002.0),
        duration: HOUR * 8,
        longest_invocation: Duration::from_secs(900),
        draining: false,
    }
}

fn left(record: &LeaseRecord, now: &Clocks) -> Result<Option<Duration>, String> {
    match record.restore(now) {
        Ok(Restored::Over) => Ok(None),
        Ok(Restored::Running { term, .. }) => Ok(Some(term.expires.since(now.boot_time))),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_stricter_clock_counts() {
    let check = |now: Clocks, expected: Option<f64>| {
        let left = left(&record(), &now).unwrap().map(|left| left.as_secs_f64() / 3600.0);
        match (left, expected) {
            (Some(left), Some(expected)) => assert!((left - expected).abs() < 1e-6, "{left}"),
            (left, expected) => assert_eq!(left, expected),
        }
    };
    check(clocks("a", 103.0, 1003.0), Some(7.0));
    // The time of day was set forth, or back: the stricter, the one that cannot be set.
    check(clocks("a", 103.0, 1006.0), Some(4.0));
    check(clocks("a", 103.0, 900.0), Some(7.0));
    // The host started anew.
    check(clocks("b", 0.1, 1005.0), Some(5.0));
    check(clocks("b", 0.1, 1010.0), None);
    check(clocks("a", 110.0, 1003.0), None);
}

#[test]
fn what_no_clock_could_have_come_to_is_refused() {
    let refused = |record: &LeaseRecord, now: Clocks, why: &str| {
        let error = left(record, &now).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    refused(&record(), clocks("a", 101.0, 1003.0), "from the future");
    refused(&record(), clocks("b", 1.0, 1001.0), "the time of day was set back");
    let long = LeaseRecord { duration: HOUR * 15, ..record() };
    refused(&long, clocks("a", 103.0, 1003.0), "more than 14 h");
    let late = LeaseRecord { duration: HOUR * 13, ..record() };
    refused(&late, clocks("a", 103.0, 1003.0), "14 h after the first one");
    let reversed = LeaseRecord { first: clocks("a", 103.0, 1000.0), ..record() };
    refused(&reversed, clocks("a", 104.0, 1004.0), "from the future");
}

#[test]
fn a_record_comes_back_and_any_change_to_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = LeaseFile::new(folder.path());
    assert_eq!(file.load().unwrap(), None);
    file.store(&record()).unwrap();
    let draining = LeaseRecord { draining: true, ..record() };
    file.store(&draining).unwrap();
    assert_eq!(file.load().unwrap(), Some(draining));
    let bytes = std::fs::read(folder.path().join("lease")).unwrap();
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        std::fs::write(folder.path().join("lease"), changed).unwrap();
        assert!(matches!(file.load(), Err(LeaseFileError::Damaged(_))), "byte {place}");
    }
    for len in 0..bytes.len() {
        std::fs::write(folder.path().join("lease"), &bytes[..len]).unwrap();
        assert!(matches!(file.load(), Err(LeaseFileError::Damaged(_))), "{len} bytes");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn no_restart_lengthens_a_lease(
        renewed in 0.0..6.0_f64,
        hours in 0.1..8.0_f64,
        passed in 0.0..20.0_f64,
        set in -30.0..30.0_f64,
        same_boot in any::<bool>(),
    ) {
        let record = LeaseRecord {
            issued: clocks("a", 100.0 + renewed, 1000.0 + renewed),
            duration: HOUR.mul_f64(hours),
            ..record()
        };
        let boot = if same_boot { "a" } else { "b" };
        let boot_hours = if same_boot { 100.0 + renewed + passed } else { 0.5 };
        let now = clocks(boot, boot_hours, 1000.0 + renewed + passed + set);
        let expected = hours - passed;
        if let Ok(Some(left)) = left(&record, &now) {
            let left = left.as_secs_f64() / 3600.0;
            // Over a start of the host only the time of day can tell, and setting it back is what it cannot show.
            let slack = if same_boot { 0.0 } else { (-set).max(0.0).min(passed) };
            prop_assert!(left <= expected + slack + 1e-6, "{left} of {expected}");
            prop_assert!(left <= hours && left <= 14.0 - renewed);
        }
    }
}
