//! VM exits, as KVM counts them.

use std::fs;

use anyhow::Context as _;

/// The exits of all microVMs so far.
///
/// # Errors
/// debugfs is not mounted, or KVM is not loaded.
pub fn total() -> anyhow::Result<u64> {
    let path = "/sys/kernel/debug/kvm/exits";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(text.trim().parse()?)
}
