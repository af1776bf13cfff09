//! Frames through a stream, whole and in pieces, and what is no frame.

use proptest::prelude::*;
use votive_protocol::{GuestFrame, Hello, LogStream, VERSION};

use super::*;
use crate::function::FunctionSpec;

fn encoded(frame: &GuestFrame<'_>) -> Vec<u8> {
    let mut buffer = vec![0; HEADER_LEN + BODY_MAX];
    let len = frame.encode(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

/// Reads frames until the end; gives them, and how it ended.
async fn read_all(bytes: &[u8]) -> (Vec<GuestEvent>, Option<LinkError>) {
    let mut reader = FrameReader::new(bytes);
    let mut events = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, None),
            Err(error) => return (events, Some(error)),
        }
    }
}

fn read(bytes: &[u8]) -> (Vec<GuestEvent>, Option<LinkError>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(read_all(bytes))
}

#[test]
fn frames_come_one_after_the_other() {
    let hello = GuestFrame::Hello(Hello { version: VERSION, started_ns: 3 });
    let largest = vec![0x5a; BODY_MAX - 1];
    let log = GuestFrame::Log(LogStream::Stderr, &largest);
    let bytes = [encoded(&hello), encoded(&log), encoded(&hello)].concat();
    let (events, error) = read(&bytes);
    assert!(error.is_none());
    assert_eq!(events, [GuestEvent::from(hello), GuestEvent::from(log), GuestEvent::from(hello)]);
}

#[test]
fn a_link_that_ends_within_a_frame_is_truncated() {
    let bytes = encoded(&GuestFrame::Hello(Hello { version: VERSION, started_ns: 3 }));
    for len in 1..bytes.len() {
        let (events, error) = read(&bytes[..len]);
        assert!(events.is_empty() && matches!(error, Some(LinkError::Truncated)), "{len} bytes");
    }
    assert!(matches!(read(&[]), (_, None)));
}

#[test]
fn what_is_no_frame_of_a_guest_is_a_violation() {
    for bytes in [
        &[0x7f, 0, 0, 0, 0, 0, 0, 0][..],
        &[0x81, 1, 0, 0, 0, 0, 0, 0],
        &[0x8a, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        // A frame of the host's.
        &[0x04, 0, 0, 0, 1, 0, 0, 0, 0],
        // A log of a stream that there is not.
        &[0x8a, 0, 0, 0, 1, 0, 0, 0, 9],
    ] {
        let (events, error) = read(bytes);
        assert!(events.is_empty() && error.is_some_and(|error| error.is_violation()), "{bytes:?}");
    }
}

#[test]
fn the_largest_configuration_and_payload_can_be_sent() {
    let value = "v".repeat(crate::limits::ENVIRONMENT_MAX - 2);
    let spec = FunctionSpec {
        environment: vec![(String::from("KK"), value.clone())],
        handler: "h".repeat(crate::limits::HANDLER_MAX),
        name: "n".repeat(crate::limits::NAME_MAX),
        ..FunctionSpec::new("provided", "x")
    };
    let configuration = Configuration {
        function: spec.validate().unwrap(),
        realtime_ns: 1,
        container: None,
        mounts: [None; MOUNTS_MAX],
        network: None,
        log_stream: String::from("s"),
        initialization: InitializationType::OnDemand,
    };
    let payload: Vec<u8> = (0..6 * 1024 * 1024_u32).map(|i| i as u8).collect();
    let request = Request {
        id: InvocationId([1; 16]),
        deadline_ms: 2,
        function_arn: String::from("arn"),
        trace_id: String::from("trace"),
        client_context: String::from("{}"),
        cognito_identity: String::new(),
        content_type: String::from("text/plain"),
        realtime_ns: 4,
        payload: payload.clone(),
    };
    let mut sent = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut writer = FrameWriter::new(&mut sent);
        writer.send(&HostMessage::Configure(Box::new(configuration))).await.unwrap();
        writer.send(&HostMessage::Invoke(Box::new(request))).await.unwrap();
        writer.send(&HostMessage::Reset(ResetReason::Timeout)).await.unwrap();
    });
    let mut rest = sent.as_slice();
    let mut received = Vec::new();
    let mut kinds = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk() {
        let header = Header::parse(*header).unwrap();
        let (body, after) = after.split_at(header.body_len);
        match HostFrame::decode(header.kind, body).unwrap() {
            HostFrame::Configure(configure) => {
                let expected = format!("KK={value}");
                let variables: Vec<_> = configure.environment.iter().collect();
                assert_eq!(variables, [expected.as_bytes()]);
                assert_eq!(configure.runtime, "");
                kinds.push("configure");
            }
            HostFrame::Invoke(invoke) => {
                assert_eq!(invoke.payload_len, 6 * 1024 * 1024);
                kinds.push("invoke");
            }
            HostFrame::Payload(piece) => received.extend_from_slice(piece),
            HostFrame::Reset(_) => kinds.push("reset"),
            HostFrame::Shutdown(_) => kinds.push("shutdown"),
        }
        rest = after;
    }
    assert_eq!(kinds, ["configure", "invoke", "reset"]);
    assert!(received == payload);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (events, _) = read(&bytes);
        prop_assert!(events.len() <= bytes.len() / HEADER_LEN);
    }
}

#[test]
fn the_largest_container_s_process_can_be_sent() {
    use votive_artifact::oci::ContainerConfig;
    use votive_protocol::limits::{ARGUMENTS_MAX, ENVIRONMENT_MAX, STRING_MAX};
    let spec = FunctionSpec {
        container: Some(crate::function::ImageConfig::default()),
        name: "n".repeat(crate::limits::NAME_MAX),
        ..FunctionSpec::new("", "")
    };
    let function = spec.validate().unwrap();
    let folder = format!("/{}", "w".repeat(STRING_MAX - 1));
    let image = ContainerConfig {
        entrypoint: vec![String::from("e")],
        command: vec!["c".repeat(ARGUMENTS_MAX - 3)],
        environment: vec![(String::from("K"), "v".repeat(ENVIRONMENT_MAX - 3))],
        working_folder: folder.clone(),
        user: String::new(),
    };
    let container = crate::function::Container::new(&image, &function).unwrap();
    let configuration = Configuration {
        function,
        realtime_ns: 1,
        container: Some(Arc::new(container)),
        mounts: [None; MOUNTS_MAX],
        network: None,
        log_stream: String::from("s"),
        initialization: InitializationType::OnDemand,
    };
    let mut sent = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let message = HostMessage::Configure(Box::new(configuration));
    runtime.block_on(FrameWriter::new(&mut sent).send(&message)).unwrap();
    let (header, body) = sent.split_first_chunk().unwrap();
    let header = Header::parse(*header).unwrap();
    let HostFrame::Configure(configure) = HostFrame::decode(header.kind, body).unwrap() else {
        panic!("another frame")
    };
    assert!(configure.is_container_image());
    assert_eq!((configure.handler, configure.runtime), ("", ""));
    assert_eq!(configure.working_directory, folder);
    let arguments: Vec<_> = configure.arguments.iter().map(<[u8]>::len).collect();
    assert_eq!(arguments, [1, ARGUMENTS_MAX - 3]);
    assert_eq!(configure.environment.iter().next().unwrap().len(), ENVIRONMENT_MAX - 1);
}
