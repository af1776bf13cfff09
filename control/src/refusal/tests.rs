//! Refusals there and back.

use super::*;

#[test]
fn a_refusal_arrives_as_it_was_sent() {
    let plain = Refusal::new(Code::NotFound, "ResourceNotFoundException", "it is not known");
    let throttled = Refusal {
        limit: String::from("ConcurrentInvocationLimitExceeded"),
        retry_after: Some(Duration::from_millis(1500)),
        ..Refusal::new(Code::ResourceExhausted, TOO_MANY_REQUESTS, "rate exceeded")
    };
    assert!(!plain.is_throttled() && throttled.is_throttled());
    for refusal in [plain, throttled] {
        assert_eq!(Refusal::from_status(&refusal.to_status()), refusal);
    }
}

#[test]
fn details_of_others_name_nothing() {
    let details = ErrorDetails::with_error_info("TooManyRequestsException", "example.com", []);
    let foreign = Status::with_error_details(Code::Internal, "no", details);
    let broken = Status::with_details(Code::Internal, "no", bytes::Bytes::from_static(b"\xff\xff"));
    for status in [foreign, broken, Status::internal("no")] {
        let refusal = Refusal::from_status(&status);
        assert_eq!(refusal, Refusal::new(Code::Internal, "", "no"));
    }
}
