//! Peers that dawdle: readers, writers, and those who do nothing at all.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use votive_control::client::{ClientError, Part};
use votive_control::identity::{Holder, Role};
use votive_control::v1;
use votive_control::v1::invoke_request::Part as RequestPart;

use super::harness::{Channel, INVOCATION, PATIENCE, register, start_of, until};
use crate::control::ControlLimits;
use crate::control::tally::Cut;

#[tokio::test]
async fn a_reader_that_stops_is_cut_and_others_are_not_held_up() {
    let limits = ControlLimits { unread: Duration::from_secs(1), ..ControlLimits::default() };
    let channel = Channel::start(limits).await;
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "stream 67108864").await;
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let mut answer = client.invoke(start_of(&reservation), Bytes::new(), PATIENCE).await.unwrap();
    assert!(matches!(answer.next().await.unwrap(), Some(Part::Started(_))));
    // Others go on, on this connection and on another one, while the windows are full.
    let other = channel.client(Role::Observer).await;
    for _ in 0..5 {
        client.status().await.unwrap();
        other.status().await.unwrap();
    }
    channel.until_cut(Cut::Unread, 1).await;
    until("the connection is closed", || channel.tally.open() == 1).await;
    // What had arrived before is read, then comes the end: never the release.
    let mut len = 0;
    let error = loop {
        match answer.next().await {
            Ok(Some(Part::Payload(piece))) => len += piece.len(),
            Ok(Some(Part::Head(_))) => {}
            Ok(part) => panic!("{part:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    assert!(len < 16 * 1024 * 1024, "{len} bytes were taken from the function for nobody");
    other.status().await.unwrap();
    channel.stop().await;
}

#[tokio::test]
async fn a_reader_that_is_slow_but_reads_gets_everything() {
    let limits = ControlLimits { unread: Duration::from_secs(2), ..ControlLimits::default() };
    let channel = Channel::start(limits).await;
    let client = channel.client(Role::Orchestrator).await;
    let version = register(&client, "stream 16777216").await;
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let mut answer = client.invoke(start_of(&reservation), Bytes::new(), PATIENCE).await.unwrap();
    let mut len = 0;
    while let Some(part) = answer.next().await.unwrap() {
        if let Part::Payload(piece) = part {
            len += piece.len();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(len, 16_777_216);
    assert_eq!(channel.cuts(), []);
    channel.stop().await;
}

#[tokio::test]
async fn a_writer_that_pauses_or_dawdles_is_refused() {
    let pausing = ControlLimits { pause: Duration::from_millis(200), ..ControlLimits::default() };
    let dawdling =
        ControlLimits { request: Duration::from_millis(400), ..ControlLimits::default() };
    // The first sends one piece and no more, the second a small piece every now and then.
    for (limits, goes_on) in [(pausing, false), (dawdling, true)] {
        let channel = Channel::start(limits).await;
        let client = channel.client(Role::Orchestrator).await;
        let version = register(&client, "echo").await;
        let reservation = client.reserve(&version, INVOCATION).await.unwrap();
        let before = channel.asked();
        let (sender, receiver) = mpsc::channel(1);
        let start = start_of(&reservation);
        let writing = async move {
            let message = |part| v1::InvokeRequest { part: Some(part) };
            sender.send(message(RequestPart::Start(start))).await.unwrap();
            loop {
                let piece = message(RequestPart::Payload(Bytes::from_static(b"a")));
                if sender.send(piece).await.is_err() {
                    return;
                }
                if goes_on {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                } else {
                    sender.closed().await;
                }
            }
        };
        let mut grpc = client.grpc();
        let calling = grpc.invoke(ReceiverStream::new(receiver));
        let (status, ()) = tokio::join!(async { calling.await.unwrap_err() }, writing);
        assert_eq!(status.code(), Code::InvalidArgument);
        channel.until_cut(Cut::SlowRequest, 1).await;
        assert_eq!(channel.asked(), before);
        // The reservation was not spent.
        client.invoke(start_of(&reservation), Bytes::new(), PATIENCE).await.unwrap();
        channel.stop().await;
    }
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_and_made_again_when_needed() {
    let limits = ControlLimits { idle: Duration::from_millis(200), ..ControlLimits::default() };
    let channel = Channel::start(limits).await;
    let client = channel.client(Role::Observer).await;
    client.status().await.unwrap();
    until("it is closed", || channel.tally.open() == 0).await;
    client.status().await.unwrap();
    assert_eq!(channel.tally.accepted(), 2);
    // A watch is a call: it is never idle.
    let watch = client.watch(false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(channel.tally.open(), 1);
    drop(watch);
    channel.stop().await;
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_callers_certificate() {
    let channel = Channel::start(ControlLimits::default()).await;
    // It expires two seconds from now.
    let almost = SystemTime::now() - Duration::from_secs(24 * 3600 - 2);
    channel.issue("short", Holder::Caller(Role::Observer), 1, almost);
    let client = channel.client_at(&channel.tcp, "short").await.unwrap();
    client.status().await.unwrap();
    assert_eq!(channel.tally.open(), 1);
    until("it is closed", || channel.tally.open() == 0).await;
    client.status().await.unwrap_err();
    channel.until_cut(Cut::CertificateExpired, 1).await;
    channel.stop().await;
}
