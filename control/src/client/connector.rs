//! How a connection is made: a TCP or Unix socket, then TLS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;

use crate::address::Address;
use crate::client::{ClientError, ClientSpec};
use crate::cork::Cork;
use crate::tls::{ALPN, Identity};

/// Either kind of socket.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection whose both sides have proved who they are.
pub(crate) type Connection = TokioIo<Cork<TlsStream<Box<dyn Socket>>>>;

/// Makes connections to one worker.
#[derive(Clone)]
pub(crate) struct Connector {
    address: Address,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub(crate) fn new(spec: &ClientSpec, identity: &Identity) -> Result<Self, ClientError> {
        let name = spec.server_name.as_deref().unwrap_or_else(|| spec.address.server_name());
        Ok(Self {
            address: spec.address.clone(),
            name: ServerName::try_from(name.to_owned()).map_err(|_| ClientError::ServerName)?,
            config: identity.client_config()?,
        })
    }

    async fn connect(self) -> io::Result<Connection> {
        let socket: Box<dyn Socket> = match &self.address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // A request is one small packet that must not wait for another.
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix { path } => Box::new(UnixStream::connect(path).await?),
        };
        let stream = TlsConnector::from(self.config).connect(self.name, socket).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(io::Error::other("the server does not speak HTTP/2"));
        }
        Ok(TokioIo::new(Cork::new(stream)))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Connection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
