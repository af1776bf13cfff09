//! A client of a worker: one method a call, each with a deadline, and typed errors.
//!
//! A [`Client`] is cheap to clone. Its connection is made again when it is lost; a call that was under way then fails with
//! [`ClientError::Lost`], and only [`Client::reserve_patiently`] tries anything a second time.

use std::time::Duration;

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::address::Address;
use crate::limits::{
    CONNECTION_WINDOW, HEADERS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, RESPONSE_MESSAGE_MAX,
    STREAM_WINDOW,
};
use crate::tls::Identity;
use crate::v1;
use crate::v1::worker_client::WorkerClient;

mod answer;
mod connector;
mod error;
mod patience;

pub use answer::{Answer, Outcome, Part, Watch};
pub use error::ClientError;
pub use patience::{Patience, Reserved};

use connector::Connector;

/// How long a connection, its handshake included, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take that asks a worker for what it knows.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a registration may take: the worker reads, checks and packs up to 250 MB of code.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(180);

/// Which worker, and who calls.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    /// Where the worker is.
    pub address: Address,
    /// The name that its certificate must have; the address's own if `None`.
    pub server_name: Option<String>,
}

/// A client of one worker.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects, so that a worker which cannot be reached or is not the right one is known at once.
    ///
    /// # Errors
    /// The worker cannot be reached, or one side refuses the other.
    pub async fn connect(spec: &ClientSpec, identity: &Identity) -> Result<Self, ClientError> {
        let connector = Connector::new(spec, identity)?;
        let channel = endpoint(spec)?.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| ClientError::of_connect(&spec.address, &error))?;
        Ok(Self { channel })
    }

    /// Connects with the first call.
    ///
    /// # Errors
    /// The identity or the name is of no use.
    pub fn connect_lazily(spec: &ClientSpec, identity: &Identity) -> Result<Self, ClientError> {
        let connector = Connector::new(spec, identity)?;
        Ok(Self { channel: endpoint(spec)?.connect_with_connector_lazy(connector) })
    }

    /// The generated client beneath, without deadlines and typed errors.
    #[must_use]
    pub fn grpc(&self) -> WorkerClient<Channel> {
        WorkerClient::new(self.channel()).max_decoding_message_size(RESPONSE_MESSAGE_MAX)
    }

    /// The channel beneath that.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Gives the worker its lease, or lengthens it.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn grant_lease(
        &self,
        request: v1::GrantLeaseRequest,
    ) -> Result<v1::Lease, ClientError> {
        let mut grpc = self.grpc();
        within(CALL_TIMEOUT, request, |request| async move { grpc.grant_lease(request).await })
            .await
    }

    /// Begins the drain.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn drain(&self) -> Result<v1::Lease, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::DrainRequest {};
        within(CALL_TIMEOUT, request, |request| async move { grpc.drain(request).await }).await
    }

    /// What the worker is doing.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn status(&self) -> Result<v1::Status, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::GetStatusRequest {};
        within(CALL_TIMEOUT, request, |request| async move { grpc.get_status(request).await }).await
    }

    /// Makes a function version known.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn register(
        &self,
        request: v1::RegisterFunctionVersionRequest,
    ) -> Result<v1::FunctionVersion, ClientError> {
        let mut grpc = self.grpc();
        within(REGISTER_TIMEOUT, request, |request| async move {
            grpc.register_function_version(request).await
        })
        .await
    }

    /// Forgets a function version; gives the number of environments that end.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn remove(&self, function_version_id: &str) -> Result<u32, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::RemoveFunctionVersionRequest {
            function_version_id: function_version_id.to_owned(),
        };
        let answer = within(CALL_TIMEOUT, request, |request| async move {
            grpc.remove_function_version(request).await
        });
        Ok(answer.await?.environments)
    }

    /// All function versions.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn function_versions(&self) -> Result<Vec<v1::FunctionVersion>, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::ListFunctionVersionsRequest {};
        let answer = within(CALL_TIMEOUT, request, |request| async move {
            grpc.list_function_versions(request).await
        });
        Ok(answer.await?.function_versions)
    }

    /// Reserves an environment for one invocation.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn reserve(
        &self,
        function_version_id: &str,
        invocation_id: &str,
    ) -> Result<v1::Reservation, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::ReserveRequest {
            function_version_id: function_version_id.to_owned(),
            invocation_id: invocation_id.to_owned(),
        };
        within(CALL_TIMEOUT, request, |request| async move { grpc.reserve(request).await }).await
    }

    /// Spends a reservation. `limit` is for the whole of it, from the first piece of the payload to the release.
    ///
    /// # Errors
    /// [`ClientError`], as with every call. The function's own errors are answers.
    pub async fn invoke(
        &self,
        start: v1::InvokeStart,
        payload: Bytes,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        answer::invoke(self.grpc(), start, payload, limit).await
    }

    /// Waits until the runtime and its extensions are done with an invocation.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn await_release(
        &self,
        invocation_id: &str,
        limit: Duration,
    ) -> Result<v1::Release, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::AwaitReleaseRequest { invocation_id: invocation_id.to_owned() };
        within(limit, request, |request| async move { grpc.await_release(request).await }).await
    }

    /// Sets how many initialised environments of a version are kept.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn set_provisioned(
        &self,
        function_version_id: &str,
        environments: u32,
    ) -> Result<v1::ProvisionedConcurrency, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::SetProvisionedConcurrencyRequest {
            function_version_id: function_version_id.to_owned(),
            environments,
        };
        within(CALL_TIMEOUT, request, |request| async move {
            grpc.set_provisioned_concurrency(request).await
        })
        .await
    }

    /// How many initialised environments of a version there are and should be.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn provisioned(
        &self,
        function_version_id: &str,
    ) -> Result<v1::ProvisionedConcurrency, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::GetProvisionedConcurrencyRequest {
            function_version_id: function_version_id.to_owned(),
        };
        within(CALL_TIMEOUT, request, |request| async move {
            grpc.get_provisioned_concurrency(request).await
        })
        .await
    }

    /// All environments, or those of one version.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn environments(
        &self,
        function_version_id: Option<&str>,
    ) -> Result<Vec<v1::Environment>, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::ListEnvironmentsRequest {
            function_version_id: function_version_id.unwrap_or_default().to_owned(),
        };
        let answer = within(CALL_TIMEOUT, request, |request| async move {
            grpc.list_environments(request).await
        });
        Ok(answer.await?.environments)
    }

    /// One environment.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn environment(&self, id: &str) -> Result<v1::Environment, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::GetEnvironmentRequest { environment_id: id.to_owned() };
        within(CALL_TIMEOUT, request, |request| async move { grpc.get_environment(request).await })
            .await
    }

    /// Ends an environment at once.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn destroy(&self, id: &str) -> Result<v1::Environment, ClientError> {
        let mut grpc = self.grpc();
        let request = v1::DestroyEnvironmentRequest { environment_id: id.to_owned() };
        within(
            CALL_TIMEOUT,
            request,
            |request| async move { grpc.destroy_environment(request).await },
        )
        .await
    }

    /// What happens from now on, until the worker ends or the connection does.
    ///
    /// # Errors
    /// [`ClientError`], as with every call.
    pub async fn watch(&self, logs: bool) -> Result<Watch, ClientError> {
        let mut grpc = self.grpc();
        let call = grpc.watch_events(v1::WatchEventsRequest { logs });
        let response =
            tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(|_| ClientError::Deadline)?;
        Ok(Watch::new(response.map_err(ClientError::of_status)?.into_inner()))
    }
}

/// Makes a call with a deadline that the worker is told and that holds here too.
async fn within<Q, R, F>(
    limit: Duration,
    request: Q,
    call: impl FnOnce(Request<Q>) -> F,
) -> Result<R, ClientError>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(limit);
    match tokio::time::timeout(limit, call(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(ClientError::of_status(status)),
        Err(_) => Err(ClientError::Deadline),
    }
}

fn endpoint(spec: &ClientSpec) -> Result<Endpoint, ClientError> {
    // The connector knows the address and makes the TLS, so the endpoint's own is for show; requests name the worker.
    let origin = match &spec.address {
        address @ Address::Tcp { .. } => address.to_string(),
        Address::Unix { .. } => format!("https://{}", spec.address.server_name()),
    };
    let origin = origin.parse().map_err(|_| ClientError::ServerName)?;
    Ok(Endpoint::from_static("http://worker.invalid")
        .origin(origin)
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(false))
}
