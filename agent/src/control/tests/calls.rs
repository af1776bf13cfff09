//! What callers of each role may do, and what they get.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Request};
use votive_control::client::{ClientError, Part, Patience};
use votive_control::identity::Role;
use votive_control::v1;

use super::harness::{Channel, INVOCATION, PATIENCE, environment, register, start_of};
use crate::control::ControlLimits;
use crate::control::calls::CALLS;
use crate::control::tally::Cut;
use crate::worker::api::{EnvironmentId, WorkerEventKind};

#[tokio::test]
async fn an_invocation_is_reserved_invoked_and_released_over_both_sockets() {
    let channel = Channel::start(ControlLimits::default()).await;
    for address in [&channel.tcp, &channel.unix] {
        let client = channel.client_at(address, "orchestrator").await.unwrap();
        let version = register(&client, "echo").await;
        for len in [0, 1, 1024 * 1024, 6 * 1024 * 1024] {
            let reservation = client.reserve(&version, INVOCATION).await.unwrap();
            let payload = Bytes::from(vec![b'a'; len]);
            let answer = client.invoke(start_of(&reservation), payload.clone(), PATIENCE).await;
            let outcome = answer.unwrap().collect(8 * 1024 * 1024).await.unwrap();
            assert_eq!(outcome.payload, payload);
            assert_eq!(outcome.head.function_error, "");
            assert_eq!(outcome.end.end_of_response(), v1::EndOfResponse::Complete);
            assert_eq!(outcome.release.log_tail, "START\nEND\n");
            let report = outcome.release.report.as_ref().unwrap();
            assert_eq!((report.billed_duration_ms, report.max_memory_used_mb), (3, 1));
            let released = client.await_release(INVOCATION, PATIENCE).await.unwrap();
            assert_eq!(released, outcome.release);
        }
    }
    assert_eq!(channel.cuts(), []);
    channel.stop().await;
}

#[tokio::test]
async fn errors_have_the_names_that_aws_lambda_and_its_emulator_have() {
    let channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Operator).await;
    let version = register(&client, "fail").await;
    let name = |error: ClientError| error.refusal().unwrap().name.clone();
    let unknown = "0".repeat(32);

    let refused = client.reserve(&unknown, INVOCATION).await.unwrap_err();
    assert_eq!(name(refused), "ResourceNotFoundException");
    for (version, invocation) in [("x", INVOCATION), (version.as_str(), "x")] {
        let refused = client.reserve(version, invocation).await.unwrap_err();
        assert_eq!(name(refused), "InvalidParameterValueException");
    }
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let wrong = v1::InvokeStart { token: String::from("x"), ..start_of(&reservation) };
    let refused = client.invoke(wrong, Bytes::new(), PATIENCE).await.unwrap_err();
    assert_eq!(name(refused), "ErrInvalidReservationToken");
    let refused = client.environment(&"f".repeat(16)).await.unwrap_err();
    assert_eq!(name(refused), "ResourceNotFoundException");

    // A function that fails is no error of the channel's.
    let answer = client.invoke(start_of(&reservation), Bytes::from("{}"), PATIENCE).await.unwrap();
    let outcome = answer.collect(100).await.unwrap();
    assert_eq!(outcome.head.function_error, "Unhandled");
    assert_eq!(outcome.end.error_type, "Function.Unknown");
    channel.stop().await;
}

#[tokio::test]
async fn an_invocation_can_reserve_for_itself() {
    let channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "echo").await;
    let start = v1::InvokeStart {
        invocation_id: INVOCATION.to_owned(),
        function_version_id: version.clone(),
        reserve: true,
        ..Default::default()
    };
    let answer = client.invoke(start.clone(), Bytes::from("{}"), PATIENCE).await.unwrap();
    let outcome = answer.collect(100).await.unwrap();
    assert_eq!(
        (&outcome.payload[..], outcome.release.invocation_id.as_str()),
        (&b"{}"[..], INVOCATION)
    );

    let name = |error: ClientError| error.refusal().unwrap().name.clone();
    let both = v1::InvokeStart { token: String::from("x"), ..start.clone() };
    let refused = client.invoke(both, Bytes::new(), PATIENCE).await.unwrap_err();
    assert_eq!(name(refused), "InvalidParameterValueException");
    // What a reservation is refused for, the one call is refused for.
    let unknown = v1::InvokeStart { function_version_id: "0".repeat(32), ..start.clone() };
    let refused = client.invoke(unknown, Bytes::new(), PATIENCE).await.unwrap_err();
    assert_eq!(name(refused), "ResourceNotFoundException");
    // Without either, there is no token.
    let neither = v1::InvokeStart { reserve: false, ..start };
    let refused = client.invoke(neither, Bytes::new(), PATIENCE).await.unwrap_err();
    assert_eq!(name(refused), "ErrInvalidReservationToken");
    channel.stop().await;
}

