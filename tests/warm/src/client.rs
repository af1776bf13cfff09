//! The peers' client: HTTP/1.1 over one kept connection, with or without mutual TLS.

use std::path::Path as FilePath;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use votive_control::tls::Identity;

use crate::measure::Path;
use crate::upstream::{Stream, Upstream};

/// What HTTP/1.1 is called in TLS handshakes.
pub(crate) const ALPN: &[u8] = b"http/1.1";

/// A connection to a server of HTTP/1.1.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to the host agent at a Unix socket with mutual TLS; `keys` holds the caller's certificate.
    ///
    /// # Errors
    /// Nobody listens, or one side refuses the other.
    pub async fn connect_tls(socket: &FilePath, keys: &FilePath) -> anyhow::Result<Self> {
        let mut config = (*Identity::read(keys)?.client_config()?).clone();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let stream = UnixStream::connect(socket).await?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Self::over(Box::new(stream)).await
    }

    /// Connects to the guest without anything between.
    ///
    /// # Errors
    /// Nobody listens there, or not yet.
    pub async fn connect_directly(upstream: &Upstream) -> anyhow::Result<Self> {
        Self::over(upstream.connect().await?).await
    }

    pub(crate) async fn over(stream: Box<dyn Stream>) -> anyhow::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends one request and gives its answer's body.
    ///
    /// # Errors
    /// The connection is lost, or the answer is not 200.
    pub async fn post(&mut self, body: Bytes, request_id: &str) -> anyhow::Result<Bytes> {
        self.sender.ready().await?;
        let request = Request::post("/invoke")
            .header("Host", "localhost")
            .header("Content-Type", "application/json")
            .header("Request-Id", request_id)
            .body(Full::new(body))?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status() == StatusCode::OK, "HTTP status {}", response.status());
        let body = response.into_body().collect().await.context("the answer's body")?;
        Ok(body.to_bytes())
    }
}

impl Path for Client {
    async fn invoke(&mut self, event: &[u8]) -> anyhow::Result<Vec<u8>> {
        let id = uuid::Uuid::new_v4().to_string();
        Ok(self.post(Bytes::copy_from_slice(event), &id).await?.to_vec())
    }
}
