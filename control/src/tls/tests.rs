//! The provider, and identities from folders.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use super::*;
use crate::keys;

#[test]
fn there_is_one_suite() {
    let suites: Vec<_> = provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
    assert_eq!(suites, [CipherSuite::TLS13_AES_256_GCM_SHA384]);
}

#[test]
fn a_server_resumes_nothing_and_takes_no_early_data() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    keys::init(&folder, &[], 30, SystemTime::now()).unwrap();
    let config = Identity::read(&folder.join("worker")).unwrap().server_config().unwrap();
    assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
    assert!(!config.ticketer.enabled());
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.alpn_protocols, [ALPN.to_vec()]);
}

#[test]
fn a_private_key_that_others_may_read_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    keys::init(&folder, &[], 30, SystemTime::now()).unwrap();
    let key = folder.join("worker").join(KEY_FILE);
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let read = Identity::read(&folder.join("worker"));
        assert!(matches!(read, Err(TlsError::NotPrivate { mode: found, .. }) if found == mode));
    }
}

#[test]
fn files_that_hold_something_else_are_named() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    keys::init(&folder, &[], 30, SystemTime::now()).unwrap();
    let worker = folder.join("worker");
    for file in [AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE] {
        let path = worker.join(file);
        let before = fs::read(&path).unwrap();
        for content in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            fs::write(&path, content).unwrap();
            let Err(TlsError::NoPem { path: named, .. }) = Identity::read(&worker) else {
                panic!("{file} with {content:?} was taken");
            };
            assert_eq!(named, path);
        }
        fs::write(&path, before).unwrap();
    }
    fs::remove_file(worker.join(KEY_FILE)).unwrap();
    assert!(matches!(Identity::read(&worker), Err(TlsError::Unreadable { .. })));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    keys::init(&folder, &[], 30, SystemTime::now()).unwrap();
    fs::copy(folder.join("observer").join(KEY_FILE), folder.join("worker").join(KEY_FILE)).unwrap();
    let identity = Identity::read(&folder.join("worker")).unwrap();
    assert!(matches!(identity.server_config(), Err(TlsError::Rustls(_))));
}
