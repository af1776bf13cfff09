//! The way from the host into a peer's guest: a stream to its port.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::{GUEST_CID, GUEST_PORT};

/// Either kind of stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the guest is.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// A hybrid vsock's Unix socket: the port is asked for in a line of text.
    Hybrid(PathBuf),
    /// The host's own vsock.
    Vhost,
}

impl FromStr for Upstream {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once(':') {
            Some(("hybrid", path)) => Ok(Self::Hybrid(path.into())),
            None if text == "vhost" => Ok(Self::Vhost),
            _ => bail!("expected hybrid:PATH or vhost"),
        }
    }
}

impl Upstream {
    /// As [`Self::from_str`] reads it.
    #[must_use]
    pub fn to_argument(&self) -> String {
        match self {
            Self::Hybrid(path) => format!("hybrid:{}", path.display()),
            Self::Vhost => String::from("vhost"),
        }
    }

    /// Connects to the guest's port.
    ///
    /// # Errors
    /// Nobody listens there, or not yet.
    pub async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        match self {
            Self::Hybrid(path) => {
                let mut stream = UnixStream::connect(path).await?;
                stream.write_all(format!("CONNECT {GUEST_PORT}\n").as_bytes()).await?;
                let mut answer = Vec::new();
                while answer.last() != Some(&b'\n') {
                    answer.push(stream.read_u8().await.context("the guest does not listen")?);
                    ensure!(answer.len() < 64, "the VMM does not answer with a line");
                }
                ensure!(answer.starts_with(b"OK "), "the VMM refused the port");
                Ok(Box::new(stream))
            }
            Self::Vhost => {
                let stream = VsockStream::connect(VsockAddr::new(GUEST_CID, GUEST_PORT)).await?;
                Ok(Box::new(stream))
            }
        }
    }
}
