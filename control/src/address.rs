//! Where a worker listens: `https://HOST:PORT` or `unix:PATH`.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use crate::limits::UNIX_PATH_MAX;

#[cfg(test)]
mod tests;

/// What a Unix socket's worker is called in its certificate, as gRPC does in every language.
pub const UNIX_NAME: &str = "localhost";

/// The longest DNS name.
const HOST_MAX: usize = 253;

/// The address of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Over TCP.
    Tcp {
        /// A DNS name or an IP address, an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Over a Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

impl Address {
    /// The name that the worker's certificate must have, unless told otherwise.
    #[must_use]
    pub fn server_name(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix { .. } => UNIX_NAME,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is the same with an empty host, as URLs have it.
            let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
            if path.is_empty() || path.len() > UNIX_PATH_MAX || path.contains('\0') {
                return Err(AddressError::Path);
            }
            return Ok(Self::Unix { path: PathBuf::from(path) });
        }
        let rest = text.strip_prefix("https://").ok_or(AddressError::Scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or(AddressError::Port)?;
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::Port);
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(AddressError::Port)?;
        Ok(Self::Tcp { host: parse_host(host)?, port })
    }
}

fn parse_host(text: &str) -> Result<String, AddressError> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(AddressError::Host)?;
        let address: std::net::Ipv6Addr = inner.parse().map_err(|_| AddressError::Host)?;
        return Ok(address.to_string());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || text.len() > HOST_MAX || !text.chars().all(allowed) {
        return Err(AddressError::Host);
    }
    Ok(text.to_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "https://{host}:{port}"),
            // Two slashes at its beginning would be taken for the empty host of a URL.
            Self::Unix { path } if path.as_os_str().as_bytes().starts_with(b"//") => {
                write!(f, "unix://{}", path.display())
            }
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither of the two.
    #[error("an address is https://HOST:PORT or unix:PATH")]
    Scheme,
    /// The host.
    #[error("the host is not a DNS name or an IP address")]
    Host,
    /// The port.
    #[error("the port is missing or not 1 to 65535")]
    Port,
    /// The path of a Unix socket.
    #[error("the path of the socket is empty or longer than {UNIX_PATH_MAX} bytes")]
    Path,
}
