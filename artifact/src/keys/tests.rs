//! The embedded key service: what it keeps, what it refuses, what it records.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::{AuditRecord, Context, DataKey, Embedded, KeyError, KeyService, Outcome};
use crate::seal::Secret;

fn context(value: &str) -> Context {
    [("votive:artifact".to_owned(), value.to_owned())].into()
}

fn service() -> (tempfile::TempDir, Embedded) {
    let folder = tempfile::tempdir().unwrap();
    let service = Embedded::create(&folder.path().join("keys")).unwrap();
    service.create_key("customer").unwrap();
    (folder, service)
}

/// The embedded service never waits.
fn now<T>(answer: super::Answer<'_, T>) -> Result<T, KeyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(answer)
}

fn generate(service: &Embedded, key: &str, value: &str) -> Result<DataKey, KeyError> {
    now(service.generate(key, &context(value)))
}

fn unwrap(service: &Embedded, key: &str, wrapped: &[u8], value: &str) -> Result<Secret, KeyError> {
    now(service.unwrap(key, wrapped, &context(value)))
}

fn records(service: &Embedded) -> Vec<AuditRecord> {
    let text = fs::read_to_string(service.audit_path()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_data_key_is_unwrapped_for_its_key_and_context_only() {
    let (_folder, service) = service();
    service.create_key("other").unwrap();
    let data_key = generate(&service, "customer", "a").unwrap();
    let plain = unwrap(&service, "customer", &data_key.wrapped, "a").unwrap();
    assert_eq!(plain.expose(), data_key.plain.expose());
    for (key, value) in [("customer", "b"), ("other", "a"), ("customer", "")] {
        let refused = unwrap(&service, key, &data_key.wrapped, value).unwrap_err();
        assert!(matches!(refused, KeyError::InvalidCiphertext { .. }), "{refused}");
    }
    let moved = [("votive:artifacta".to_owned(), String::new())].into();
    now(service.unwrap("customer", &data_key.wrapped, &moved)).unwrap_err();
    let missing = unwrap(&service, "nobody", &data_key.wrapped, "a").unwrap_err();
    assert_eq!(missing.code(), "KMSNotFoundException");
}

#[test]
fn every_bit_of_a_wrapped_key_counts() {
    let (_folder, service) = service();
    let mut wrapped = generate(&service, "customer", "a").unwrap().wrapped;
    for bit in 0..wrapped.len() * 8 {
        wrapped[bit / 8] ^= 1 << (bit % 8);
        let refused = unwrap(&service, "customer", &wrapped, "a").unwrap_err();
        assert_eq!(refused.code(), "KMSInvalidStateException", "bit {bit}: {refused}");
        wrapped[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..wrapped.len() {
        assert!(unwrap(&service, "customer", &wrapped[..length], "a").is_err(), "{length} bytes");
    }
}

#[test]
fn old_versions_unwrap_and_the_last_one_wraps() {
    let (_folder, service) = service();
    let old = generate(&service, "customer", "a").unwrap();
    service.rotate_key("customer").unwrap();
    let new = generate(&service, "customer", "a").unwrap();
    assert_eq!((old.wrapped[1], new.wrapped[1]), (1, 2));
    for data_key in [&old, &new] {
        let plain = unwrap(&service, "customer", &data_key.wrapped, "a").unwrap();
        assert_eq!(plain.expose(), data_key.plain.expose());
    }
    assert_eq!(service.list().unwrap()[0].versions, 2);
    let missing = service.rotate_key("nobody").unwrap_err();
    assert!(matches!(missing, KeyError::NotFound { .. }), "{missing}");
}

#[test]
fn what_one_process_disables_no_other_uses() {
    let (folder, service) = service();
    let other = Embedded::open(&folder.path().join("keys")).unwrap();
    let data_key = generate(&service, "customer", "a").unwrap();
    other.set_enabled("customer", false).unwrap();
    let refused = unwrap(&service, "customer", &data_key.wrapped, "a").unwrap_err();
    assert_eq!(refused.code(), "KMSDisabledException");
    let refused = generate(&service, "customer", "a").unwrap_err();
    assert_eq!(refused.code(), "KMSDisabledException");
    other.set_enabled("customer", true).unwrap();
    assert!(unwrap(&service, "customer", &data_key.wrapped, "a").is_ok());
}

#[test]
fn each_use_is_recorded_and_none_happens_without_a_record() {
    let (_folder, service) = service();
    let data_key = generate(&service, "customer", "a").unwrap();
    unwrap(&service, "customer", &data_key.wrapped, "a").unwrap();
    unwrap(&service, "customer", &data_key.wrapped, "b").unwrap_err();
    service.set_enabled("customer", false).unwrap();
    unwrap(&service, "customer", &data_key.wrapped, "a").unwrap_err();
    unwrap(&service, "nobody", b"?", "a").unwrap_err();
    let found: Vec<_> = records(&service)
        .into_iter()
        .map(|record| (record.operation, record.version, record.context.len(), record.outcome))
        .collect();
    let decrypt = |version, outcome| ("Decrypt".to_owned(), version, 1, outcome);
    assert_eq!(
        found,
        [
            ("CreateKey".to_owned(), None, 0, Outcome::Granted),
            ("GenerateDataKey".to_owned(), Some(1), 1, Outcome::Granted),
            decrypt(Some(1), Outcome::Granted),
            decrypt(Some(1), Outcome::InvalidCiphertext),
            ("DisableKey".to_owned(), None, 0, Outcome::Granted),
            decrypt(None, Outcome::Disabled),
            decrypt(None, Outcome::NotFound),
        ]
    );
    // Where nothing can be recorded, nothing is given.
    service.set_enabled("customer", true).unwrap();
    fs::remove_file(service.audit_path()).unwrap();
    fs::create_dir(service.audit_path()).unwrap();
    let refused = unwrap(&service, "customer", &data_key.wrapped, "a").unwrap_err();
    assert!(matches!(refused, KeyError::File { .. }), "{refused}");
}

#[test]
fn a_record_that_a_crash_tore_spoils_itself_alone() {
    let (_folder, service) = service();
    let path = service.audit_path();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    generate(&service, "customer", "a").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(serde_json::from_str::<AuditRecord>(lines[0]).is_err());
    let record: AuditRecord = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(record.operation, "GenerateDataKey");
}

#[test]
fn a_file_that_was_altered_is_not_used() {
    let (folder, service) = service();
    let data_key = generate(&service, "customer", "a").unwrap();
    let path = folder.path().join("keys/keys.json");
    let good = fs::read_to_string(&path).unwrap();
    service.set_enabled("customer", false).unwrap();
    let disabled = fs::read_to_string(&path).unwrap();
    // Somebody enables it by hand.
    fs::write(&path, disabled.replace("false", "true")).unwrap();
    let refused = unwrap(&service, "customer", &data_key.wrapped, "a").unwrap_err();
    assert!(matches!(refused, KeyError::Altered { .. }), "{refused}");
    for (at, _) in good.char_indices().filter(|(at, _)| at % 7 == 0) {
        let mut bad = good.clone().into_bytes();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(Embedded::open(&folder.path().join("keys")).is_err(), "byte {at}");
    }
    fs::write(&path, &good).unwrap();
    assert!(unwrap(&service, "customer", &data_key.wrapped, "a").is_ok());
}

#[test]
fn a_master_key_that_others_can_read_is_not_used() {
    let (folder, _service) = service();
    let keys = folder.path().join("keys");
    let mode = |file: &str| fs::metadata(keys.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("master.key"), mode("keys.json"), mode("audit.jsonl")), (0o600, 0o600, 0o600));
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(keys.join("master.key"), Permissions::from_mode(0o640)).unwrap();
    let refused = Embedded::open(&keys).unwrap_err();
    assert!(matches!(refused, KeyError::Exposed { mode: 0o640, .. }), "{refused}");
}

#[test]
fn nothing_is_made_over_what_is_there() {
    let (folder, service) = service();
    assert!(Embedded::create(&folder.path().join("keys")).is_err());
    let exists = service.create_key("customer").unwrap_err();
    assert!(matches!(exists, KeyError::Exists { .. }), "{exists}");
    for name in ["", "a b", "a\n"] {
        assert!(matches!(service.create_key(name).unwrap_err(), KeyError::Name), "{name:?}");
    }
    assert!(Embedded::open(folder.path()).is_err());
}

#[test]
fn no_key_is_in_any_file_but_the_master_key() {
    let (folder, service) = service();
    let data_key = generate(&service, "customer", "a").unwrap();
    let hex: String = data_key.plain.expose().iter().map(|byte| format!("{byte:02x}")).collect();
    for entry in fs::read_dir(folder.path().join("keys")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(32).any(|window| window == data_key.plain.expose()), "{path:?}");
        assert!(!String::from_utf8_lossy(&bytes).contains(&hex), "{path:?}");
    }
}
