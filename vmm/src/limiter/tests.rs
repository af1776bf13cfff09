//! Facts about token buckets, over schedules that proptest makes up.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Rates from 1 token to 10 GB per second.
fn limits() -> impl Strategy<Value = Limit> {
    (0u32..34, 1u64..=1000, 0u64..=40).prop_map(|(shift, part, burst)| {
        let rate = ((1u64 << shift) * part / 500).max(1);
        let least = (rate / LEAST_BURST_SHARE).max(1);
        Limit::new(rate, Some(least + least * burst)).unwrap()
    })
}

fn bytes_only(limit: Limit) -> Limits {
    Limits { bandwidth: Some(limit), operations: None }
}

/// Most tokens that may be gone after `elapsed`, in billionths.
fn allowed(limit: Limit, largest: u64, elapsed: Duration) -> u128 {
    u128::from(limit.burst.max(largest)) * 1_000_000_000
        + u128::from(limit.rate) * elapsed.as_nanos()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_more_is_taken_than_bucket_and_rate_allow_over_any_span(
        limit in limits(),
        attempts in vec((0u64..200_000_000, 0u64..=1 << 20), 1..300),
    ) {
        let start = Instant::now();
        let mut limiter = Limiter::new(bytes_only(limit), start);
        let mut now = start;
        let mut taken: Vec<(Instant, u64)> = Vec::new();
        for (pause, cost) in attempts {
            now += Duration::from_nanos(pause);
            if limiter.take(cost, now).is_ok() {
                taken.push((now, cost));
            }
        }
        let largest = taken.iter().map(|(_, cost)| *cost).max().unwrap_or(0);
        for (first, (from, _)) in taken.iter().enumerate() {
            let mut sum = 0u128;
            for (to, cost) in &taken[first..] {
                sum += u128::from(*cost) * 1_000_000_000;
                prop_assert!(sum <= allowed(limit, largest, *to - *from));
            }
        }
    }

    #[test]
    fn who_wakes_when_told_or_little_later_gets_the_rate_within_five_per_cent(
        limit in limits(),
        costs in vec(0u64..=1 << 20, 1..50),
        late in vec(0u64..2_000_000, 1..50),
    ) {
        let start = Instant::now();
        let mut limiter = Limiter::new(bytes_only(limit), start);
        let mut now = start;
        let mut late = late.iter().cycle();
        // The first bucket and a debt are no rate; enough comes after them.
        let (mut sum, mut largest) = (0u128, 0u64);
        for cost in costs.iter().cycle().take(20_000) {
            let cost = (*cost).min(limit.burst * 2);
            largest = largest.max(cost);
            while let Err(at) = limiter.take(cost, now) {
                prop_assert!(at > now);
                now = at + Duration::from_nanos(*late.next().unwrap());
            }
            sum += u128::from(cost);
        }
        let elapsed = (now - start).as_nanos();
        let due = u128::from(limit.rate) * elapsed / 1_000_000_000;
        let slack = u128::from(limit.burst.max(largest));
        prop_assert!(sum <= due + slack + 1);
        prop_assert!(sum + slack >= due * 95 / 100, "{sum} of {due}");
    }

    #[test]
    fn what_waits_gets_its_turn_at_the_time_it_was_told(
        limit in limits(),
        costs in vec(0u64..=1 << 32, 1..100),
    ) {
        let mut now = Instant::now();
        let mut limiter = Limiter::new(bytes_only(limit), now);
        for cost in costs {
            if let Err(at) = limiter.take(cost, now) {
                let early = at - Duration::from_nanos(1);
                prop_assert!(early < now || limiter.take(cost, early).is_err());
                now = at;
                prop_assert_eq!(limiter.take(cost, now), Ok(()));
            }
        }
    }

    #[test]
    fn of_two_limits_the_one_that_binds_counts_and_the_other_is_not_charged(
        rate in 100u64..1000,
        bytes in 1u64..4096,
    ) {
        let start = Instant::now();
        let operations = Limit::new(rate, Some(rate));
        let bandwidth = Limit::new(1 << 30, Some(1 << 30));
        let mut limiter = Limiter::new(Limits { bandwidth, operations }, start);
        for _ in 0..rate {
            prop_assert_eq!(limiter.take(bytes, start), Ok(()));
        }
        for _ in 0..1000 {
            let at = start + Duration::from_nanos(1_000_000_000u64.div_ceil(rate));
            prop_assert_eq!(limiter.take(bytes, start), Err(at));
        }
        let left = (1 << 30) - rate * bytes;
        let mut alone = Limiter::new(bytes_only(bandwidth.unwrap()), start);
        prop_assert_eq!(alone.take((1 << 30) - left, start), Ok(()));
        let levels = [&limiter, &alone].map(|limiter| limiter.bandwidth.as_ref().unwrap().level);
        prop_assert_eq!(levels[0], levels[1]);
    }
}

#[test]
fn limits_out_of_range_are_none() {
    let cases = [
        (0, None, false),
        (1, None, true),
        (1, Some(0), false),
        (MOST, None, true),
        (MOST + 1, None, false),
        (u64::MAX, None, false),
        (1000, Some(49), false),
        (1000, Some(50), true),
        (1000, Some(MOST), true),
        (1000, Some(MOST + 1), false),
    ];
    for (rate, burst, allowed) in cases {
        assert_eq!(Limit::new(rate, burst).is_some(), allowed, "{rate}/{burst:?}");
    }
    assert_eq!(Limit::new(1000, None), Limit::new(1000, Some(100)));
}

#[test]
fn a_dial_changes_the_rate_and_keeps_what_is_owed() {
    let start = Instant::now();
    let limit = |rate| Limits { bandwidth: Limit::new(rate, Some(rate)), operations: None };
    let mut limiter = Limiter::new(limit(1000), start);
    assert_eq!(limiter.take(5000, start), Ok(()));
    assert_eq!(limiter.take(1000, start), Err(start + Duration::from_secs(5)));
    limiter.set(limit(4000), start);
    assert_eq!(limiter.take(4000, start), Err(start + Duration::from_secs(2)));
    limiter.set(limit(10), start + Duration::from_secs(3600));
    assert_eq!(limiter.bandwidth.as_ref().unwrap().level, 10 * NANOSECONDS);
    assert!(!limiter.is_open());
    limiter.dial().set(Limits::default());
    limiter.heed();
    assert!(limiter.is_open());
    assert_eq!(limiter.take(u64::MAX, start), Ok(()));
    // Nothing was set since.
    limiter.set(limit(10), start);
    limiter.heed();
    assert!(!limiter.is_open());
}

#[test]
fn a_clock_that_goes_back_gives_nothing() {
    let start = Instant::now() + Duration::from_secs(10);
    let limits = Limits { bandwidth: Limit::new(1000, None), operations: None };
    let mut limiter = Limiter::new(limits, start);
    assert_eq!(limiter.take(100, start), Ok(()));
    let back = start - Duration::from_secs(5);
    assert!(limiter.take(1, back).is_err());
    assert_eq!(limiter.take(1, start), Err(start + Duration::from_millis(1)));
}
