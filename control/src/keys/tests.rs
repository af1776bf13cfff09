//! Keys as they are on the disk.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::tls::Identity;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn no_names() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_set_of_keys_has_a_folder_a_role_and_private_keys_are_private() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("new/keys");
    let issued = init(&folder, &[String::from("w.example")], 30, now()).unwrap();
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join(AUTHORITY_KEY_FILE)), 0o600);
    assert_eq!(issued.len(), Holder::ALL.len());
    for (made, holder) in issued.iter().zip(Holder::ALL) {
        assert_eq!(made.folder, folder.join(holder.name()));
        assert_eq!(made.expires, 1_800_000_000 + 30 * 24 * 3600);
        assert_eq!(mode(&made.folder.join(KEY_FILE)), 0o600);
        let seen = inspect(&made.folder).unwrap();
        assert_eq!((seen.holder, seen.expires), (holder, made.expires));
        assert_eq!(seen.fingerprint, made.fingerprint);
    }
    assert_eq!(issued[0].names, ["localhost", "127.0.0.1", "::1", "w.example"]);
    assert!(issued[1].names.is_empty());
    // Nothing is left of how it was made.
    assert_eq!(fs::read_dir(place.path().join("new")).unwrap().count(), 1);
}

#[test]
fn each_side_takes_its_own_certificate_only() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    for made in init(&folder, &no_names(), 30, now()).unwrap() {
        let identity = Identity::read(&made.folder).unwrap();
        assert_eq!(identity.server_config().is_ok(), made.holder == Holder::Worker);
        assert_eq!(identity.client_config().is_ok(), made.holder != Holder::Worker);
    }
}

#[test]
fn nothing_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    init(&folder, &no_names(), 30, now()).unwrap();
    let before = fs::read(folder.join(AUTHORITY_KEY_FILE)).unwrap();
    let again = init(&folder, &no_names(), 30, now());
    assert!(matches!(again, Err(KeysError::Exists { path }) if path == folder));
    let worker = folder.join("worker");
    let again = issue(&folder, Holder::Worker, &no_names(), 30, &worker, now());
    assert!(matches!(again, Err(KeysError::Exists { path }) if path == worker));
    assert_eq!(fs::read(folder.join(AUTHORITY_KEY_FILE)).unwrap(), before);
    // An empty folder that was made for them is as good as none.
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    init(&empty, &no_names(), 30, now()).unwrap();
}

#[test]
fn an_authority_issues_further_certificates() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    init(&folder, &no_names(), 30, now()).unwrap();
    let into = place.path().join("second");
    let holder = Holder::Caller(Role::Observer);
    let made = issue(&folder, holder, &no_names(), 1, &into, now()).unwrap();
    assert_eq!(inspect(&into).unwrap().holder, holder);
    assert_eq!(made.expires, 1_800_000_000 + 24 * 3600);
    Identity::read(&into).unwrap().client_config().unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    for days in [0, CERTIFICATE_DAYS_MAX + 1] {
        assert!(matches!(init(&folder, &no_names(), days, now()), Err(KeysError::Days { .. })));
    }
    for name in ["", "a b", "-x.", "ü.example", "1.2.3.4.5/8"] {
        let made = init(&folder, &[name.to_owned()], 30, now());
        assert!(matches!(made, Err(KeysError::Name { .. })), "{name:?}");
    }
    let many = vec![String::from("a.example"); NAMES_MAX + 1];
    assert!(matches!(init(&folder, &many, 30, now()), Err(KeysError::Names { .. })));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}
