//! What is granted, what is not, and when the lease goes on by itself.

use super::*;

const LIFETIME: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(900);

fn at(seconds: u64) -> BootTime {
    BootTime::from_nanoseconds(seconds * 1_000_000_000)
}

fn leased(seconds: u64) -> Lease {
    let mut lease = Lease::new(LIFETIME);
    let term = lease.plan(Duration::from_secs(seconds), LONGEST, at(100)).unwrap();
    lease.apply(term);
    lease
}

#[test]
fn a_lease_drains_early_enough_for_the_longest_invocation_and_the_shutdown() {
    let mut lease = leased(14 * 3600);
    let schedule = lease.schedule().unwrap();
    assert_eq!(schedule.expires, at(100 + 14 * 3600));
    assert!(schedule.drain_at + LONGEST + LIFETIME < schedule.terminate_at);
    assert_eq!(schedule.terminate_at + SHUTDOWN_TIMEOUT, schedule.kill_at);
    assert!(schedule.kill_at < schedule.deadline && schedule.deadline < schedule.expires);
    lease.on_tick(schedule.drain_at - Duration::from_nanos(1));
    assert_eq!(lease.state(), WorkerState::Active);
    assert_eq!(lease.deadline(), Some(schedule.drain_at));
    lease.on_tick(schedule.drain_at);
    assert_eq!(lease.state(), WorkerState::Draining);
    lease.on_tick(schedule.terminate_at);
    assert_eq!(lease.state(), WorkerState::Terminating);
    // One that slept through all of it does not stop half-way.
    let mut lease = leased(2000);
    lease.on_tick(at(9999));
    assert_eq!(lease.state(), WorkerState::Terminating);
}

#[test]
fn no_renewal_goes_beyond_fourteen_hours_from_the_first_grant() {
    let mut lease = leased(3600);
    let day = Duration::from_secs(14 * 3600);
    let now = at(1100);
    let by = Duration::from_secs(1000);
    assert_eq!(lease.plan(day, LONGEST, now), Err(LeaseError::BeyondLife { by }));
    let term = lease.plan(day - by, LONGEST, now).unwrap();
    assert_eq!(term.expires, term.life_ends);
    lease.apply(term);
    assert_eq!(lease.plan(day - by * 2, LONGEST, now), Err(LeaseError::Shorter));
    lease.drain();
    assert_eq!(lease.plan(day - by, LONGEST, now), Err(LeaseError::Draining));
}

#[test]
fn a_lease_that_is_none_is_refused() {
    let lease = Lease::new(LIFETIME);
    let plan = |seconds: u64, longest: u64| {
        lease.plan(Duration::from_secs(seconds), Duration::from_secs(longest), at(100))
    };
    assert!(matches!(plan(14 * 3600 + 1, 900), Err(LeaseError::TooLong { .. })));
    assert!(matches!(plan(3600, 901), Err(LeaseError::LongestInvocation { .. })));
    assert!(matches!(plan(3600, 0), Err(LeaseError::LongestInvocation { .. })));
    let Err(LeaseError::TooShort { min, .. }) = plan(911, 900) else { panic!("it was granted") };
    assert_eq!(min, Duration::from_secs(911));
    assert!(plan(912, 900).is_ok());
    assert!(plan(20, 3).is_ok());
}
