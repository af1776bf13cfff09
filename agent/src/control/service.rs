//! The calls themselves: each reads its message, asks the worker, and says what it answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service as _;
use votive_control::limits::REQUEST_MESSAGE_MAX;
use votive_control::v1;
use votive_control::v1::worker_server::WorkerServer;
use votive_protocol::InvocationId;

use crate::control::body::RequestBody;
use crate::control::limits::{ANSWER_SOON, ControlLimits, WATCHED_EVENTS};
use crate::control::tally::Tally;
use crate::control::{convert, refused};
use crate::limits::TIMEOUT_MAX_S;
use crate::worker::WorkerHandle;
use crate::worker::api::{self, Answer, parse_invocation_id};

mod payload;

/// Answers requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    server: WorkerServer<Calls>,
}

impl Service {
    pub(crate) fn new(worker: WorkerHandle, limits: ControlLimits, tally: Arc<Tally>) -> Self {
        let room = Arc::new(Semaphore::new(limits.payload_bytes.min(Semaphore::MAX_PERMITS)));
        let calls = Calls { worker, limits, room, tally };
        Self { server: WorkerServer::new(calls).max_decoding_message_size(REQUEST_MESSAGE_MAX) }
    }

    pub(crate) async fn answer(
        mut self,
        request: http::Request<RequestBody>,
    ) -> http::Response<tonic::body::Body> {
        match self.server.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// What the calls need.
#[derive(Debug)]
pub(crate) struct Calls {
    worker: WorkerHandle,
    limits: ControlLimits,
    /// Bytes of payloads that may still be received at once.
    room: Arc<Semaphore>,
    tally: Arc<Tally>,
}

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl v1::worker_server::Worker for Calls {
    async fn grant_lease(&self, request: Request<v1::GrantLeaseRequest>) -> Answered<v1::Lease> {
        let v1::GrantLeaseRequest { duration, longest_invocation } = request.into_inner();
        let duration = convert::read_duration("duration", duration, std::time::Duration::ZERO)?;
        let longest = std::time::Duration::from_secs(TIMEOUT_MAX_S.into());
        let longest = convert::read_duration("longest_invocation", longest_invocation, longest)?;
        let granted = self.worker.grant_lease(duration, longest).await;
        Ok(Response::new(convert::lease(&granted.map_err(refused::lease)?)))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Answered<v1::Lease> {
        Ok(Response::new(convert::lease(&self.worker.drain().await)))
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answered<v1::Status> {
        Ok(Response::new(convert::status(self.worker.status().await)))
    }

    async fn register_function_version(
        &self,
        request: Request<v1::RegisterFunctionVersionRequest>,
    ) -> Answered<v1::FunctionVersion> {
        let spec = convert::function_version_spec(request.into_inner())?;
        let registered = self.worker.register(spec).await;
        let version = registered.map_err(|error| refused::register(&error))?;
        Ok(Response::new(convert::function_version(version)))
    }

    async fn remove_function_version(
        &self,
        request: Request<v1::RemoveFunctionVersionRequest>,
    ) -> Answered<v1::RemoveFunctionVersionResponse> {
        let id = version_id(&request.into_inner().function_version_id)?;
        let environments = self.worker.remove(id).await.map_err(refused::unknown_version)?;
        Ok(Response::new(v1::RemoveFunctionVersionResponse { environments }))
    }

    async fn list_function_versions(
        &self,
        _: Request<v1::ListFunctionVersionsRequest>,
    ) -> Answered<v1::ListFunctionVersionsResponse> {
        let versions = self.worker.function_versions().await;
        Ok(Response::new(v1::ListFunctionVersionsResponse {
            function_versions: versions.into_iter().map(convert::function_version).collect(),
        }))
    }

    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Answered<v1::Reservation> {
        let request = request.into_inner();
        let version = version_id(&request.function_version_id)?;
        let invocation = parse_invocation_id(&request.invocation_id)
            .map_err(|error| refused::id("invocation_id", error))?;
        let reserved = self.worker.reserve(version, invocation).await;
        let reservation = reserved.map_err(|error| refused::invoke(&error))?;
        Ok(Response::new(convert::reservation(reservation)))
    }

    type InvokeStream = AnswerStream;

    async fn invoke(
        &self,
        request: Request<Streaming<v1::InvokeRequest>>,
    ) -> Answered<AnswerStream> {
        let (start, payload) = self.receive(request.into_inner()).await?;
        let invocation = parse_invocation_id(&start.invocation_id)
            .map_err(|error| refused::id("invocation_id", error))?;
        let version = version_id(&start.function_version_id)?;
        let request = api::InvokeRequest {
            invocation,
            version,
            token: self.token(start.reserve, start.token, version, invocation).await?,
            payload: payload.bytes,
            content_type: start.content_type,
            client_context: start.client_context,
            cognito_identity: start.cognito_identity,
            trace_id: start.trace_id,
            log_tail: start.log_tail,
        };
        let answer = self.worker.invoke(request).await;
        // From here on the environment holds the payload, and there is one for each.
        drop(payload.room);
        let answer = answer.map_err(|error| refused::invoke(&error))?;
        Ok(Response::new(AnswerStream::begin(answer).await))
    }

    async fn await_release(
        &self,
        request: Request<v1::AwaitReleaseRequest>,
    ) -> Answered<v1::Release> {
        let invocation = parse_invocation_id(&request.into_inner().invocation_id)
            .map_err(|error| refused::id("invocation_id", error))?;
        let release = self.worker.await_release(invocation).await;
        Ok(Response::new(convert::release(release.map_err(refused::unknown_invocation)?)))
    }

    async fn set_provisioned_concurrency(
        &self,
        request: Request<v1::SetProvisionedConcurrencyRequest>,
    ) -> Answered<v1::ProvisionedConcurrency> {
        let request = request.into_inner();
        let version = version_id(&request.function_version_id)?;
        let provisioned = self.worker.set_provisioned(version, request.environments).await;
        Ok(Response::new(convert::provisioned(provisioned.map_err(refused::provision)?)))
    }

    async fn get_provisioned_concurrency(
        &self,
        request: Request<v1::GetProvisionedConcurrencyRequest>,
    ) -> Answered<v1::ProvisionedConcurrency> {
        let version = version_id(&request.into_inner().function_version_id)?;
        let provisioned = self.worker.provisioned(version).await;
        Ok(Response::new(convert::provisioned(provisioned.map_err(refused::unknown_version)?)))
    }

    async fn list_environments(
        &self,
        request: Request<v1::ListEnvironmentsRequest>,
    ) -> Answered<v1::ListEnvironmentsResponse> {
        let id = request.into_inner().function_version_id;
        let version = if id.is_empty() { None } else { Some(version_id(&id)?) };
        let environments = self.worker.environments(version).await;
        Ok(Response::new(v1::ListEnvironmentsResponse {
            environments: environments.into_iter().map(convert::environment).collect(),
        }))
    }

    async fn get_environment(
        &self,
        request: Request<v1::GetEnvironmentRequest>,
    ) -> Answered<v1::Environment> {
        let id = environment_id(&request.into_inner().environment_id)?;
        let info = self.worker.environment(id).await.map_err(refused::unknown_environment)?;
        Ok(Response::new(convert::environment(info)))
    }

    async fn destroy_environment(
        &self,
        request: Request<v1::DestroyEnvironmentRequest>,
    ) -> Answered<v1::Environment> {
        let id = environment_id(&request.into_inner().environment_id)?;
        let info = self.worker.destroy(id).await.map_err(refused::unknown_environment)?;
        Ok(Response::new(convert::environment(info)))
    }

    type WatchEventsStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Answered<Self::WatchEventsStream> {
        let mut watch = self.worker.watch(request.into_inner().logs);
        let (sender, receiver) = mpsc::channel(WATCHED_EVENTS);
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = watch.next() => event,
                    () = sender.closed() => return,
                };
                let Some(event) = event else { return };
                // A watcher that does not read makes this wait; what it misses meanwhile it is told as a number.
                if sender.send(Ok(convert::event(event))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn version_id(text: &str) -> Result<api::FunctionVersionId, Status> {
    text.parse().map_err(|error| refused::id("function_version_id", error))
}

fn environment_id(text: &str) -> Result<api::EnvironmentId, Status> {
    text.parse().map_err(|error| refused::id("environment_id", error))
}

impl Calls {
    /// The token that is spent: the caller's, or that of a reservation made here and now.
    async fn token(
        &self,
        reserve: bool,
        token: String,
        version: api::FunctionVersionId,
        invocation: InvocationId,
    ) -> Result<String, Status> {
        match (reserve, token.is_empty()) {
            (false, _) => Ok(token),
            (true, true) => {
                let reserved = self.worker.reserve(version, invocation).await;
                Ok(reserved.map_err(|error| refused::invoke(&error))?.token)
            }
            (true, false) => Err(refused::field("token", "a call that reserves has none")),
        }
    }
}

/// What the answer's next message is.
#[derive(Debug)]
enum Next {
    Started,
    Part,
    Nothing,
}

/// An invocation's answer as messages. It pulls: nothing is taken from the environment that the caller has no room for.
#[derive(Debug)]
pub(crate) struct AnswerStream {
    answer: Answer,
    /// A part that came before the answer was begun.
    first: Option<api::AnswerPart>,
    next: Next,
}

impl AnswerStream {
    /// Begins an answer with its first part if that is there soon, else without.
    async fn begin(mut answer: Answer) -> Self {
        let first = tokio::time::timeout(ANSWER_SOON, answer.parts.recv()).await;
        Self { answer, first: first.ok().flatten(), next: Next::Started }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<api::AnswerPart>> {
        match self.first.take() {
            Some(part) => Poll::Ready(Some(part)),
            None => self.answer.parts.poll_recv(cx),
        }
    }
}

impl Stream for AnswerStream {
    type Item = Result<v1::InvokeResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let part = match this.next {
            Next::Nothing => return Poll::Ready(None),
            Next::Started => {
                this.next = Next::Part;
                let environment_id = this.answer.environment.to_string();
                v1::invoke_response::Part::Started(v1::InvokeStarted { environment_id })
            }
            Next::Part => match std::task::ready!(this.poll_part(cx)) {
                Some(part) => {
                    if matches!(part, api::AnswerPart::Release(_)) {
                        this.next = Next::Nothing;
                    }
                    convert::answer_part(part)
                }
                None => {
                    this.next = Next::Nothing;
                    return Poll::Ready(Some(Err(refused::unfinished())));
                }
            },
        };
        Poll::Ready(Some(Ok(v1::InvokeResponse { part: Some(part) })))
    }
}
