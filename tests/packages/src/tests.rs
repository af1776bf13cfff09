//! What is pinned is installed, and what is not is refused.

use super::{cache, python};

#[test]
fn what_has_no_hash_is_not_installed() {
    let error = python("refused", "six==1.16.0\n").unwrap_err();
    assert!(error.to_string().contains("Hashes are required"), "{error}");
    let left = std::fs::read_dir(cache().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let named = left.filter(|path| path.to_string_lossy().contains("refused-"));
    // The lock alone is left.
    for path in named {
        assert_eq!(path.extension().unwrap(), "lock", "{}", path.display());
    }
}
