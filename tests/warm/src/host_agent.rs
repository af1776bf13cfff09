//! The peers' host agent: takes HTTP/1.1 over mutual TLS at a Unix socket and passes it on to the guest over one kept
//! connection, which it may have paused between requests. The least that can stand between a fleet and a guest: one thread,
//! no log, no limits, no reservations.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use votive_control::tls::Identity;

use crate::client::{ALPN, Client};
use crate::freezer::{Freezer, Handle};
use crate::upstream::Upstream;

/// Serves until it is killed.
///
/// # Errors
/// The socket, the keys, or the guest.
pub async fn serve(
    socket: &Path,
    keys: &Path,
    upstream: &Upstream,
    freezer: Option<&Freezer>,
) -> anyhow::Result<()> {
    let client = Client::connect_directly(upstream).await?;
    let mut handle = None;
    if let Some(freezer) = freezer {
        let mut connected = freezer.connect().await?;
        connected.set_running(false).await?;
        handle = Some(connected);
    }
    let guest = Arc::new(Mutex::new(Guest { client, freezer: handle }));
    let mut config = (*Identity::read(keys)?.server_config()?).clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = UnixListener::bind(socket).context("the agent's socket")?;
    loop {
        let (stream, _) = listener.accept().await?;
        let stream = acceptor.accept(stream).await?;
        let guest = Arc::clone(&guest);
        let service = service_fn(move |request| pass_on(Arc::clone(&guest), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The guest, and what pauses it.
struct Guest {
    client: Client,
    freezer: Option<Handle>,
}

async fn pass_on(
    guest: Arc<Mutex<Guest>>,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let id = request.headers().get("Request-Id").context("a request without an id")?;
    let id = id.to_str()?.to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let mut guest = guest.lock().await;
    let Guest { client, freezer } = &mut *guest;
    if let Some(freezer) = freezer {
        freezer.set_running(true).await?;
    }
    let answer = client.post(body, &id).await?;
    if let Some(freezer) = freezer {
        freezer.set_running(false).await?;
    }
    Ok(Response::builder().header("Content-Type", "application/json").body(Full::new(answer))?)
}
