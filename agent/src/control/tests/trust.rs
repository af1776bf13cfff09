//! Who trusts whom: wrong authorities, dates, purposes and roles, on both sides.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use votive_control::client::{Client, ClientError, ClientSpec};
use votive_control::identity::{Holder, Role};
use votive_control::keys;
use votive_control::tls::{ALPN, CERTIFICATE_FILE, Identity, KEY_FILE, provider};

use super::harness::{Channel, PATIENCE};
use crate::control::tally::Cut;
use crate::control::{ControlLimits, ControlServer, ControlSpec};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a caller with these keys hears when it asks for the status.
async fn refusal_of(channel: &Channel, keys: &str) -> ClientError {
    match channel.client_at(&channel.tcp, keys).await {
        Err(error) => error,
        // The worker judges when the caller is done with its handshake.
        Ok(client) => client.status().await.unwrap_err(),
    }
}

#[tokio::test]
async fn a_plaintext_peer_is_refused() {
    let channel = Channel::start(ControlLimits::default()).await;
    let texts: [&[u8]; 3] = [
        b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        &[0; 64],
    ];
    for text in texts {
        let mut stream =
            tokio::net::TcpStream::connect(("127.0.0.1", channel.port())).await.unwrap();
        stream.write_all(text).await.unwrap();
        let mut heard = Vec::new();
        let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
        // It hears a TLS alert at most, or that the connection is gone.
        drop(reading.unwrap());
        assert!(heard.is_empty() || heard[0] == 21, "{heard:?}");
    }
    channel.until_cut(Cut::NotTls, 3).await;
    assert_eq!((channel.asked(), channel.tally.accepted()), (0, 0));
    channel.stop().await;
}

#[tokio::test]
async fn a_caller_of_another_authority_is_refused() {
    let channel = Channel::start(ControlLimits::default()).await;
    let other = channel.place.path().join("other");
    keys::init(&other, &[], 30, SystemTime::now()).unwrap();
    // It trusts our worker, but its own certificate is of the other authority.
    let mixed = channel.keys("mixed");
    copy(&other.join("operator"), &mixed);
    std::fs::copy(channel.keys("ca.pem"), mixed.join("ca.pem")).unwrap();
    let error = refusal_of(&channel, "mixed").await;
    assert!(matches!(error, ClientError::Distrusted { .. }), "{error}");
    channel.until_cut(Cut::CertificateAuthority, 1).await;

    // The other way round it is the caller who refuses.
    let identity = Identity::read(&other.join("operator")).unwrap();
    let spec = ClientSpec { address: channel.tcp.clone(), server_name: None };
    let error = Client::connect(&spec, &identity).await.unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    channel.until_cut(Cut::TlsAlert, 1).await;
    assert_eq!((channel.asked(), channel.tally.accepted()), (0, 0));
    channel.stop().await;
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    let channel = Channel::start(ControlLimits::default()).await;
    let holder = Holder::Caller(Role::Operator);
    channel.issue("late", holder, 1, SystemTime::now() - 3 * DAY);
    channel.issue("early", holder, 1, SystemTime::now() + 3 * DAY);
    for (keys, cut) in [("late", Cut::CertificateExpired), ("early", Cut::CertificateNotYet)] {
        let error = refusal_of(&channel, keys).await;
        assert!(matches!(error, ClientError::Distrusted { .. }), "{keys}: {error}");
        channel.until_cut(cut, 1).await;
    }
    assert_eq!((channel.asked(), channel.tally.accepted()), (0, 0));
    channel.stop().await;
}

#[tokio::test]
async fn a_certificate_without_a_callers_role_or_purpose_is_refused() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let channel = Channel::start(ControlLimits::default()).await;
    let cases: [(&str, &[&str], ExtendedKeyUsagePurpose, Cut); 5] = [
        ("none", &["urn:example:operator"], ClientAuth, Cut::CertificateRole),
        ("unknown", &["urn:votive:role:root"], ClientAuth, Cut::CertificateRole),
        ("worker-role", &["urn:votive:role:worker"], ClientAuth, Cut::CertificateRole),
        (
            "two",
            &["urn:votive:role:observer", "urn:votive:role:operator"],
            ClientAuth,
            Cut::CertificateRole,
        ),
        ("server", &["urn:votive:role:operator"], ServerAuth, Cut::CertificatePurpose),
    ];
    let mut roles = 0;
    for (name, uris, purpose, cut) in cases {
        forge(&channel, name, uris, purpose);
        // Our own client would not use such a certificate, so openssl does.
        connect(&channel, name).await;
        let times = if cut == Cut::CertificateRole {
            roles += 1;
            roles
        } else {
            1
        };
        channel.until_cut(cut, times).await;
    }
    assert_eq!((channel.asked(), channel.tally.accepted()), (0, 0));
    channel.stop().await;
}