#[tokio::test]
async fn a_throttled_reservation_is_tried_again_as_often_as_was_said() {
    let channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "throttle 3").await;
    let patience = Patience { first_delay: Duration::from_millis(5), ..Patience::default() };

    let short = Patience { attempts: 2, ..patience };
    let error = client.reserve_patiently(&version, INVOCATION, short).await.unwrap_err();
    assert!(matches!(error, ClientError::GaveUp { attempts: 2, .. }));
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.limit, "ConcurrentInvocationLimitExceeded");
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(20)));

    let reserved = client.reserve_patiently(&version, INVOCATION, patience).await.unwrap();
    assert_eq!(reserved.attempts, 2);
    channel.stop().await;
}

#[tokio::test]
async fn a_worker_that_was_away_is_found_again() {
    let channel = Channel::start(ControlLimits::default()).await;
    let port = channel.port();
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "echo").await;
    let place = channel.stop().await;

    let patience = Patience { attempts: 40, ..Patience::default() };
    let reserving = client.reserve_patiently(&version, INVOCATION, patience);
    let away = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let channel = Channel::start_in(place, ControlLimits::default(), port).await;
        register(&channel.client(Role::Orchestrator).await, "echo").await;
        channel
    };
    let (reserved, channel) = tokio::join!(reserving, away);
    assert!(reserved.unwrap().attempts > 1);
    channel.stop().await;
}

#[tokio::test]
async fn no_call_is_decoded_for_a_role_that_may_not_make_it() {
    let channel = Channel::start(ControlLimits::default()).await;
    let mut refused = 0;
    for role in Role::ALL {
        let client = channel.client(role).await;
        for call in CALLS {
            if role.includes(call.role) {
                continue;
            }
            let before = channel.asked();
            let status = raw(&client, call.name).await.unwrap_err();
            refused += 1;
            assert_eq!(status.code(), Code::PermissionDenied, "{role}: {}", call.name);
            assert!(status.message().contains(call.role.name()), "{}", status.message());
            assert_eq!(channel.asked(), before);
        }
    }
    // Observer: all but six; orchestrator: all but the one that is an operator's.
    assert_eq!(refused, 10);
    channel.until_cut(Cut::Role, refused).await;

    // Who may is asked to say what: the message is no message.
    let operator = channel.client(Role::Operator).await;
    let status = raw(&operator, "DestroyEnvironment").await.unwrap_err();
    assert_ne!(status.code(), Code::PermissionDenied);
    channel.stop().await;
}

#[tokio::test]
async fn a_call_that_does_not_exist_is_refused() {
    let channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Operator).await;
    let status = raw(&client, "Format").await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    channel.until_cut(Cut::UnknownCall, 1).await;
    assert_eq!(channel.asked(), 0);
    channel.stop().await;
}

