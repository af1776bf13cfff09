//! What every request passes before anything of it is decoded: there is such a call, its caller may make it, and it has a
//! deadline.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use tonic::Status;
use tonic::codegen::http::{Request, Response};
use votive_control::tls::Caller;

use crate::control::admission::Peer;
use crate::control::body::{RequestBody, ResponseBody, StreamGuard, status_code};
use crate::control::calls::{self, Call};
use crate::control::connection::Activity;
use crate::control::limits::ControlLimits;
use crate::control::service::Service;
use crate::control::tally::{Cut, Tally};
use crate::control::{deadline, refused};

/// The gate of one connection.
pub(crate) struct Gate {
    pub(crate) service: Service,
    pub(crate) caller: Arc<Caller>,
    pub(crate) peer: Peer,
    pub(crate) activity: Arc<Activity>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) limits: ControlLimits,
}

type Answered = Result<Response<ResponseBody>, Infallible>;

impl hyper::service::Service<Request<Incoming>> for Gate {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let call = self.admit(&request);
        let mut stream = StreamGuard {
            state: self.activity.begin(),
            activity: Arc::clone(&self.activity),
            tally: Arc::clone(&self.tally),
            method: call.as_ref().map_or("(refused)", |(call, _)| call.name),
            code: None,
        };
        let (call, limit) = match call {
            Ok(admitted) => admitted,
            Err(status) => {
                let response = status.into_http();
                stream.ended(status_code(response.headers()));
                return Box::pin(async {
                    Ok(response.map(|body| ResponseBody::new(body, stream)))
                });
            }
        };
        tracing::debug!(peer = %self.peer, certificate = self.caller.fingerprint, call = call.name, "called");
        let body = |body| RequestBody::new(body, self.limits, Arc::clone(&self.tally));
        let answering = self.service.clone().answer(request.map(body));
        Box::pin(async move {
            let answered = tokio::time::timeout(limit, answering).await;
            let response = answered.unwrap_or_else(|_| refused::deadline().into_http());
            // An answer that is nothing but a refusal has its code in its headers.
            if let Some(code) = status_code(response.headers()) {
                stream.ended(Some(code));
            }
            Ok(response.map(|body| ResponseBody::new(body, stream)))
        })
    }
}

impl Gate {
    /// The call that a request is, and how long it may take.
    fn admit<T>(
        &self,
        request: &Request<T>,
    ) -> Result<(&'static Call, std::time::Duration), Status> {
        let certificate = &self.caller.fingerprint;
        let refuse = |cut, status| {
            self.tally.cut(cut, Some(self.peer), &format_args!("certificate {certificate}"));
            status
        };
        let call = calls::find(request.uri().path())
            .ok_or_else(|| refuse(Cut::UnknownCall, refused::unknown_call()))?;
        if !self.caller.role.includes(call.role) {
            return Err(refuse(Cut::Role, refused::role(call.role, self.caller.role)));
        }
        let told = match request.headers().get(deadline::HEADER) {
            None => call.limit,
            Some(value) => deadline::parse(value.as_bytes())
                .ok_or_else(|| refuse(Cut::BadDeadline, refused::bad_deadline()))?,
        };
        Ok((call, told.min(call.limit)))
    }
}