#[tokio::test]
async fn a_server_that_is_no_worker_is_refused() {
    // A caller's certificate with every purpose and the right name is still a caller's.
    let channel = Channel::start(ControlLimits::default()).await;
    forge(&channel, "posing", &["urn:votive:role:operator"], ExtendedKeyUsagePurpose::ServerAuth);
    let read = |file: &str| std::fs::read(channel.keys("posing").join(file)).unwrap();
    let certificate = CertificateDer::from_pem_slice(&read(CERTIFICATE_FILE)).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read(KEY_FILE)).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let posing = async {
        let (stream, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(stream).await
    };
    let address = format!("https://127.0.0.1:{port}").parse().unwrap();
    let (error, posed) = tokio::join!(channel.client_at(&address, "operator"), posing);
    let error = error.unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("of role operator, which is not for this side"), "{error}");
    assert!(posed.is_err());
    channel.stop().await;
}

#[tokio::test]
async fn a_worker_of_another_name_or_time_is_refused_by_its_callers() {
    let channel = Channel::start(ControlLimits::default()).await;
    let identity = Identity::read(&channel.keys("observer")).unwrap();
    let name = Some(String::from("another.example"));
    let spec = ClientSpec { address: channel.tcp.clone(), server_name: name };
    let error = Client::connect(&spec, &identity).await.unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    // Its own name is right also where it is not the address's.
    let spec =
        ClientSpec { address: channel.unix.clone(), server_name: Some(String::from("127.0.0.1")) };
    Client::connect(&spec, &identity).await.unwrap().status().await.unwrap();

    let late = channel.issue("late-worker", Holder::Worker, 1, SystemTime::now() - 3 * DAY);
    replace_worker(&channel, &late);
    channel.renewal.renew().unwrap();
    let spec = ClientSpec { address: channel.tcp.clone(), server_name: None };
    let error = Client::connect(&spec, &identity).await.unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    channel.stop().await;
}

#[tokio::test]
async fn new_certificates_are_taken_while_the_channel_serves() {
    let channel = Channel::start(ControlLimits::default()).await;
    let old = channel.client(Role::Observer).await;
    // A new authority: who has only the old one's certificates is out.
    let other = channel.place.path().join("other");
    keys::init(&other, &[], 30, SystemTime::now()).unwrap();
    replace_worker(&channel, &other.join("worker"));
    channel.renewal.renew().unwrap();
    let error = channel.client_at(&channel.tcp, "observer").await.unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    let identity = Identity::read(&other.join("observer")).unwrap();
    let spec = ClientSpec { address: channel.tcp.clone(), server_name: None };
    Client::connect(&spec, &identity).await.unwrap().status().await.unwrap();
    // A connection that was there before stays until it is too old.
    old.status().await.unwrap();

    // What is of no use changes nothing.
    std::fs::write(channel.keys("worker").join(CERTIFICATE_FILE), "nonsense").unwrap();
    channel.renewal.renew().unwrap_err();
    Client::connect(&spec, &identity).await.unwrap().status().await.unwrap();
    channel.stop().await;
}

#[tokio::test]
async fn a_channel_does_not_begin_with_keys_of_no_use_or_where_another_is() {
    let channel = Channel::start(ControlLimits::default()).await;
    let spec = |keys: &str, unix: &str| ControlSpec {
        tcp: Vec::new(),
        unix: vec![channel.place.path().join(unix)],
        identity: channel.keys(keys),
        limits: ControlLimits::default(),
    };
    for keys in ["operator", "nowhere"] {
        let error = ControlServer::bind(spec(keys, "other.sock")).await.unwrap_err();
        assert!(matches!(error, crate::control::ControlError::Identity { .. }), "{error}");
    }
    let error = ControlServer::bind(spec("worker", "control.sock")).await.unwrap_err();
    assert!(matches!(error, crate::control::ControlError::Listen { .. }), "{error}");
    // A socket that a killed worker left is taken over.
    let stale = channel.place.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    ControlServer::bind(spec("worker", "stale.sock")).await.unwrap();
    channel.stop().await;
}

/// Connects by openssl with the keys of this name.
async fn connect(channel: &Channel, name: &str) {
    let mut command = tokio::process::Command::new("openssl");
    command.arg("s_client").arg("-connect").arg(format!("127.0.0.1:{}", channel.port()));
    command.args(["-tls1_3", "-alpn", "h2"]);
    command.arg("-cert").arg(channel.keys(name).join(CERTIFICATE_FILE));
    command.arg("-key").arg(channel.keys(name).join(KEY_FILE));
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
}

/// A certificate of the right authority with whatever in it.
fn forge(channel: &Channel, name: &str, uris: &[&str], purpose: ExtendedKeyUsagePurpose) {
    let read = |file: &str| std::fs::read_to_string(channel.keys(file)).unwrap();
    let authority = KeyPair::from_pem(&read(keys::AUTHORITY_KEY_FILE)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), authority).unwrap();
    let mut params = CertificateParams::new(vec![String::from("127.0.0.1")]).unwrap();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
    }
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let folder = channel.keys(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(CERTIFICATE_FILE), certificate.pem()).unwrap();
    std::fs::write(folder.join(KEY_FILE), key.serialize_pem()).unwrap();
}

fn replace_worker(channel: &Channel, by: &std::path::Path) {
    for file in std::fs::read_dir(by).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), channel.keys("worker").join(file.file_name())).unwrap();
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
