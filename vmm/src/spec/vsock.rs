//! `--vsock`: the guest's address, and what answers on the host.

use std::os::fd::RawFd;
use std::path::PathBuf;

use super::{SpecError, decimal, descriptor, number, wrong};
use crate::limits::{MAX_SOCKET_PATH_BYTES, MAX_VSOCK_PORTS};

const VSOCK_ALLOWED: &str = "cid=N[,path=SOCKET][,port=P:fd:M]...";
const CID_ALLOWED: &str = "3 to 4294967294";
const SOCKET_ALLOWED: &str = "a path of 1 to 96 bytes";
const PORT_ALLOWED: &str = "P:fd:M with P from 0 to 4294967294, M from 3 to 1048575, each P once";
const PORTS_ALLOWED: &str = "at most 16 ports";

// The texts above and in `--help` name these numbers.
const _: () = assert!(MAX_VSOCK_PORTS == 16 && MAX_SOCKET_PATH_BYTES == 96);

/// The vsock device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockSpec {
    /// The guest's address, 3 to 2^32 - 2.
    pub cid: u32,
    /// The Unix socket that host clients connect to.
    pub path: Option<PathBuf>,
    /// Host ports that connected stream sockets answer: (port, descriptor).
    pub ports: Vec<(u32, RawFd)>,
}

/// Reads the device.
pub(super) fn read(text: &str) -> Result<VsockSpec, SpecError> {
    let mut cid = None;
    let mut path = None;
    let mut ports: Vec<(u32, RawFd)> = Vec::new();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("cid", value)) if cid.is_none() => {
                cid = Some(number("vsock cid", value, 3, u32::MAX - 1, CID_ALLOWED)?);
            }
            Some(("path", value)) if path.is_none() => {
                if value.is_empty() || value.len() > MAX_SOCKET_PATH_BYTES || value.contains('\0') {
                    return Err(wrong("vsock path", value, SOCKET_ALLOWED));
                }
                path = Some(PathBuf::from(value));
            }
            Some(("port", value)) => {
                if ports.len() == MAX_VSOCK_PORTS {
                    return Err(wrong("vsock port", value, PORTS_ALLOWED));
                }
                let port = port(value)
                    .filter(|(port, _)| ports.iter().all(|(other, _)| other != port))
                    .ok_or_else(|| wrong("vsock port", value, PORT_ALLOWED))?;
                ports.push(port);
            }
            _ => return Err(wrong("vsock", text, VSOCK_ALLOWED)),
        }
    }
    let cid = cid.ok_or_else(|| wrong("vsock", text, VSOCK_ALLOWED))?;
    Ok(VsockSpec { cid, path, ports })
}

fn port(text: &str) -> Option<(u32, RawFd)> {
    let (port, fd) = text.split_once(":fd:")?;
    let port = decimal::<u32>(port).filter(|port| *port != u32::MAX)?;
    Some((port, descriptor(fd)?))
}
