//! How the peers' host agent has a guest paused between invocations: by the VMM's own interface, over a kept connection.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Which interface, and where it is.
#[derive(Clone, Debug)]
pub enum Freezer {
    /// Firecracker's API.
    Firecracker(PathBuf),
    /// QEMU's machine protocol.
    Qemu(PathBuf),
}

impl FromStr for Freezer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once(':') {
            Some(("firecracker", path)) => Ok(Self::Firecracker(path.into())),
            Some(("qemu", path)) => Ok(Self::Qemu(path.into())),
            _ => bail!("expected firecracker:PATH or qemu:PATH"),
        }
    }
}

/// An open connection to a VMM's interface.
#[derive(Debug)]
pub enum Handle {
    /// Firecracker's API.
    Firecracker(SendRequest<Full<Bytes>>),
    /// QEMU's machine protocol.
    Qemu(BufReader<UnixStream>),
}

impl Freezer {
    /// As [`Self::from_str`] reads it.
    #[must_use]
    pub fn to_argument(&self) -> String {
        match self {
            Self::Firecracker(path) => format!("firecracker:{}", path.display()),
            Self::Qemu(path) => format!("qemu:{}", path.display()),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(&self) -> anyhow::Result<Handle> {
        match self {
            Self::Firecracker(path) => {
                let stream = UnixStream::connect(path).await?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(Handle::Firecracker(sender))
            }
            Self::Qemu(path) => {
                let mut stream = BufReader::new(UnixStream::connect(path).await?);
                let mut greeting = String::new();
                stream.read_line(&mut greeting).await?;
                let mut handle = Handle::Qemu(stream);
                handle.execute("qmp_capabilities").await?;
                Ok(handle)
            }
        }
    }
}

impl Handle {
    /// Has the guest run, or not, from the answer on.
    ///
    /// # Errors
    /// The VMM refuses, or is gone.
    pub async fn set_running(&mut self, running: bool) -> anyhow::Result<()> {
        match self {
            Self::Firecracker(sender) => {
                let state = if running { "Resumed" } else { "Paused" };
                let body = format!("{{\"state\":\"{state}\"}}");
                sender.ready().await?;
                let request = Request::patch("/vm")
                    .header("Host", "localhost")
                    .header("Content-Type", "application/json")
                    .body(Full::new(Bytes::from(body)))?;
                let response = sender.send_request(request).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                ensure!(status.is_success(), "PATCH /vm: {status}: {body:?}");
                Ok(())
            }
            Self::Qemu(_) => self.execute(if running { "cont" } else { "stop" }).await,
        }
    }

    async fn execute(&mut self, command: &str) -> anyhow::Result<()> {
        let Self::Qemu(stream) = self else { bail!("no machine protocol") };
        stream.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes()).await?;
        // Events come between.
        let mut line = String::new();
        while !line.starts_with("{\"return\"") {
            ensure!(!line.starts_with("{\"error\""), "{command}: {line}");
            line.clear();
            let len = stream.read_line(&mut line).await.context("QEMU's answer")?;
            ensure!(len > 0, "QEMU is gone");
        }
        Ok(())
    }
}
