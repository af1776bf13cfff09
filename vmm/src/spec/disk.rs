//! `--disk`: a file, and where its chunks come from if they come on demand.

use std::os::fd::RawFd;

use super::{FILE_ALLOWED, SpecError, descriptor, file, limit, number, wrong};
use crate::descriptor::FileRef;
use crate::limiter::Limits;
use crate::limits::{DEFAULT_DISK_TIMEOUT_MS, MAX_DISK_TIMEOUT_MS};

const DISK_ALLOWED: &str = "path=FILE[,readonly][,presence=fd:N,requests=fd:M[,reads=fd:K][,timeout-ms=T]]\
                            [,encrypted[,template=FILE]][,bandwidth=L][,operations=L], presence only with readonly \
                            and requests, encrypted without either";
const DISK_FD_ALLOWED: &str = "fd:N with N from 3 to 1048575";
const DISK_TIMEOUT_ALLOWED: &str = "1 to 600000";

// The texts here and in `--help` name these numbers.
const _: () = assert!(MAX_DISK_TIMEOUT_MS == 600_000 && DEFAULT_DISK_TIMEOUT_MS == 30_000);

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Its backing file.
    pub file: FileRef,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Where its chunks come from, if they come on demand; only if it is `read_only`.
    pub lazy: Option<LazyDiskSpec>,
    /// How what is written is kept from everybody else, if it is; only if it is neither lazy nor `read_only`.
    pub encrypted: Option<EncryptedDiskSpec>,
    /// How much it may move.
    pub limits: Limits,
}

/// An encrypted disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedDiskSpec {
    /// What its blocks read as that were never written; zeros without it.
    pub template: Option<FileRef>,
}

/// Where the chunks of a disk come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LazyDiskSpec {
    /// The descriptor of the table of chunks.
    pub presence: RawFd,
    /// The descriptor of the connected socket on which chunks are asked for.
    pub requests: RawFd,
    /// The descriptor of the table of pages that were read.
    pub reads: Option<RawFd>,
    /// How long a read may wait, 1 to [`MAX_DISK_TIMEOUT_MS`].
    pub timeout_ms: u32,
}

/// Reads one disk.
pub(super) fn read(text: &str) -> Result<DiskSpec, SpecError> {
    let [mut read_only, mut encrypted] = [false; 2];
    let mut limits = Limits::default();
    let [mut path, mut presence, mut requests, mut reads, mut timeout, mut template] = [None; 6];
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let place = match name {
            "path" => &mut path,
            "presence" => &mut presence,
            "requests" => &mut requests,
            "reads" => &mut reads,
            "timeout-ms" => &mut timeout,
            "template" => &mut template,
            "bandwidth" if limits.bandwidth.is_none() => {
                limits.bandwidth = Some(limit::read("disk bandwidth", value)?);
                continue;
            }
            "operations" if limits.operations.is_none() => {
                limits.operations = Some(limit::read("disk operations", value)?);
                continue;
            }
            _ if part == "readonly" && !read_only => {
                read_only = true;
                continue;
            }
            _ if part == "encrypted" && !encrypted => {
                encrypted = true;
                continue;
            }
            _ => return Err(wrong("disk", text, DISK_ALLOWED)),
        };
        if place.replace(value).is_some() || !part.contains('=') {
            return Err(wrong("disk", text, DISK_ALLOWED));
        }
    }
    let fd = |field, text: &str| {
        let fd = text.strip_prefix("fd:").and_then(descriptor);
        fd.ok_or_else(|| wrong(field, text, DISK_FD_ALLOWED))
    };
    let milliseconds =
        |text: &str| number("disk timeout-ms", text, 1, MAX_DISK_TIMEOUT_MS, DISK_TIMEOUT_ALLOWED);
    let lazy = match (presence, requests) {
        (Some(presence), Some(requests)) if read_only => Some(LazyDiskSpec {
            presence: fd("disk presence", presence)?,
            requests: fd("disk requests", requests)?,
            reads: reads.map(|reads| fd("disk reads", reads)).transpose()?,
            timeout_ms: timeout.map_or(Ok(DEFAULT_DISK_TIMEOUT_MS), milliseconds)?,
        }),
        (None, None) if timeout.is_none() && reads.is_none() => None,
        _ => return Err(wrong("disk", text, DISK_ALLOWED)),
    };
    if (encrypted && read_only) || (template.is_some() && !encrypted) {
        return Err(wrong("disk", text, DISK_ALLOWED));
    }
    let template = template.map(|text| file("disk template", text, FILE_ALLOWED)).transpose()?;
    let encrypted = encrypted.then_some(EncryptedDiskSpec { template });
    let path = path.ok_or_else(|| wrong("disk", text, DISK_ALLOWED))?;
    Ok(DiskSpec {
        file: file("disk path", path, FILE_ALLOWED)?,
        read_only,
        lazy,
        encrypted,
        limits,
    })
}
