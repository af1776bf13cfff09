//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, for whoever reaches the address.
//!
//! Nothing is read but heads, which are bounded in bytes, headers and time; connections are bounded in number and age; bodies
//! of requests are not read at all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::counter;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::pulse::Pulse;
use crate::artifacts::Artifacts;
use crate::clock::Moment;
use crate::metrics::exporter::Exporter;
use crate::metrics::{METRICS_CONNECTIONS_REFUSED, METRICS_REQUESTS};

/// Connections at once. A Prometheus or two and a load balancer need three.
pub const CONNECTIONS_MAX: usize = 32;
/// How long a head may take to arrive, and how long a connection may be idle.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last, so that one who does not read cannot keep its place.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest head in bytes; hyper takes no less.
pub const HEAD_MAX: usize = 8192;
/// The most headers of a request.
pub const HEADERS_MAX: usize = 32;
/// How long no connection is accepted after the kernel could give none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
/// What Prometheus calls its text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What answers.
#[derive(Clone, Debug)]
pub struct Endpoint {
    exporter: Exporter,
    pulse: Arc<Pulse>,
    artifacts: Option<Artifacts>,
}

impl Endpoint {
    /// An endpoint that serves nobody yet.
    #[must_use]
    pub fn new(exporter: Exporter, pulse: Arc<Pulse>, artifacts: Option<Artifacts>) -> Self {
        Self { exporter, pulse, artifacts }
    }

    /// Serves until `stop` is done.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(&places, stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint accepts no connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, places: &Arc<Semaphore>, stream: TcpStream, peer: SocketAddr) {
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            counter!(METRICS_CONNECTIONS_REFUSED).increment(1);
            return;
        };
        let endpoint = self.clone();
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, endpoint.converse(stream)).await {
                tracing::debug!(%peer, %error, "a connection to the metrics endpoint failed");
            }
            drop(place);
        });
    }

    async fn converse(self, stream: TcpStream) -> Result<(), hyper::Error> {
        let answer = service_fn(|request| {
            let response = self.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), answer)
            .await
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let now = Moment::now();
        let (path, (status, kind, body)) = match request.uri().path() {
            "/metrics" => ("/metrics", {
                self.pulse.refresh(now);
                if let Some(artifacts) = &self.artifacts {
                    crate::metrics::artifacts::show(&artifacts.stats());
                }
                (StatusCode::OK, EXPOSITION, self.exporter.render())
            }),
            "/healthz" => ("/healthz", healthy(self.pulse.is_alive(now), "alive", "no answer")),
            "/readyz" => {
                let state = self.pulse.state_name();
                ("/readyz", healthy(self.pulse.is_ready(now), state, state))
            }
            _ => ("other", (StatusCode::NOT_FOUND, TEXT, String::from("not found\n"))),
        };
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut response = if is_read {
            let mut response = Response::new(Full::from(body));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        } else {
            let mut response = Response::new(Full::from("only GET and HEAD\n"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        };
        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
        let status = response.status().as_u16().to_string();
        counter!(METRICS_REQUESTS, "path" => path, "status" => status).increment(1);
        response
    }
}

fn healthy(ok: bool, yes: &str, no: &str) -> (StatusCode, &'static str, String) {
    if ok {
        (StatusCode::OK, TEXT, format!("{yes}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{no}\n"))
    }
}
