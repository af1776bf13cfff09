//! A KMS that lies, stalls, floods or is not there: what it costs is bounded, and what it is called.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use object_store::StaticCredentialProvider;
use object_store::aws::AwsCredential;

use super::{ANSWER_BYTES_MAX, AwsKms, KmsLimits, KmsSpec, TRIES, jittered};
use crate::keys::{Context, KeyError, KeyService as _};

/// For what ends by itself, on a machine however crowded.
const PATIENT: KmsLimits = KmsLimits {
    connect: Duration::from_secs(2),
    attempt: Duration::from_secs(60),
    call: Duration::from_secs(120),
    pause: Duration::from_millis(10),
};

/// For what would never end.
const LIMITS: KmsLimits = KmsLimits {
    attempt: Duration::from_millis(700),
    call: Duration::from_millis(1_800),
    ..PATIENT
};

/// How long after a call's limit a crowded machine may tell of it.
const LATE: Duration = Duration::from_secs(30);

const KEY: &str = "alias/votive";

/// A server that answers each request in the same way, on threads of its own that end with their connections.
struct Server {
    port: u16,
    requests: Arc<AtomicUsize>,
    written: Arc<AtomicU64>,
}

impl Server {
    /// `answer` writes what it wants until the connection breaks; it counts what it wrote.
    fn start(answer: fn(&mut dyn std::io::Write, usize) -> std::io::Result<()>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, bytes) = (requests.clone(), written.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (counted, bytes) = (counted.clone(), bytes.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while read_request(&mut stream).is_some() {
                        let number = counted.fetch_add(1, Ordering::SeqCst);
                        if answer(&mut Counted(&stream, &bytes), number).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Server { port, requests, written }
    }

    fn kms(&self) -> AwsKms {
        kms(self.port)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

struct Counted<'a>(&'a TcpStream, &'a AtomicU64);

impl std::io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = (&mut &*self.0).write(bytes)?;
        self.1.fetch_add(length as u64, Ordering::SeqCst);
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads a head and as much as it says comes behind it.
fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap().to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn kms(port: u16) -> AwsKms {
    let spec = format!("//127.0.0.1:{port}/{KEY}?region=us-east-1&scheme=http");
    let credential =
        AwsCredential { key_id: "id".to_owned(), secret_key: "secret".to_owned(), token: None };
    AwsKms::open(KmsSpec::parse(&spec).unwrap())
        .unwrap()
        .with_credentials(Arc::new(StaticCredentialProvider::new(credential)))
        .with_limits(PATIENT)
}

fn answer(out: &mut dyn std::io::Write, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(out, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Unwraps something; gives the error and how long it took.
fn unwrap(kms: &AwsKms) -> (KeyError, Duration) {
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(kms.unwrap(KEY, b"wrapped", &Context::new())).unwrap_err();
    (refused, start.elapsed())
}

/// The error and all that it says about its causes.
fn chain(error: &KeyError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn what_is_no_answer_is_no_key() {
    for body in [
        "",
        "garbage",
        "[]",
        "{}",
        r#"{"Plaintext":5}"#,
        r#"{"Plaintext":""}"#,
        r#"{"Plaintext":"AAAA"}"#,
        // One byte too many, one too few, and 32 of them in letters that are not Base64's.
        r#"{"Plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#,
        r#"{"Plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="}"#,
        r#"{"Plaintext":"!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!="}"#,
    ] {
        assert!(super::answer::plain(body.as_bytes()).is_err(), "{body}");
        assert!(super::answer::data_key(body.as_bytes()).is_err(), "{body}");
        assert!(super::answer::key_state(body.as_bytes()).is_err(), "{body}");
    }
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    // A letter may come escaped.
    for body in
        [format!(r#"{{"Plaintext":"{key}"}}"#), format!(r#"{{"Plaintext":"\u0041{}"}}"#, &key[1..])]
    {
        let plain = super::answer::plain(body.as_bytes()).unwrap();
        assert_eq!(plain.expose()[..4], [0, 1, 2, 3]);
    }
    let wrapped = |length: usize| {
        let blob = "AAAA".repeat(length);
        format!(r#"{{"Plaintext":"{key}","CiphertextBlob":"{blob}"}}"#)
    };
    assert_eq!(super::answer::data_key(wrapped(60).as_bytes()).unwrap().wrapped.len(), 180);
    assert!(super::answer::data_key(wrapped(0).as_bytes()).is_err());
    assert!(super::answer::data_key(wrapped(342).as_bytes()).is_err());
}

#[test]
fn garbage_is_told_of_at_once() {
    let server = Server::start(|out, _| answer(out, "200 OK", "<html>Welcome</html>"));
    let (refused, _) = unwrap(&server.kms());
    assert!(matches!(refused, KeyError::Unavailable(_)), "{refused}");
    assert!(chain(&refused).ends_with("the answer cannot be read"), "{}", chain(&refused));
    assert_eq!(server.requests(), 1);
}

#[test]
fn an_endless_answer_is_read_no_further_than_any_can_be() {
    let server = Server::start(|out, _| {
        write!(out, "HTTP/1.1 200 OK\r\n\r\n{{\"Plaintext\":\"")?;
        loop {
            out.write_all(&[b'A'; 4096])?;
        }
    });
    let (refused, _) = unwrap(&server.kms());
    let text = chain(&refused);
    assert!(text.contains(&format!("more than {ANSWER_BYTES_MAX} bytes")), "{text}");
    // What the sockets on both sides and the client's first reads hold, and by no means what comes.
    let written = server.written.load(Ordering::SeqCst);
    assert!(written < 64 << 20, "{written} bytes");
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_length_that_is_claimed_is_not_believed() {
    let server = Server::start(|out, _| {
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n")?;
        out.write_all(&[b' '; 1 << 16])
    });
    let (refused, took) = unwrap(&server.kms());
    assert!(matches!(refused, KeyError::Unavailable(_)), "{refused}");
    assert!(took < LIMITS.call + LATE, "{took:?}");
}

#[test]
fn an_endless_head_is_not_read() {
    let server = Server::start(|out, _| {
        write!(out, "HTTP/1.1 200 OK\r\n")?;
        loop {
            out.write_all(b"X-Filler: 0123456789012345678901234567890123456789\r\n")?;
        }
    });
    let (refused, took) = unwrap(&server.kms());
    assert!(matches!(refused, KeyError::Unavailable(_)), "{refused}");
    assert!(took < LIMITS.call + LATE, "{took:?}");
    assert_eq!(server.requests(), TRIES as usize);
}

#[test]
fn a_slow_drip_ends_with_the_time_limit() {
    let server = Server::start(|out, _| {
        write!(out, "HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            out.write_all(b" ")?;
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let (refused, took) = unwrap(&server.kms().with_limits(LIMITS));
    assert!(matches!(refused, KeyError::Unavailable(_)), "{refused}");
    let text = chain(&refused);
    assert!(text.contains("no whole answer within"), "{text}");
    assert!(took >= LIMITS.attempt && took < LIMITS.call + LATE, "{took:?}");
    assert!(server.requests() <= TRIES as usize, "{}", server.requests());
}

#[test]
fn silence_ends_with_the_time_limit() {
    // It listens, and takes no connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (refused, took) = unwrap(&kms(listener.local_addr().unwrap().port()).with_limits(LIMITS));
    assert!(matches!(refused, KeyError::Unavailable(_)), "{refused}");
    assert_eq!(refused.code(), "ServiceException");
    assert!(took >= LIMITS.attempt && took < LIMITS.call + LATE, "{took:?}");
}

#[test]
fn where_nobody_listens_is_told_of_after_the_last_try() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (refused, took) = unwrap(&kms(port));
    assert!(matches!(refused, KeyError::Unavailable(_)), "{refused}");
    assert!(chain(&refused).to_lowercase().contains("refused"), "{}", chain(&refused));
    assert!(took < PATIENT.attempt, "{took:?}");
}

#[test]
fn what_passes_is_tried_again_and_no_more_than_that() {
    let server = Server::start(|out, number| match number {
        0 => answer(out, "500 Internal Server Error", r#"{"__type":"KMSInternalException"}"#),
        1 => answer(out, "400 Bad Request", r#"{"__type":"ThrottlingException"}"#),
        _ => {
            answer(out, "200 OK", r#"{"Plaintext":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}"#)
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let plain = runtime.block_on(server.kms().unwrap(KEY, b"wrapped", &Context::new())).unwrap();
    assert_eq!(plain.expose()[31], 31);
    assert_eq!(server.requests(), 3);
    let failing = Server::start(|out, _| answer(out, "503 Service Unavailable", ""));
    let (refused, _) = unwrap(&failing.kms());
    assert!(chain(&refused).contains("status 503"), "{}", chain(&refused));
    assert_eq!(failing.requests(), TRIES as usize);
}

#[test]
fn each_refusal_has_its_name_and_is_not_tried_again() {
    static BODY: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    let server = Server::start(|out, _| answer(out, "400 Bad Request", &BODY.lock().unwrap()));
    let kms = server.kms();
    for (number, (code, expected)) in [
        ("DisabledException", "KMSDisabledException"),
        ("com.amazonaws.kms#DisabledException", "KMSDisabledException"),
        ("DisabledException:http://internal.amazon.com/", "KMSDisabledException"),
        ("NotFoundException", "KMSNotFoundException"),
        ("KMSInvalidStateException", "KMSInvalidStateException"),
        ("InvalidKeyUsageException", "KMSInvalidStateException"),
        ("InvalidCiphertextException", "KMSInvalidStateException"),
        ("IncorrectKeyException", "KMSInvalidStateException"),
        ("AccessDeniedException", "KMSAccessDeniedException"),
        ("ExpiredTokenException", "KMSAccessDeniedException"),
        ("UnrecognizedClientException", "KMSAccessDeniedException"),
        ("ValidationException", "ServiceException"),
        ("", "ServiceException"),
    ]
    .into_iter()
    .enumerate()
    {
        *BODY.lock().unwrap() = format!(r#"{{"__type":"{code}","message":"be\u001bware"}}"#);
        let (refused, _) = unwrap(&kms);
        assert_eq!(refused.code(), expected, "{code}");
        assert!(!chain(&refused).contains('\u{1b}'), "{code}");
        assert_eq!(server.requests(), number + 1, "{code}");
    }
    // One whose body says nothing: a gateway's, or another implementation's.
    let server = Server::start(|out, _| answer(out, "403 Forbidden", "<Error/>"));
    let (refused, _) = unwrap(&server.kms());
    assert_eq!(refused.code(), "KMSAccessDeniedException");
    assert!(chain(&refused).contains("status 403"), "{}", chain(&refused));
}

#[test]
fn no_other_key_is_asked_for_and_nothing_secret_is_shown() {
    let server = Server::start(|out, _| answer(out, "200 OK", "{}"));
    let kms = server.kms();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = "arn:aws:kms:us-east-1:999999999999:key/thief";
    let refused = runtime.block_on(kms.unwrap(other, b"wrapped", &Context::new())).unwrap_err();
    assert_eq!(refused.code(), "KMSAccessDeniedException");
    assert!(chain(&refused).contains("none of the keys"), "{}", chain(&refused));
    let refused = runtime.block_on(kms.generate(other, &Context::new())).unwrap_err();
    assert_eq!(refused.code(), "KMSAccessDeniedException");
    for wrapped in [&[][..], &[0; 1025]] {
        let refused = runtime.block_on(kms.unwrap(KEY, wrapped, &Context::new())).unwrap_err();
        assert!(matches!(refused, KeyError::InvalidCiphertext { .. }), "{refused}");
    }
    assert_eq!(server.requests(), 0);
    assert_eq!(kms.default_key(), KEY);
    let shown = format!("{kms:?}");
    assert!(shown.contains(KEY) && !shown.contains("secret"), "{shown}");
}

#[test]
fn pauses_are_within_their_bound() {
    for _ in 0..1000 {
        let pause = jittered(Duration::from_millis(200));
        assert!(pause > Duration::ZERO && pause <= Duration::from_millis(200), "{pause:?}");
    }
}
