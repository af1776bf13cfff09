//! One connection: its handshake, then HTTP/2 until it is idle, too old, unread or over.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use votive_control::cork::Cork;
use votive_control::limits::{
    CONNECTION_WINDOW, HEADERS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW,
};
use votive_control::tls::{ALPN, Caller};

use crate::clock::wall_clock;
use crate::control::Shared;
use crate::control::admission::{ConnectionId, Full, Peer};
use crate::control::gate::Gate;
use crate::control::limits::{ControlLimits, FRAME_MAX, OWN_RESETS, PENDING_RESETS, SEND_BUFFER};
use crate::control::listener::Socket;
use crate::control::tally::{Cut, cut_of_handshake};

/// A connection that was accepted.
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: ConnectionId,
    pub(crate) peer: Peer,
    /// Told when the handshake has to make room for another one.
    pub(crate) evicted: oneshot::Receiver<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.admission(|admission| admission.leave(self.id));
    }
}

/// An open connection in the tally.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tally.closed();
    }
}

impl Connection {
    pub(crate) async fn run(mut self, socket: Socket) {
        // Both the handshake and the connection are large; neither is there while the other is.
        let Some((stream, caller)) = Box::pin(self.handshake(socket)).await else { return };
        let admitted = self.shared.admission(|admission| admission.establish(self.id, self.peer));
        match admitted {
            Ok(()) => {}
            Err(Full::All) => return self.cut(Cut::TooManyConnections, &caller.fingerprint),
            Err(Full::Peer) => return self.cut(Cut::TooManyOfPeer, &caller.fingerprint),
        }
        self.shared.tally.opened();
        let shared = Arc::clone(&self.shared);
        let _open = Open(&shared);
        tracing::info!(peer = %self.peer, role = %caller.role, certificate = caller.fingerprint, "connected");
        Box::pin(self.serve(stream, caller)).await;
    }

    fn cut(&self, cut: Cut, why: &dyn std::fmt::Display) {
        self.shared.tally.cut(cut, Some(self.peer), why);
    }

    /// TLS, within its time and as long as there is room for it.
    async fn handshake(&mut self, socket: Socket) -> Option<(TlsStream<Socket>, Caller)> {
        let config = Arc::clone(&self.shared.tls.borrow());
        let limit = self.shared.limits.handshake;
        let accepting = TlsAcceptor::from(config).accept(socket);
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(limit, accepting) => accepted,
            Ok(()) = &mut self.evicted => {
                self.cut(Cut::TooManyHandshakes, &"it was the oldest");
                return None;
            }
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.cut(cut_of_handshake(&error), &error);
                return None;
            }
            Err(_) => {
                self.cut(Cut::HandshakeTimeout, &format_args!("after {} ms", limit.as_millis()));
                return None;
            }
        };
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN) {
            self.cut(Cut::Alpn, &"no protocol was agreed on");
            return None;
        }
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        // The verifier has let in nobody without; were it otherwise, nobody is let in here either.
        let Some(certificate) = certificate else {
            self.cut(Cut::NoCertificate, &"after the handshake");
            return None;
        };
        match Caller::from_certificate(certificate) {
            Ok(caller) => Some((stream, caller)),
            Err(error) => {
                self.cut(Cut::CertificateRole, &error);
                None
            }
        }
    }

    /// HTTP/2 until the connection ends or is ended.
    async fn serve(&self, stream: TlsStream<Socket>, caller: Caller) {
        let limits = self.shared.limits;
        let activity = Arc::new(Activity::new());
        let mut ends = Ends::new(limits, &caller);
        let gate = Gate {
            service: self.shared.service.clone(),
            caller: Arc::new(caller),
            peer: self.peer,
            activity: Arc::clone(&activity),
            tally: Arc::clone(&self.shared.tally),
            limits,
        };
        let fault = Arc::new(OnceLock::new());
        let stream = Cork::new(Records { stream, fault: Arc::clone(&fault) });
        let served = builder(&limits).serve_connection(TokioIo::new(stream), gate);
        tokio::pin!(served);
        let mut ending = self.shared.ending.clone();
        let mut watch = tokio::time::interval(watch_period(&limits));
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = served.as_mut() => {
                    match (fault.get(), ended) {
                        (Some(fault), _) => self.cut(Cut::Tampered, fault),
                        (None, Err(error)) => self.tell(&error),
                        (None, Ok(())) => {}
                    }
                    return;
                }
                () = tokio::time::sleep_until(ends.old), if !ends.is_finishing() => {
                    ends.finish(Instant::now());
                    served.as_mut().graceful_shutdown();
                }
                _ = watch.tick() => match ends.judge(&activity, Instant::now()) {
                    Verdict::Stay => {}
                    Verdict::Finish => served.as_mut().graceful_shutdown(),
                    Verdict::Cut(cut) => {
                        self.cut(cut, &"the connection was cut");
                        return;
                    }
                },
                () = crate::control::ended(&mut ending), if !ends.is_finishing() => {
                    ends.finish(Instant::now());
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    }

    fn tell(&self, error: &hyper::Error) {
        let source = std::error::Error::source(error);
        let is_io = source.is_some_and(|source| source.is::<std::io::Error>());
        let cut = if is_io || error.is_timeout() { Cut::Lost } else { Cut::Http2 };
        self.cut(cut, source.map_or(error as &dyn std::fmt::Display, |source| source));
    }
}

