//! What names a key service, and what names none.

use super::{KeysSpec, OpenKeysError, open};

#[test]
fn a_folder_is_the_embedded_service() {
    for (spec, folder) in
        [("keys", "keys"), ("/srv/keys", "/srv/keys"), ("file:keys", "keys"), ("file:///k", "/k")]
    {
        assert_eq!(KeysSpec::parse(spec).unwrap(), KeysSpec::Folder(folder.into()), "{spec}");
    }
    for spec in ["", "file:", "file://", "https://kms", "gcpkms://key", "awskms:"] {
        let error = KeysSpec::parse(spec).unwrap_err();
        assert!(matches!(error, OpenKeysError::Spec { .. }), "{spec}: {error}");
    }
}

#[test]
fn a_folder_without_a_service_is_told_of_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("keys");
    let error = open(&inside.to_string_lossy()).unwrap_err();
    assert!(matches!(&error, OpenKeysError::NoService { folder } if *folder == inside), "{error}");
    assert!(!inside.exists());
    crate::keys::Embedded::create(&inside).unwrap();
    assert_eq!(open(&inside.to_string_lossy()).unwrap().default_key(), "votive");
}
