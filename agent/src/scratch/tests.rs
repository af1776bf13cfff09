//! The scratch disk against e2fsprogs, and what it costs.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_scratch_disk_is_sparse_and_has_no_name() {
    let file = create().unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), SCRATCH_BYTES);
    assert_eq!(metadata.nlink(), 0);
    assert!(metadata.blocks() * 512 < 1024 * 1024, "{} KiB", metadata.blocks() / 2);
}
