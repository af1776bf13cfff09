//! Ids stand for all that a version is, and names keep their meaning.

use super::*;
use crate::function::FunctionSpec;

fn version(change: impl FnOnce(&mut FunctionSpec), code: u8) -> Version {
    let mut spec = FunctionSpec::new("provided", "h");
    spec.version = String::from("1");
    change(&mut spec);
    Version {
        function: Arc::new(spec.validate().unwrap()),
        code_sha256: [code; 32],
        log_format: LogFormat::Text,
        concurrency_limit: 0,
        images: Arc::new(VersionImages::default()),
    }
}

#[test]
fn every_part_of_a_version_changes_its_id() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let all = [
        version(|_| {}, 1),
        version(|_| {}, 2),
        version(|spec| spec.account = String::from("210987654321"), 1),
        version(|spec| spec.name = String::from("other"), 1),
        version(|spec| spec.version = String::from("2"), 1),
        version(|spec| spec.memory_mb = 129, 1),
        version(|spec| spec.timeout_s = 4, 1),
        version(|spec| spec.environment = vec![pair("AB", "C")], 1),
        version(|spec| spec.environment = vec![pair("ABC", "")], 1),
        Version { log_format: LogFormat::Json, ..version(|_| {}, 1) },
    ];
    let ids: std::collections::BTreeSet<_> = all.iter().map(Version::id).collect();
    assert_eq!(ids.len(), all.len());
    // How many there may be is no part of what it is.
    assert_eq!(Version { concurrency_limit: 9, ..version(|_| {}, 1) }.id(), all[0].id());
}

#[test]
fn a_number_keeps_its_meaning_and_latest_does_not() {
    let mut registry = Registry::default();
    let first = registry.register(version(|_| {}, 1)).unwrap();
    assert_eq!(registry.register(version(|_| {}, 1)).unwrap(), first);
    let conflict = registry.register(version(|_| {}, 2));
    assert!(matches!(conflict, Err(RegisterError::Conflict { .. })));
    assert!(registry.remove(first.id).is_some());
    let conflict = registry.register(version(|_| {}, 2));
    assert!(matches!(conflict, Err(RegisterError::Conflict { .. })));
    assert_eq!(registry.register(version(|_| {}, 1)).unwrap(), first);

    let latest = |code| version(|spec| spec.version = String::from(LATEST), code);
    let before = registry.register(latest(1)).unwrap();
    let after = registry.register(latest(2)).unwrap();
    assert_eq!(after.retired, Some(before.id));
    assert!(registry.get(before.id).is_none());
    assert_eq!(registry.len(), 2);
}
