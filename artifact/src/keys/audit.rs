//! The audit record of each use of a key: one line of JSON, on disk before the key is used.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::keys::Context;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The key was used.
    Granted,
    /// It is disabled.
    Disabled,
    /// There is no such key.
    NotFound,
    /// The data key was not wrapped with it for this context.
    InvalidCiphertext,
}

/// One use of a key, or an attempt at one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditRecord {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What was asked: `GenerateDataKey`, `Decrypt`, `CreateKey`, `RotateKey`, `DisableKey`, `EnableKey`.
    pub operation: String,
    /// The key.
    pub key: String,
    /// Which version of it, if one was used.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<u32>,
    /// What for.
    pub context: Context,
    /// What was decided.
    pub outcome: Outcome,
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Appends a record and waits until it is on disk.
///
/// One write of a whole line to a file that is only appended to: records of several processes do not mix. A line that was
/// torn by a crash is ended first, so that it spoils itself alone.
pub(super) fn append(path: &Path, record: &AuditRecord) -> io::Result<()> {
    let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
    line.push(b'\n');
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
    if !ends_whole(&file)? {
        line.insert(0, b'\n');
    }
    file.write_all(&line)?;
    file.sync_data()
}

fn ends_whole(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == [b'\n'])
}
