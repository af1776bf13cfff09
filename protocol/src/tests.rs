//! Every frame there and back, and everything that must be refused.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::limits::{
    ARGUMENTS_MAX, CONTEXT_MAX, DNS_SERVERS_MAX, ENVIRONMENT_MAX, ERROR_BODY_MAX,
    EXTENSION_ERROR_MAX, EXTENSION_NAME_MAX, MOUNTS_MAX, REQUEST_PAYLOAD_MAX, STRING_MAX,
    XRAY_CAUSE_MAX,
};
use crate::{
    BODY_MAX, ByteList, Configure, Done, Down, ExitStatus, Extension, ExtensionEvents,
    ExtensionExited, ExtensionFault, Fault, FaultCode, FileSystem, FrameError, GuestFrame,
    HEADER_LEN, Header, Hello, HostFrame, InitializationType, InvocationId, Invoke, Kind,
    LogStream, Mount, MountTarget, Network, Phase, PhaseName, ResetReason, ResponseEnd,
    ResponseMode, ResponseOutcome, ResponseStart, RuntimeError, RuntimeErrorScope, RuntimeExited,
    Shutdown, ShutdownReason, Subscription, TelemetryTypes, VERSION, fuzz,
};

const ID: InvocationId = InvocationId([
    0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10,
]);

fn configure() -> Configure<'static> {
    let mut mounts = [None; MOUNTS_MAX];
    mounts[0] =
        Some(Mount { device: 0, target: MountTarget::Root, file_system: FileSystem::Erofs });
    mounts[1] = Some(Mount { device: 3, target: MountTarget::Tmp, file_system: FileSystem::Ext4 });
    Configure {
        realtime_ns: 1_790_000_000_000_000_000,
        memory_bytes: 128 << 20,
        uid: 993,
        gid: 990,
        mounts,
        network: Some(Network {
            address: [192, 0, 0, 2],
            prefix: 30,
            gateway: [192, 0, 0, 1],
            dns: [Some([192, 0, 2, 53]), None, None],
        }),
        initialization: InitializationType::OnDemand,
        account_id: "123456789012",
        function_name: "hello",
        function_version: "$LATEST",
        handler: "app.handler",
        runtime: "python3.11",
        region: "eu-central-1",
        log_group: "/aws/lambda/hello",
        log_stream: "2026/11/21/[$LATEST]0123",
        working_directory: "",
        arguments: ByteList::new(b"/bin/app\0--verbose\0").unwrap(),
        environment: ByteList::new(b"STAGE=test\0EMPTY=\0").unwrap(),
        credentials: ByteList::new(b"").unwrap(),
    }
}

fn invoke() -> Invoke<'static> {
    Invoke {
        id: ID,
        realtime_ns: 1_790_000_000_000_000_001,
        deadline_ms: 1_790_000_003_000,
        payload_len: REQUEST_PAYLOAD_MAX,
        function_arn: "arn:aws:lambda:eu-central-1:123456789012:function:hello",
        trace_id: "Root=1-5759e988-bd862e3fe1be46a994272793",
        client_context: "{}",
        cognito_identity: "",
        tenant_id: "blue",
        content_type: "application/json",
    }
}

fn host_examples() -> Vec<HostFrame<'static>> {
    vec![
        HostFrame::Configure(configure()),
        HostFrame::Invoke(invoke()),
        HostFrame::Payload(b""),
        HostFrame::Payload(b"{\"a\":1}"),
        HostFrame::Reset(ResetReason::Timeout),
        HostFrame::Reset(ResetReason::Failure),
        HostFrame::Shutdown(Shutdown { reason: ShutdownReason::Spindown, grace_ms: 300 }),
        HostFrame::Shutdown(Shutdown { reason: ShutdownReason::Timeout, grace_ms: 0 }),
    ]
}

