//! Delays.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn delays_double_up_to_the_longest() {
    let patience = Patience { attempts: 9, first_delay: MS(100), longest_delay: MS(900) };
    let longest: Vec<_> = (2..8).map(|next| patience.delay(next, 1.0, None)).collect();
    assert_eq!(longest, [MS(100), MS(200), MS(400), MS(800), MS(900), MS(900)]);
    assert_eq!(patience.delay(u32::MAX, 1.0, None), MS(900));
}

#[test]
fn a_delay_is_drawn_from_the_whole_range() {
    let patience = Patience { attempts: 9, first_delay: MS(100), longest_delay: MS(900) };
    assert_eq!(patience.delay(4, 0.0, None), Duration::ZERO);
    assert_eq!(patience.delay(4, 0.5, None), MS(200));
}

#[test]
fn a_worker_is_not_asked_again_earlier_than_it_said() {
    let patience = Patience { attempts: 9, first_delay: MS(100), longest_delay: MS(900) };
    assert_eq!(patience.delay(2, 0.5, Some(MS(300))), MS(350));
    // Nor is a caller made to wait for ever.
    assert_eq!(patience.delay(2, 0.5, Some(Duration::MAX)), MS(900));
}

#[test]
fn only_want_of_room_and_of_a_worker_are_tried_again() {
    use crate::refusal::{Refusal, TOO_MANY_REQUESTS};
    use tonic::Code;

    let refused =
        |name: &str| ClientError::Refused(Refusal::new(Code::ResourceExhausted, name, "no"));
    assert!(may_help(&refused(TOO_MANY_REQUESTS)));
    let address = "unix:/nowhere".parse().unwrap();
    assert!(may_help(&ClientError::Unreachable { address, reason: String::new() }));
    assert!(!may_help(&refused("ResourceNotFoundException")));
    // Whether it was carried out is not known, and a second reservation would be refused.
    assert!(!may_help(&ClientError::Lost { reason: String::new() }));
    assert!(!may_help(&ClientError::Deadline));
}
