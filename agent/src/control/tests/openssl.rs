//! `openssl` as the other side: every suite and version but one is refused, and nothing is resumed.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use super::harness::{Channel, PATIENCE, until};
use crate::control::ControlLimits;
use crate::control::tally::Cut;

/// Connects with the keys in `keys`, asks for HTTP/2 and hangs up at once.
async fn connect(channel: &Channel, keys: &Path, words: &[&str]) -> Output {
    let mut command = s_client(channel, words);
    command.args(["-alpn", "h2"]);
    command.arg("-cert").arg(keys.join("cert.pem")).arg("-key").arg(keys.join("key.pem"));
    output(command).await
}

fn s_client(channel: &Channel, words: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.arg("s_client").arg("-connect").arg(format!("127.0.0.1:{}", channel.port()));
    command.arg("-CAfile").arg(channel.keys("ca.pem")).args(words);
    command
}

async fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.unwrap().expect("openssl is installed")
}

/// The names of the suites that `openssl` knows, of one version, with the weakest.
async fn suites(version: &str) -> Vec<String> {
    let mut command = Command::new("openssl");
    command.args(["ciphers", "-s", version, "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]);
    let listed = String::from_utf8(output(command).await.stdout).unwrap();
    listed.trim().split(':').map(str::to_owned).collect()
}

#[tokio::test]
async fn the_one_suite_is_agreed_on_whatever_else_is_offered() {
    let channel = Channel::start(ControlLimits::default()).await;
    let keys = channel.keys("observer");
    let all = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
    for suites in ["TLS_AES_256_GCM_SHA384", all] {
        let done = connect(&channel, &keys, &["-ciphersuites", suites]).await;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(text.contains("New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384"), "{text}");
        assert!(text.contains("ALPN protocol: h2"), "{text}");
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(!text.contains("New Session Ticket"), "{text}");
    }
    assert_eq!(channel.asked(), 0);
    channel.stop().await;
}

#[tokio::test]
async fn every_other_suite_is_refused() {
    let channel = Channel::start(ControlLimits::default()).await;
    let keys = channel.keys("operator");
    let others = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_CCM_8_SHA256",
    ];
    for suite in others {
        let done = connect(&channel, &keys, &["-tls1_3", "-ciphersuites", suite]).await;
        assert!(!done.status.success(), "{suite}");
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(told.contains("handshake failure"), "{suite}: {told}");
    }
    channel.until_cut(Cut::CipherSuite, 4).await;
    assert_eq!((channel.asked(), channel.tally.accepted()), (0, 0));
    channel.stop().await;
}

#[tokio::test]
async fn every_earlier_version_is_refused_with_every_suite() {
    let channel = Channel::start(ControlLimits::default()).await;
    let keys = channel.keys("operator");
    let mut tried = 0;
    for version in ["-tls1", "-tls1_1", "-tls1_2"] {
        let before = channel.tally.count(Cut::TlsVersion);
        let suites = suites(version).await;
        assert!(suites.len() > 3, "{version}: {suites:?}");
        for suite in suites {
            let cipher = format!("{suite}:@SECLEVEL=0");
            let done = connect(&channel, &keys, &[version, "-cipher", &cipher]).await;
            assert!(!done.status.success(), "{version} {suite}");
            tried += 1;
        }
        until(version, || channel.tally.count(Cut::TlsVersion) > before).await;
    }
    // openssl hangs up before it has offered suites that it has no secret for (PSK, SRP).
    let refused = || channel.tally.count(Cut::TlsVersion) + channel.tally.count(Cut::HandshakeCut);
    until("all are refused", || refused() >= tried).await;
    assert_eq!(refused(), tried);
    assert!(channel.tally.count(Cut::TlsVersion) > tried / 2, "{:?}", channel.cuts());
    assert_eq!((channel.asked(), channel.tally.accepted()), (0, 0));
    channel.stop().await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_or_http2_is_refused() {
    let channel = Channel::start(ControlLimits::default()).await;
    output(s_client(&channel, &["-tls1_3", "-alpn", "h2"])).await;
    channel.until_cut(Cut::NoCertificate, 1).await;

    let keys = channel.keys("operator");
    let with_keys = |words: &[&str]| {
        let mut command = s_client(&channel, words);
        command.arg("-cert").arg(keys.join("cert.pem")).arg("-key").arg(keys.join("key.pem"));
        command
    };
    output(with_keys(&["-tls1_3"])).await;
    output(with_keys(&["-tls1_3", "-alpn", "http/1.1"])).await;
    channel.until_cut(Cut::Alpn, 2).await;
    assert_eq!((channel.asked(), channel.tally.accepted()), (0, 0));
    channel.stop().await;
}