fn guest_examples() -> Vec<GuestFrame<'static>> {
    vec![
        GuestFrame::Hello(Hello { version: VERSION, started_ns: 1 }),
        GuestFrame::Phase(Phase { name: PhaseName::Configured, at_ns: u64::MAX }),
        GuestFrame::Ready(Phase { name: PhaseName::RuntimeReady, at_ns: 0 }),
        GuestFrame::ResponseStart(ResponseStart {
            id: ID,
            mode: ResponseMode::Streaming,
            content_type: "text/plain; charset=utf-8",
        }),
        GuestFrame::ResponsePayload(b"\0\xff"),
        GuestFrame::ResponseEnd(ResponseEnd {
            id: ID,
            outcome: ResponseOutcome::Truncated,
            error_type: "Function.Error",
            error_body: b"\xff\xfe",
        }),
        GuestFrame::RuntimeError(RuntimeError {
            scope: RuntimeErrorScope::Init,
            error_type: "Runtime.ImportModuleError",
            body: b"{}",
            xray_cause: b"",
        }),
        GuestFrame::RuntimeError(RuntimeError {
            scope: RuntimeErrorScope::Invocation(ID),
            error_type: "",
            body: b"",
            xray_cause: b"{}",
        }),
        GuestFrame::Done(Done {
            id: ID,
            duration_ns: 5,
            runtime_ns: 6,
            extensions_ns: 7,
            memory_peak_bytes: 8,
        }),
        GuestFrame::RuntimeExited(RuntimeExited {
            status: ExitStatus::Signal(9),
            out_of_memory: true,
            memory_peak_bytes: 7,
            id: Some(ID),
        }),
        GuestFrame::RuntimeExited(RuntimeExited {
            status: ExitStatus::Code(0),
            out_of_memory: false,
            memory_peak_bytes: 0,
            id: None,
        }),
        GuestFrame::Log(LogStream::Stdout, b"line\n"),
        GuestFrame::Log(LogStream::Stderr, b""),
        GuestFrame::Log(LogStream::Init, b"\0"),
        GuestFrame::Log(LogStream::Extension, b"said"),
        GuestFrame::Fault(Fault { code: FaultCode::Mount, errno: 22, detail: "/tmp" }),
        GuestFrame::Extension(Extension {
            name: "watcher",
            state: "Ready",
            events: ExtensionEvents { invoke: true, shutdown: false },
            error_type: "",
        }),
        GuestFrame::ExtensionExited(ExtensionExited {
            name: "watcher",
            fault: ExtensionFault::Crash,
            status: Some(ExitStatus::Code(3)),
            id: Some(ID),
        }),
        GuestFrame::Subscription(Subscription {
            name: "watcher",
            legacy: true,
            types: TelemetryTypes { platform: true, function: false, extension: true },
        }),
        GuestFrame::Down(Down { at_ns: 9 }),
    ]
}

/// Header and body of an encoded frame.
fn split(frame: &[u8]) -> (Header, &[u8]) {
    let (head, body) = frame.split_first_chunk().unwrap();
    let header = Header::parse(*head).unwrap();
    assert_eq!(header.body_len, body.len());
    (header, body)
}

