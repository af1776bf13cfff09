//! Reservations, invocations and their releases, between callers and environments.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use votive_protocol::InvocationId;
use votive_protocol::limits::{CONTEXT_MAX, REQUEST_PAYLOAD_MAX};

use super::{Releases, Service};
use crate::clock::{BootTime, wall_clock};
use crate::event::GoneReason;
use crate::invocation::{Answered, InvocationSpec, Outcome, never_begun};
use crate::limits::{INVOKE_FIELD_MAX, PARTS_WAITING_MAX, RELEASE_WAITERS_MAX, RELEASES_KEPT_MAX};
use crate::link::Request;
use crate::report::Status;
use crate::worker::actor::Job;
use crate::worker::api::{
    Answer, AnswerPart, EndOfResponse, EnvironmentId, FunctionVersionId, InvokeError,
    InvokeRequest, Release, ReleaseOutcome, Reservation, UnknownInvocation, WorkerEventKind,
};
use crate::worker::core::Token;
use crate::worker::launcher::Launcher;

impl<L: Launcher> Service<L> {
    pub(super) fn reserve(
        &mut self,
        version: FunctionVersionId,
        invocation: InvocationId,
        now: BootTime,
    ) -> Result<Reservation, InvokeError> {
        if self.releases.kept.contains_key(&invocation) {
            return Err(InvokeError::AlreadyInvocating);
        }
        let token = draw_token()?;
        let grant = self.core.reserve(version, invocation, &token, now);
        self.carry_out();
        let grant = grant?;
        Ok(Reservation {
            token: token.to_text(),
            invocation,
            version,
            environment: grant.environment,
            cold: grant.cold,
            function_timeout: grant.function_timeout,
            expires_in: grant.expires_in,
        })
    }

    pub(super) fn invoke(
        &mut self,
        request: InvokeRequest,
        now: BootTime,
    ) -> Result<Answer, InvokeError> {
        check_request(&request)?;
        let arn = self.core.registry().get(request.version).map(|it| it.function.arn());
        let (invocation, version) = (request.invocation, request.version);
        let environment = self.core.spend(&request.token, invocation, version, now)?;
        let (caller, parts) = mpsc::channel(PARTS_WAITING_MAX);
        let log_tail = request.log_tail;
        // A version that was removed after the reservation still serves it.
        let request = request_of(request, arn.unwrap_or_default());
        self.jobs.insert(invocation, Box::new(Job { request, caller, log_tail }));
        self.carry_out();
        Ok(Answer { environment, parts })
    }

    /// Answers an invocation that never reached an environment.
    pub(super) fn abandon(&mut self, invocation: InvocationId) {
        if let Some(job) = self.jobs.remove(&invocation) {
            self.answer_lost(*job, EnvironmentId(0));
        }
    }

    /// Answers an invocation whose environment was gone before it heard of it.
    pub(super) fn answer_lost(&mut self, job: Job, environment: EnvironmentId) {
        let spec = InvocationSpec { id: job.request.id, timeout: Duration::ZERO, memory_mb: 0 };
        let outcome = never_begun(&spec, &GoneReason::Abandoned);
        let release = Release {
            invocation: outcome.id,
            environment,
            outcome: ReleaseOutcome::Destroyed,
            report: outcome.report.clone(),
            log_tail: Vec::new(),
        };
        for part in lost_parts(&outcome, &release) {
            // The channel is empty and holds four.
            let _ = job.caller.try_send(part);
        }
        self.core.finished(environment, outcome.id, self.clock.boot_time());
        self.releases.keep(release);
    }

    pub(super) fn await_release(
        &mut self,
        invocation: InvocationId,
        reply: oneshot::Sender<Result<Release, UnknownInvocation>>,
    ) {
        if let Some(release) = self.releases.kept.get(&invocation) {
            let _ = reply.send(Ok(release.clone()));
        } else if self.core.is_live(invocation) {
            let waiting = self.releases.waiting.entry(invocation).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            if waiting.len() < RELEASE_WAITERS_MAX {
                waiting.push(reply);
            }
        } else {
            let _ = reply.send(Err(UnknownInvocation));
        }
    }