#[tokio::test]
async fn a_deadline_that_is_none_is_refused_and_a_short_one_is_kept() {
    let limits = ControlLimits { end_grace: Duration::from_millis(50), ..ControlLimits::default() };
    let channel = Channel::start(limits).await;
    let client = channel.client(Role::Operator).await;
    let mut request = Request::new(v1::GetStatusRequest {});
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = client.grpc().get_status(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    channel.until_cut(Cut::BadDeadline, 1).await;

    let version = register(&client, "lost").await;
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let limit = Duration::from_millis(300);
    let mut answer = client.invoke(start_of(&reservation), Bytes::new(), limit).await.unwrap();
    assert!(matches!(answer.next().await.unwrap(), Some(Part::Started(_))));
    assert!(matches!(answer.next().await, Err(ClientError::Deadline)));
    channel.stop().await;
}

#[tokio::test]
async fn what_happens_is_told_to_those_who_watch() {
    let channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Observer).await;
    let mut watch = client.watch(true).await.unwrap();
    let told = async {
        // The watch begins when the worker's side has it; until then nothing is told.
        loop {
            channel.worker.tell(WorkerEventKind::Environment(environment(None)));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let event = tokio::select! {
        () = told => unreachable!("it never ends"),
        event = tokio::time::timeout(PATIENCE, watch.next()) => event.unwrap().unwrap().unwrap(),
    };
    let Some(v1::event::Event::Environment(environment)) = event.event else {
        panic!("another event: {event:?}");
    };
    assert_eq!(environment.id, EnvironmentId(1).to_string());
    assert_eq!(environment.state(), v1::EnvironmentState::Idle);
    assert_eq!((environment.process_id, environment.invocations), (42, 3));
    drop(watch);
    channel.stop().await;
}

#[tokio::test]
async fn a_message_or_a_payload_over_its_limit_is_refused() {
    let channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "echo").await;
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let before = channel.asked();
    let invoke = |pieces: Vec<usize>| {
        use v1::invoke_request::Part;
        let start = v1::InvokeRequest { part: Some(Part::Start(start_of(&reservation))) };
        let pieces = pieces
            .into_iter()
            .map(|len| v1::InvokeRequest { part: Some(Part::Payload(vec![b'a'; len].into())) });
        let messages: Vec<_> = std::iter::once(start).chain(pieces).collect();
        let mut grpc = client.grpc();
        async move { grpc.invoke(tokio_stream::iter(messages)).await }
    };
    let status = invoke(vec![2 * 1024 * 1024]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    channel.until_cut(Cut::MessageTooLarge, 1).await;
    let mut pieces = vec![1024 * 1024; 6];
    pieces.push(1);
    let status = invoke(pieces).await.unwrap_err();
    let refusal = votive_control::refusal::Refusal::from_status(&status);
    assert_eq!(refusal.name, "RequestTooLargeException");

    let mut request = Request::new(v1::GetStatusRequest {});
    let long = "a".repeat(64 * 1024);
    request.metadata_mut().insert("x-long", long.parse().unwrap());
    client.grpc().get_status(request).await.unwrap_err();
    assert_eq!(channel.asked(), before);

    // The connection and the reservation have outlived all that.
    invoke(vec![1]).await.unwrap();
    channel.stop().await;
}

#[tokio::test]
async fn payloads_have_one_share_of_memory_together() {
    let limits = ControlLimits { payload_bytes: 1_500_000, ..ControlLimits::default() };
    let channel = Channel::start(limits).await;
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "echo").await;
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let invoke =
        |len: usize| client.invoke(start_of(&reservation), Bytes::from(vec![0; len]), PATIENCE);
    let error = invoke(1_500_001).await.unwrap_err();
    assert!(error.refusal().unwrap().is_throttled());
    channel.until_cut(Cut::PayloadsTooLarge, 1).await;
    // What was refused has given its share back, and the token was not spent.
    invoke(1_500_000).await.unwrap();
    channel.stop().await;
}

#[tokio::test]
async fn calls_under_way_finish_when_the_channel_ends() {
    let mut channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "stream 33554432").await;
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let mut answer = client.invoke(start_of(&reservation), Bytes::new(), PATIENCE).await.unwrap();
    assert!(answer.next().await.unwrap().is_some());
    channel.begin_stop();
    let outcome = async {
        let mut len = 0;
        while let Some(part) = answer.next().await.unwrap() {
            if let Part::Payload(piece) = part {
                len += piece.len();
            }
        }
        len
    };
    assert_eq!(outcome.await, 33_554_432);
    channel.until_stopped().await;
    assert!(!channel.place.path().join("control.sock").exists());
}

/// A call of any name with a body that is no message.
async fn raw(
    client: &votive_control::client::Client,
    name: &str,
) -> Result<tonic::Response<()>, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await.unwrap();
    let path = format!("/votive.worker.v1.Worker/{name}").parse().unwrap();
    // A field 1 that is a number, where every message has something else or nothing.
    let codec: tonic_prost::ProstCodec<prost_types::Duration, ()> = Default::default();
    let request = Request::new(prost_types::Duration { seconds: 7, nanos: 7 });
    grpc.unary(request, path, codec).await
}
