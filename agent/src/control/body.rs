//! Bodies with a watch on them: a request that does not come, an answer that nobody reads, and how a call ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::codegen::Bytes;

use crate::control::connection::{Activity, StreamState};
use crate::control::limits::ControlLimits;
use crate::control::refused;
use crate::control::tally::{Cut, Tally};

/// A request's body, whose sender may neither pause nor dawdle.
pub(crate) struct RequestBody {
    inner: Incoming,
    limits: ControlLimits,
    last: Instant,
    /// Made when there is something to wait for: most requests have come whole.
    timer: Option<Pin<Box<Sleep>>>,
    tally: Arc<Tally>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, limits: ControlLimits, tally: Arc<Tally>) -> Self {
        Self { inner, limits, last: Instant::now() + limits.request, timer: None, tally }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.timer = None;
            // A caller that resets its stream is no news.
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| refused::lost())));
        }
        let (pause, last) = (this.limits.pause, this.last);
        let timer = this.timer.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(last.min(Instant::now() + pause)))
        });
        ready!(timer.as_mut().poll(cx));
        this.tally.cut(Cut::SlowRequest, None, &"a request did not come in time");
        Poll::Ready(Some(Err(refused::slow_request())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body: it tells its connection whether it is read, and the tally how it ended.
pub(crate) struct ResponseBody {
    inner: tonic::body::Body,
    stream: StreamGuard,
}

/// A call under way. When it is dropped the call is over.
pub(crate) struct StreamGuard {
    pub(crate) state: Arc<StreamState>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) method: &'static str,
    pub(crate) code: Option<i32>,
}

impl StreamGuard {
    /// The call's status, known now.
    pub(crate) fn ended(&mut self, code: Option<i32>) {
        self.code = code;
        if code == Some(tonic::Code::OutOfRange as i32) {
            // tonic's own answer to a message over its limit; nothing of ours gives this code.
            self.tally.cut(Cut::MessageTooLarge, None, &self.method);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.tally.called(self.method, self.code);
        self.activity.end(&self.state);
    }
}

impl ResponseBody {
    pub(crate) fn new(inner: tonic::body::Body, stream: StreamGuard) -> Self {
        Self { inner, stream }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        this.stream.state.asked();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        this.stream.state.handed(&this.stream.activity);
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            this.stream.ended(status_code(trailers));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The code that headers or trailers tell.
pub(crate) fn status_code(headers: &tonic::codegen::http::HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