/// A TLS stream that remembers a record which was not the peer's: the layers above pass errors on as text only.
struct Records {
    stream: TlsStream<Socket>,
    fault: Arc<OnceLock<rustls::Error>>,
}

impl AsyncRead for Records {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        if let Err(error) = &read
            && let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref())
            && !matches!(error, rustls::Error::AlertReceived(_))
        {
            this.fault.get_or_init(|| rustls::Error::clone(error));
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Records {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// HTTP/2 with every limit said, whatever a library's defaults become.
fn builder(limits: &ControlLimits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEADERS_MAX)
        .max_frame_size(FRAME_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(OWN_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

/// How often a connection is looked at: a limit is late by no more than a tenth of the shortest.
fn watch_period(limits: &ControlLimits) -> Duration {
    (limits.idle.min(limits.unread) / 10).max(Duration::from_millis(10))
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    /// No new calls; it ends when those under way have.
    Finish,
    Cut(Cut),
}

/// When a connection ends if nothing else ends it.
struct Ends {
    limits: ControlLimits,
    old: Instant,
    /// When it is cut, once it was told to finish.
    cut: Option<(Instant, Cut)>,
}

impl Ends {
    fn new(limits: ControlLimits, caller: &Caller) -> Self {
        let now = i64::try_from(wall_clock().as_secs()).unwrap_or(i64::MAX);
        let left = u64::try_from(caller.expires.saturating_sub(now)).unwrap_or(0);
        // A certificate is good to the end of its last second.
        let age = limits.age.min(Duration::from_secs(left) + Duration::from_secs(1));
        Self { limits, old: Instant::now() + age, cut: None }
    }

    fn is_finishing(&self) -> bool {
        self.cut.is_some()
    }

    fn finish(&mut self, now: Instant) {
        self.cut = Some((now + self.limits.age_grace, Cut::Aged));
    }

    fn judge(&mut self, activity: &Activity, now: Instant) -> Verdict {
        if activity.unread_for(now).is_some_and(|unread| unread >= self.limits.unread) {
            return Verdict::Cut(Cut::Unread);
        }
        if let Some((at, cut)) = self.cut {
            return if now >= at { Verdict::Cut(cut) } else { Verdict::Stay };
        }
        if activity.idle_for(now).is_some_and(|idle| idle >= self.limits.idle) {
            // It has nothing to finish; a peer that does not hang up now is not waited for.
            self.cut = Some((now + self.limits.handshake, Cut::Idle));
            return Verdict::Finish;
        }
        Verdict::Stay
    }
}

/// What a connection's calls are doing.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    streams: Mutex<Streams>,
}

#[derive(Debug)]
struct Streams {
    open: Vec<Arc<StreamState>>,
    /// Since when there is none.
    idle: Instant,
}

/// Whether a call's answer is being read.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    /// Milliseconds since the connection began, plus one, at which a piece was handed over that nobody has taken yet; 0 while
    /// the connection asks for more.
    handed: AtomicU64,
}

impl StreamState {
    /// The connection has room for more of this answer.
    pub(crate) fn asked(&self) {
        self.handed.store(0, Ordering::Relaxed);
    }

    /// A piece was handed over.
    pub(crate) fn handed(&self, activity: &Activity) {
        self.handed.store(activity.milliseconds(Instant::now()) + 1, Ordering::Relaxed);
    }
}

impl Activity {
    fn new() -> Self {
        let began = Instant::now();
        Self { began, streams: Mutex::new(Streams { open: Vec::new(), idle: began }) }
    }

    /// A call begins.
    pub(crate) fn begin(&self) -> Arc<StreamState> {
        let state = Arc::new(StreamState::default());
        self.streams().open.push(Arc::clone(&state));
        state
    }

    /// A call is over.
    pub(crate) fn end(&self, state: &Arc<StreamState>) {
        let mut streams = self.streams();
        // At most as many as a connection may have streams.
        if let Some(index) = streams.open.iter().position(|other| Arc::ptr_eq(other, state)) {
            streams.open.swap_remove(index);
        }
        streams.idle = Instant::now();
    }

    /// How long there has been no call; `None` if there is one.
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        let streams = self.streams();
        streams.open.is_empty().then(|| now.saturating_duration_since(streams.idle))
    }

    /// How long the answer that has waited longest has not been read.
    fn unread_for(&self, now: Instant) -> Option<Duration> {
        let now = self.milliseconds(now) + 1;
        let streams = self.streams();
        let handed = streams.open.iter().map(|state| state.handed.load(Ordering::Relaxed));
        let oldest = handed.filter(|at| *at != 0).min()?;
        Some(Duration::from_millis(now.saturating_sub(oldest)))
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