    pub(super) fn tell_invocation(
        &mut self,
        environment: EnvironmentId,
        invocation: InvocationId,
        outcome: Option<&Outcome>,
    ) {
        let now = self.clock.boot_time();
        let Ok(info) = self.core.environment(environment, now) else { return };
        let error_type =
            outcome.and_then(|outcome| match (&outcome.answer, &outcome.report.status) {
                (Answered::Error(error), _) => Some(error.error_type.clone()),
                (_, Status::Error(error_type)) => Some(error_type.clone()),
                (_, Status::Timeout) => Some(String::from("Sandbox.Timedout")),
                (Answered::Response { .. }, Status::Success) => None,
            });
        self.tell(WorkerEventKind::Invocation {
            invocation,
            version: info.version,
            environment,
            report: outcome.map(|outcome| outcome.report.clone()),
            error_type,
        });
    }
}

impl Releases {
    pub(super) fn keep(&mut self, release: Release) {
        let invocation = release.invocation;
        for waiter in self.waiting.remove(&invocation).unwrap_or_default() {
            let _ = waiter.send(Ok(release.clone()));
        }
        if self.kept.insert(invocation, release).is_none() {
            self.order.push_back(invocation);
        }
        if self.order.len() > RELEASES_KEPT_MAX
            && let Some(eldest) = self.order.pop_front()
        {
            self.kept.remove(&eldest);
        }
    }
}

fn lost_parts(outcome: &Outcome, release: &Release) -> [AnswerPart; 4] {
    let (payload, error_type) = match &outcome.answer {
        Answered::Error(error) => (error.payload.clone(), Some(error.error_type.clone())),
        Answered::Response { .. } => (Vec::new(), None),
    };
    [
        AnswerPart::Head {
            mode: votive_protocol::ResponseMode::Buffered,
            content_type: String::from("application/json"),
            function_error: true,
        },
        AnswerPart::Bytes(payload),
        AnswerPart::End {
            end_of_response: EndOfResponse::Complete,
            error_type,
            function_error: true,
            error_details: Vec::new(),
        },
        AnswerPart::Release(release.clone()),
    ]
}

/// A token from the system's generator.
fn draw_token() -> Result<Token, InvokeError> {
    let failed = InvokeError::ServiceException { what: "there is no randomness" };
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(rest, flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(failed),
        }
    }
    Ok(Token(bytes))
}

/// What goes into headers of the Runtime API may not end them.
fn check_request(request: &InvokeRequest) -> Result<(), InvokeError> {
    let len = u64::try_from(request.payload.len()).unwrap_or(u64::MAX);
    if len > REQUEST_PAYLOAD_MAX {
        return Err(InvokeError::RequestTooLarge { len, max: REQUEST_PAYLOAD_MAX });
    }
    for (field, text, max) in [
        ("the content type", &request.content_type, INVOKE_FIELD_MAX),
        ("the trace id", &request.trace_id, INVOKE_FIELD_MAX),
        ("the client context", &request.client_context, CONTEXT_MAX),
        ("the Cognito identity", &request.cognito_identity, CONTEXT_MAX),
    ] {
        if text.len() > max || text.chars().any(char::is_control) {
            return Err(InvokeError::InvalidRequestContent { field });
        }
    }
    Ok(())
}

fn request_of(request: InvokeRequest, function_arn: String) -> Request {
    let trace_id = if request.trace_id.is_empty() { made_up_trace() } else { request.trace_id };
    Request {
        id: request.invocation,
        // Both are known when the invocation is sent.
        deadline_ms: 0,
        realtime_ns: 0,
        function_arn,
        trace_id,
        client_context: request.client_context,
        cognito_identity: request.cognito_identity,
        content_type: request.content_type,
        payload: request.payload,
    }
}

/// A trace that nobody samples.
pub(crate) fn made_up_trace() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let trace = random.get(..24).unwrap_or_default();
    format!("Root=1-{:08x}-{trace};Sampled=0", wall_clock().as_secs())
}