fn encode_host(frame: &HostFrame<'_>) -> Result<Vec<u8>, FrameError> {
    let mut buffer = vec![0xaa; HEADER_LEN + BODY_MAX];
    let len = frame.encode(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn encode_guest(frame: &GuestFrame<'_>) -> Result<Vec<u8>, FrameError> {
    let mut buffer = vec![0xaa; HEADER_LEN + BODY_MAX];
    let len = frame.encode(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Encoded examples of both sides.
fn examples() -> Vec<Vec<u8>> {
    let host = host_examples().into_iter().map(|frame| encode_host(&frame).unwrap());
    let guest = guest_examples().into_iter().map(|frame| encode_guest(&frame).unwrap());
    host.chain(guest).collect()
}

/// Whether either side's decoder takes the body, as text for comparing.
fn decode(kind: Kind, body: &[u8]) -> Result<String, FrameError> {
    if (kind as u8) < 0x80 {
        HostFrame::decode(kind, body).map(|frame| format!("{frame:?}"))
    } else {
        GuestFrame::decode(kind, body).map(|frame| format!("{frame:?}"))
    }
}

fn is_raw(kind: Kind) -> bool {
    matches!(kind, Kind::Payload | Kind::ResponsePayload | Kind::Log)
}

#[test]
fn every_frame_survives_the_way() {
    for frame in host_examples() {
        let bytes = encode_host(&frame).unwrap();
        let (header, body) = split(&bytes);
        assert_eq!(HostFrame::decode(header.kind, body), Ok(frame));
    }
    for frame in guest_examples() {
        let bytes = encode_guest(&frame).unwrap();
        let (header, body) = split(&bytes);
        assert_eq!(GuestFrame::decode(header.kind, body), Ok(frame));
    }
}

#[test]
fn the_bytes_of_a_frame_do_not_change_unnoticed() {
    let bytes = encode_host(&HostFrame::Shutdown(Shutdown {
        reason: ShutdownReason::Failure,
        grace_ms: 300,
    }))
    .unwrap();
    assert_eq!(bytes, [0x05, 0, 0, 0, 3, 0, 0, 0, 2, 0xac, 0x02]);
    let bytes = encode_guest(&GuestFrame::Log(LogStream::Stderr, b"x\n")).unwrap();
    assert_eq!(bytes, [0x8a, 0, 0, 0, 3, 0, 0, 0, 2, b'x', b'\n']);
    let hello = GuestFrame::Hello(Hello { version: 1, started_ns: 128 });
    assert_eq!(encode_guest(&hello).unwrap(), [0x81, 0, 0, 0, 3, 0, 0, 0, 1, 0x80, 0x01]);
}

#[test]
fn kinds_are_known_or_refused() {
    let known: Vec<u8> = (0..=255u8)
        .filter(|&kind| match Header::parse([kind, 0, 0, 0, 0, 0, 0, 0]) {
            Ok(header) => {
                assert_eq!(header.kind as u8, kind);
                true
            }
            Err(error) => {
                assert_eq!(error, FrameError::UnknownKind { kind });
                false
            }
        })
        .collect();
    assert_eq!(known, (0x01..=0x05).chain(0x81..=0x8f).collect::<Vec<_>>());
}

#[test]
fn header_lengths_are_limited_and_reserved_bytes_are_zero() {
    for (len, fits) in [
        (0u32, true),
        (1, true),
        (0xfff8, true),
        (0xfff9, false),
        (0x1_0000, false),
        (0x1_0000_u32 << 8, false),
        (u32::MAX, false),
    ] {
        let [a, b, c, d] = len.to_le_bytes();
        let header = Header::parse([0x03, 0, 0, 0, a, b, c, d]);
        if fits {
            assert_eq!(header.unwrap().body_len, len as usize);
            assert_eq!(header.unwrap().to_bytes(), [0x03, 0, 0, 0, a, b, c, d]);
        } else {
            assert_eq!(header, Err(FrameError::BodyTooLong { len: len as usize }));
        }
    }
    for at in 1..4 {
        let mut bytes = [0x03, 0, 0, 0, 0, 0, 0, 0];
        bytes[at] = 1;
        assert_eq!(Header::parse(bytes), Err(FrameError::Reserved));
    }
    assert!(Header::new(Kind::Payload, BODY_MAX).is_ok());
    assert!(Header::new(Kind::Payload, BODY_MAX + 1).is_err());
    assert_eq!(HEADER_LEN + BODY_MAX, 65_536);
}

#[test]
fn frames_of_the_wrong_side_are_refused() {
    for bytes in examples() {
        let (header, body) = split(&bytes);
        let kind = header.kind;
        let wrong = if (kind as u8) < 0x80 {
            GuestFrame::decode(kind, body).map(drop)
        } else {
            HostFrame::decode(kind, body).map(drop)
        };
        assert_eq!(wrong, Err(FrameError::WrongSide { kind }));
    }
}

#[test]
fn bodies_cut_short_or_with_something_behind_are_refused() {
    for bytes in examples() {
        let (header, body) = split(&bytes);
        let kind = header.kind;
        if is_raw(kind) {
            continue;
        }
        for len in 0..body.len() {
            assert_eq!(decode(kind, &body[..len]), Err(FrameError::Malformed { kind }), "{len}");
        }
        let mut longer = body.to_vec();
        longer.push(0);
        assert_eq!(decode(kind, &longer), Err(FrameError::Malformed { kind }));
    }
    assert_eq!(GuestFrame::decode(Kind::Log, &[]), Err(FrameError::Malformed { kind: Kind::Log }));
}

#[test]
fn values_that_do_not_exist_are_refused() {
    let cases: &[(Kind, &[u8])] = &[
        (Kind::Log, &[0, b'x']),
        (Kind::Log, &[5, b'x']),
        (Kind::Reset, &[2]),
        (Kind::Phase, &[5, 0]),
        (Kind::Shutdown, &[3, 0]),
        (Kind::ExtensionExited, &[0, 4, 0, 0]),
        (Kind::Subscription, &[0, 2, 0, 0, 0]),
        // A version above 65,535, and a number of more than ten bytes.
        (Kind::Hello, &[0x80, 0x80, 0x04, 0]),
        (Kind::Hello, &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
        // A text that is not UTF-8.
        (Kind::Fault, &[0, 0, 1, 0xff]),
        // A text longer than the body.
        (Kind::Fault, &[0, 0, 0xff, 0xff, 0x03, b'x']),
        (Kind::Fault, &[8, 0, 0]),
        // A truth value of 2.
        (Kind::RuntimeExited, &[0, 0, 2, 0, 0]),
        (Kind::RuntimeExited, &[2, 0, 0, 0, 0]),
    ];
    for &(kind, body) in cases {
        assert_eq!(decode(kind, body), Err(FrameError::Malformed { kind }), "{body:?}");
    }
}

#[test]
fn a_buffer_that_is_too_small_is_refused_whatever_its_size() {
    for frame in host_examples() {
        for size in 0..encode_host(&frame).unwrap().len() {
            assert_eq!(frame.encode(&mut vec![0; size]), Err(FrameError::BufferTooSmall));
        }
    }
    for frame in guest_examples() {
        for size in 0..encode_guest(&frame).unwrap().len() {
            assert_eq!(frame.encode(&mut vec![0; size]), Err(FrameError::BufferTooSmall));
        }
    }
}

#[test]
fn raw_bodies_are_limited() {
    let bytes = vec![7; BODY_MAX + 1];
    let most = HostFrame::Payload(&bytes[..BODY_MAX]);
    assert_eq!(encode_host(&most).unwrap().len(), HEADER_LEN + BODY_MAX);
    let too_long = Err(FrameError::BodyTooLong { len: BODY_MAX + 1 });
    assert_eq!(encode_host(&HostFrame::Payload(&bytes)), too_long);
    assert_eq!(encode_guest(&GuestFrame::ResponsePayload(&bytes)), too_long);
    // The name of the stream takes one byte.
    assert_eq!(encode_guest(&GuestFrame::Log(LogStream::Init, &bytes[..BODY_MAX])), too_long);
    assert!(encode_guest(&GuestFrame::Log(LogStream::Init, &bytes[1..BODY_MAX])).is_ok());
}

/// A field of `max` bytes is taken and one of `max + 1` is refused, on its way out and on its way in.
fn check_host_limit(max: usize, with: impl Fn(&'static [u8]) -> HostFrame<'static>) {
    let bytes: &'static [u8] = vec![b'x'; max + 1].leak();
    let most = with(&bytes[..max]);
    let encoded = encode_host(&most).unwrap();
    let (header, body) = split(&encoded);
    assert_eq!(HostFrame::decode(header.kind, body), Ok(most));
    let too_long = FrameError::FieldTooLong { len: max + 1, max };
    let more = with(bytes);
    assert_eq!(encode_host(&more), Err(too_long));
    let (kind, body) = match more {
        HostFrame::Configure(body) => (Kind::Configure, postcard::to_extend(&body, Vec::new())),
        HostFrame::Invoke(body) => (Kind::Invoke, postcard::to_extend(&body, Vec::new())),
        _ => panic!("a raw frame has no fields"),
    };
    assert_eq!(HostFrame::decode(kind, &body.unwrap()), Err(too_long));
}

fn check_guest_limit(max: usize, with: impl Fn(&'static [u8]) -> GuestFrame<'static>) {
    let bytes: &'static [u8] = vec![b'x'; max + 1].leak();
    let most = with(&bytes[..max]);
    let encoded = encode_guest(&most).unwrap();
    let (header, body) = split(&encoded);
    assert_eq!(GuestFrame::decode(header.kind, body), Ok(most));
    let too_long = FrameError::FieldTooLong { len: max + 1, max };
    let more = with(bytes);
    assert_eq!(encode_guest(&more), Err(too_long));
    let (kind, body) = match more {
        GuestFrame::ResponseStart(body) => {
            (Kind::ResponseStart, postcard::to_extend(&body, Vec::new()))
        }
        GuestFrame::ResponseEnd(body) => {
            (Kind::ResponseEnd, postcard::to_extend(&body, Vec::new()))
        }
        GuestFrame::RuntimeError(body) => {
            (Kind::RuntimeError, postcard::to_extend(&body, Vec::new()))
        }
        GuestFrame::Fault(body) => (Kind::Fault, postcard::to_extend(&body, Vec::new())),
        GuestFrame::Extension(body) => (Kind::Extension, postcard::to_extend(&body, Vec::new())),
        GuestFrame::ExtensionExited(body) => {
            (Kind::ExtensionExited, postcard::to_extend(&body, Vec::new()))
        }
        GuestFrame::Subscription(body) => {
            (Kind::Subscription, postcard::to_extend(&body, Vec::new()))
        }
        _ => panic!("a frame without limited fields"),
    };
    assert_eq!(GuestFrame::decode(kind, &body.unwrap()), Err(too_long));
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[test]
fn texts_of_the_host_are_limited() {
    type Set = fn(&mut Configure<'static>, &'static str);
    let fields: [Set; 9] = [
        |it, text| it.account_id = text,
        |it, text| it.function_name = text,
        |it, text| it.function_version = text,
        |it, text| it.handler = text,
        |it, text| it.runtime = text,
        |it, text| it.region = text,
        |it, text| it.log_group = text,
        |it, text| it.log_stream = text,
        |it, text| it.working_directory = text,
    ];
    for set in fields {
        check_host_limit(STRING_MAX, |bytes| {
            let mut body = configure();
            set(&mut body, text(bytes));
            HostFrame::Configure(body)
        });
    }
    type SetInvoke = fn(&mut Invoke<'static>, &'static str);
    let fields: [(usize, SetInvoke); 6] = [
        (STRING_MAX, |it, text| it.tenant_id = text),
        (STRING_MAX, |it, text| it.function_arn = text),
        (STRING_MAX, |it, text| it.trace_id = text),
        (STRING_MAX, |it, text| it.content_type = text),
        (CONTEXT_MAX, |it, text| it.client_context = text),
        (CONTEXT_MAX, |it, text| it.cognito_identity = text),
    ];
    for (max, set) in fields {
        check_host_limit(max, |bytes| {
            let mut body = invoke();
            set(&mut body, text(bytes));
            HostFrame::Invoke(body)
        });
    }
}

#[test]
fn texts_and_errors_of_the_guest_are_limited() {
    let error =
        RuntimeError { scope: RuntimeErrorScope::Init, error_type: "", body: b"", xray_cause: b"" };
    let end =
        ResponseEnd { id: ID, outcome: ResponseOutcome::Complete, error_type: "", error_body: b"" };
    let start = ResponseStart { id: ID, mode: ResponseMode::Buffered, content_type: "" };
    let fault = Fault { code: FaultCode::System, errno: 0, detail: "" };
    check_guest_limit(STRING_MAX, |it| {
        GuestFrame::ResponseStart(ResponseStart { content_type: text(it), ..start })
    });
    check_guest_limit(STRING_MAX, |it| {
        GuestFrame::ResponseEnd(ResponseEnd { error_type: text(it), ..end })
    });
    check_guest_limit(ERROR_BODY_MAX, |it| {
        GuestFrame::ResponseEnd(ResponseEnd { error_body: it, ..end })
    });
    check_guest_limit(STRING_MAX, |it| {
        GuestFrame::RuntimeError(RuntimeError { error_type: text(it), ..error })
    });
    check_guest_limit(ERROR_BODY_MAX, |it| {
        GuestFrame::RuntimeError(RuntimeError { body: it, ..error })
    });
    check_guest_limit(XRAY_CAUSE_MAX, |it| {
        GuestFrame::RuntimeError(RuntimeError { xray_cause: it, ..error })
    });
    check_guest_limit(STRING_MAX, |it| GuestFrame::Fault(Fault { detail: text(it), ..fault }));
    let extension =
        Extension { name: "", state: "", events: ExtensionEvents::default(), error_type: "" };
    check_guest_limit(EXTENSION_NAME_MAX, |it| {
        GuestFrame::Extension(Extension { name: text(it), ..extension })
    });
    check_guest_limit(EXTENSION_ERROR_MAX, |it| {
        GuestFrame::Extension(Extension { state: text(it), ..extension })
    });
    check_guest_limit(EXTENSION_ERROR_MAX, |it| {
        GuestFrame::Extension(Extension { error_type: text(it), ..extension })
    });
    let fault = ExtensionFault::Crash;
    check_guest_limit(EXTENSION_NAME_MAX, |it| {
        let name = text(it);
        GuestFrame::ExtensionExited(ExtensionExited { name, fault, status: None, id: None })
    });
    check_guest_limit(EXTENSION_NAME_MAX, |it| {
        let types = TelemetryTypes::default();
        GuestFrame::Subscription(Subscription { name: text(it), legacy: false, types })
    });
}

#[test]
fn payloads_above_the_limit_are_refused_at_their_head() {
    let mut body = invoke();
    for (payload_len, fits) in [
        (0, true),
        (REQUEST_PAYLOAD_MAX, true),
        (REQUEST_PAYLOAD_MAX + 1, false),
        (u64::MAX, false),
    ] {
        body.payload_len = payload_len;
        assert_eq!(encode_host(&HostFrame::Invoke(body)).is_ok(), fits, "{payload_len}");
        let bytes = postcard::to_extend(&body, Vec::new()).unwrap();
        assert_eq!(HostFrame::decode(Kind::Invoke, &bytes).is_ok(), fits, "{payload_len}");
    }
}

#[test]
fn lists_are_limited_and_end_with_a_nul() {
    type Set = fn(&mut Configure<'static>, ByteList<'static>);
    let fields: [(usize, Set); 3] = [
        (ARGUMENTS_MAX, |it, list| it.arguments = list),
        (ENVIRONMENT_MAX, |it, list| it.environment = list),
        (ENVIRONMENT_MAX, |it, list| it.credentials = list),
    ];
    for (max, set) in fields {
        for (len, fits) in [(max, true), (max + 1, false)] {
            let mut bytes = vec![b'x'; len];
            bytes[len - 1] = 0;
            let mut body = configure();
            set(&mut body, ByteList::new(bytes.leak()).unwrap());
            let encoded = encode_host(&HostFrame::Configure(body));
            let forged = postcard::to_extend(&body, Vec::new()).unwrap();
            let decoded = HostFrame::decode(Kind::Configure, &forged).map(drop);
            if fits {
                assert!(encoded.is_ok() && decoded.is_ok());
            } else {
                assert_eq!(encoded.map(drop), Err(FrameError::FieldTooLong { len, max }));
                assert_eq!(decoded, Err(FrameError::FieldTooLong { len, max }));
            }
        }
    }
    assert_eq!(ByteList::new(b"A=1\0B"), Err(FrameError::Unterminated));
    // The same on the wire: the last list ends the body, so its last byte is the last NUL.
    let mut body = configure();
    body.credentials = ByteList::new(b"K=V\0").unwrap();
    let mut bytes = postcard::to_extend(&body, Vec::new()).unwrap();
    *bytes.last_mut().unwrap() = b'!';
    assert_eq!(HostFrame::decode(Kind::Configure, &bytes), Err(FrameError::Unterminated));
}

#[test]
fn a_list_gives_back_its_items() {
    fn check(bytes: &[u8], expect: &[&[u8]]) {
        let list = ByteList::new(bytes).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), expect);
        assert_eq!(list.into_iter().count(), expect.len());
    }
    check(b"", &[]);
    check(b"\0", &[b""]);
    check(b"A=1\0", &[b"A=1"]);
    check(b"A=1\0\0B=\xff\0", &[b"A=1", b"", b"B=\xff"]);
}

#[test]
fn the_largest_frames_fit() {
    let longest = "x".repeat(STRING_MAX);
    let context = "x".repeat(CONTEXT_MAX);
    let (error, cause) = (vec![1; ERROR_BODY_MAX], vec![2; XRAY_CAUSE_MAX]);
    let list = vec![0; ENVIRONMENT_MAX];
    let list = ByteList::new(&list).unwrap();
    let arguments = vec![0; ARGUMENTS_MAX];
    let mount = Mount { device: 255, target: MountTarget::Tmp, file_system: FileSystem::Ext4 };
    let frames = [
        HostFrame::Configure(Configure {
            realtime_ns: u64::MAX,
            memory_bytes: u64::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            mounts: [Some(mount); MOUNTS_MAX],
            network: Some(Network {
                address: [255; 4],
                prefix: 255,
                gateway: [255; 4],
                dns: [Some([255; 4]); DNS_SERVERS_MAX],
            }),
            initialization: InitializationType::SnapStart,
            account_id: &longest,
            function_name: &longest,
            function_version: &longest,
            handler: &longest,
            runtime: &longest,
            region: &longest,
            log_group: &longest,
            log_stream: &longest,
            working_directory: &longest,
            arguments: ByteList::new(&arguments).unwrap(),
            environment: list,
            credentials: list,
        }),
        HostFrame::Invoke(Invoke {
            id: InvocationId([255; 16]),
            realtime_ns: u64::MAX,
            deadline_ms: u64::MAX,
            payload_len: REQUEST_PAYLOAD_MAX,
            function_arn: &longest,
            trace_id: &longest,
            client_context: &context,
            cognito_identity: &context,
            tenant_id: &longest,
            content_type: &longest,
        }),
    ];
    for frame in frames {
        let bytes = encode_host(&frame).unwrap();
        assert_eq!(HostFrame::decode(split(&bytes).0.kind, split(&bytes).1), Ok(frame));
    }
    let frame = GuestFrame::RuntimeError(RuntimeError {
        scope: RuntimeErrorScope::Invocation(ID),
        error_type: &longest,
        body: &error,
        xray_cause: &cause,
    });
    let bytes = encode_guest(&frame).unwrap();
    assert_eq!(GuestFrame::decode(Kind::RuntimeError, split(&bytes).1), Ok(frame));
}

#[test]
fn an_invocation_id_reads_as_a_uuid() {
    assert_eq!(ID.to_string(), "01234567-89ab-cdef-fedc-ba9876543210");
    assert_eq!(InvocationId([0; 16]).to_string(), "00000000-0000-0000-0000-000000000000");
    assert_eq!(InvocationId([255; 16]).to_string(), "ffffffff-ffff-ffff-ffff-ffffffffffff");
    assert_eq!(ID.to_text().as_slice(), ID.to_string().as_bytes());
}

/// Texts within their limit, of any characters.
fn any_text(max: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        9 => ".{0,60}",
        1 => vec(any::<char>(), 0..max / 4).prop_map(|chars| chars.into_iter().collect()),
    ]
}

fn any_list() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200).prop_map(|mut bytes| {
        if let Some(last) = bytes.last_mut() {
            *last = 0;
        }
        bytes
    })
}

fn any_network() -> impl Strategy<Value = Option<Network>> {
    let dns = any::<[Option<[u8; 4]>; DNS_SERVERS_MAX]>();
    let network = (any::<[u8; 4]>(), any::<u8>(), any::<[u8; 4]>(), dns);
    proptest::option::of(network.prop_map(|(address, prefix, gateway, dns)| Network {
        address,
        prefix,
        gateway,
        dns,
    }))
}

fn any_mount() -> impl Strategy<Value = Option<Mount>> {
    let target = prop_oneof![
        Just(MountTarget::Root),
        Just(MountTarget::Task),
        Just(MountTarget::Opt),
        Just(MountTarget::Tmp)
    ];
    let file_system = prop_oneof![Just(FileSystem::Erofs), Just(FileSystem::Ext4)];
    proptest::option::of(
        (any::<u8>(), target, file_system).prop_map(|(device, target, file_system)| Mount {
            device,
            target,
            file_system,
        }),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_configuration_survives_the_way(
        numbers in any::<(u64, u64, u32, u32)>(),
        mounts in proptest::array::uniform8(any_mount()),
        texts in proptest::array::uniform9(any_text(STRING_MAX)),
        lists in proptest::array::uniform3(any_list()),
        network in any_network(),
    ) {
        let frame = HostFrame::Configure(Configure {
            realtime_ns: numbers.0,
            memory_bytes: numbers.1,
            uid: numbers.2,
            gid: numbers.3,
            mounts,
            network,
            initialization: InitializationType::ProvisionedConcurrency,
            account_id: &texts[8],
            function_name: &texts[0],
            function_version: &texts[1],
            handler: &texts[2],
            runtime: &texts[3],
            region: &texts[4],
            log_group: &texts[5],
            log_stream: &texts[6],
            working_directory: &texts[7],
            arguments: ByteList::new(&lists[0]).unwrap(),
            environment: ByteList::new(&lists[1]).unwrap(),
            credentials: ByteList::new(&lists[2]).unwrap(),
        });
        let bytes = encode_host(&frame).unwrap();
        let (header, body) = split(&bytes);
        prop_assert_eq!(HostFrame::decode(header.kind, body), Ok(frame));
    }

    #[test]
    fn any_invocation_survives_the_way(
        id in any::<[u8; 16]>(),
        deadline_ms in any::<u64>(),
        payload_len in 0..=REQUEST_PAYLOAD_MAX,
        texts in proptest::array::uniform6(any_text(STRING_MAX)),
    ) {
        let frame = HostFrame::Invoke(Invoke {
            id: InvocationId(id),
            realtime_ns: deadline_ms.wrapping_mul(3),
            deadline_ms,
            payload_len,
            function_arn: &texts[0],
            trace_id: &texts[1],
            client_context: &texts[2],
            cognito_identity: &texts[3],
            tenant_id: &texts[5],
            content_type: &texts[4],
        });
        let bytes = encode_host(&frame).unwrap();
        let (header, body) = split(&bytes);
        prop_assert_eq!(HostFrame::decode(header.kind, body), Ok(frame));
    }

    #[test]
    fn any_report_of_the_guest_survives_the_way(
        id in any::<[u8; 16]>(),
        numbers in any::<(u64, u64, u16, u8, bool)>(),
        error_type in any_text(STRING_MAX),
        body in vec(any::<u8>(), 0..2000),
        xray_cause in vec(any::<u8>(), 0..300),
    ) {
        let id = InvocationId(id);
        let (a, b, errno, code, flag) = numbers;
        let status = if flag { ExitStatus::Code(code) } else { ExitStatus::Signal(code) };
        let (error_type, body) = (error_type.as_str(), body.as_slice());
        for frame in [
            GuestFrame::Hello(Hello { version: errno, started_ns: a }),
            GuestFrame::Phase(Phase { name: PhaseName::RuntimeStarted, at_ns: a }),
            GuestFrame::ResponseStart(ResponseStart {
                id, mode: ResponseMode::Buffered, content_type: error_type,
            }),
            GuestFrame::ResponsePayload(body),
            GuestFrame::ResponseEnd(ResponseEnd {
                id, outcome: ResponseOutcome::Oversized, error_type, error_body: body,
            }),
            GuestFrame::RuntimeError(RuntimeError {
                scope: RuntimeErrorScope::Invocation(id), error_type, body, xray_cause: &xray_cause,
            }),
            GuestFrame::Done(Done {
                id, duration_ns: a, runtime_ns: b, extensions_ns: a, memory_peak_bytes: b,
            }),
            GuestFrame::RuntimeExited(RuntimeExited {
                status, out_of_memory: flag, memory_peak_bytes: b, id: flag.then_some(id),
            }),
            GuestFrame::Log(LogStream::Stdout, body),
            GuestFrame::Fault(Fault { code: FaultCode::Cgroup, errno, detail: error_type }),
            GuestFrame::ExtensionExited(ExtensionExited {
                name: "n",
                fault: ExtensionFault::ExitError,
                status: flag.then_some(status),
                id: flag.then_some(id),
            }),
            GuestFrame::Down(Down { at_ns: b }),
        ] {
            let bytes = encode_guest(&frame).unwrap();
            let (header, body) = split(&bytes);
            prop_assert_eq!(GuestFrame::decode(header.kind, body), Ok(frame));
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        kind in prop_oneof![0x01u8..=0x05, 0x81u8..=0x8f, any::<u8>()],
        head in any::<[u8; 7]>(),
        body in vec(prop_oneof![0u8..4, any::<u8>()], 0..400),
    ) {
        let mut bytes = vec![kind];
        bytes.extend(head);
        bytes.extend(body);
        fuzz::guest_frames(&bytes);
        fuzz::host_frames(&bytes);
    }

    #[test]
    fn a_flipped_bit_is_a_frame_or_refused(which in 0usize..28, bit in any::<prop::sample::Index>()) {
        let mut bytes = examples()[which].clone();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fuzz::guest_frames(&bytes);
        fuzz::host_frames(&bytes);
    }

    #[test]
    fn the_text_of_an_invocation_id_is_its_bytes(id in any::<[u8; 16]>()) {
        let text = InvocationId(id).to_string();
        let groups: Vec<usize> = text.split('-').map(str::len).collect();
        prop_assert_eq!(groups, [8, 4, 4, 4, 12]);
        let number = u128::from_str_radix(&text.replace('-', ""), 16).unwrap();
        prop_assert_eq!(number.to_be_bytes(), id);
    }
}
