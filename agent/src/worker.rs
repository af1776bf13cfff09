//! The worker: environments of many function versions under one lease.
//!
//! [`WorkerHandle`] is what others hold of it. One task owns what decides; each environment is a task of its own, so that a
//! slow guest or a slow caller holds up nobody else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use votive_protocol::InvocationId;

pub(crate) mod actor;
pub mod api;
mod boots;
pub mod config;
pub mod core;
pub mod errors;
pub mod ids;
pub(crate) mod journal;
pub mod launcher;
pub mod lease;
pub mod lease_file;
pub mod microvms;
mod outbox;
pub mod registry;
pub(crate) mod service;
mod start;
mod store;
mod time;
pub(crate) mod watch;
mod wires;

#[cfg(test)]
mod tests;

pub use start::StartError;
pub use time::Clock;
pub use watch::Watch;

use api::{
    Answer, EnvironmentId, EnvironmentInfo, FunctionVersion, FunctionVersionId,
    FunctionVersionSpec, InvokeError, InvokeRequest, LeaseError, LeaseStatus, ProvisionError,
    Provisioned, RegisterError, Release, Reservation, UnknownEnvironment, UnknownFunctionVersion,
    UnknownInvocation, WorkerState, WorkerStatus,
};
use config::WorkerConfig;
use launcher::Launcher;
use watch::Broadcast;

/// How a worker came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerEnd {
    /// Its lease, terminated.
    pub lease: LeaseStatus,
}

/// Starts a worker in this asynchronous runtime. It ends when it has drained, at the latest when its lease does.
///
/// # Errors
/// [`StartError`]; nothing was started then.
pub fn start<L: Launcher>(
    config: WorkerConfig,
    launcher: L,
    clock: Clock,
) -> Result<(WorkerHandle, JoinHandle<WorkerEnd>), StartError> {
    start::start(config, launcher, clock)
}

/// What others hold of a worker. Cheap to clone. A worker that has ended answers like one that is terminated.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    broadcast: Arc<Broadcast>,
}

/// A question with the place for its answer.
#[derive(Debug)]
pub(crate) enum Command {
    GrantLease {
        duration: Duration,
        longest_invocation: Duration,
        reply: oneshot::Sender<Result<LeaseStatus, LeaseError>>,
    },
    Drain(oneshot::Sender<LeaseStatus>),
    Status(oneshot::Sender<WorkerStatus>),
    Register(Box<FunctionVersionSpec>, oneshot::Sender<Result<FunctionVersion, RegisterError>>),
    Remove(FunctionVersionId, oneshot::Sender<Result<u32, UnknownFunctionVersion>>),
    FunctionVersions(oneshot::Sender<Vec<FunctionVersion>>),
    Reserve {
        version: FunctionVersionId,
        invocation: InvocationId,
        reply: oneshot::Sender<Result<Reservation, InvokeError>>,
    },
    Invoke(Box<InvokeRequest>, oneshot::Sender<Result<Answer, InvokeError>>),
    AwaitRelease(InvocationId, oneshot::Sender<Result<Release, UnknownInvocation>>),
    SetProvisioned {
        version: FunctionVersionId,
        environments: u32,
        reply: oneshot::Sender<Result<Provisioned, ProvisionError>>,
    },
    Provisioned(FunctionVersionId, oneshot::Sender<Result<Provisioned, UnknownFunctionVersion>>),
    Environments(Option<FunctionVersionId>, oneshot::Sender<Vec<EnvironmentInfo>>),
    Environment(EnvironmentId, oneshot::Sender<Result<EnvironmentInfo, UnknownEnvironment>>),
    Destroy(EnvironmentId, oneshot::Sender<Result<EnvironmentInfo, UnknownEnvironment>>),
}

impl WorkerHandle {
    /// Gives the worker its lease, or lengthens it: `duration` from now. It is kept before this returns.
    ///
    /// # Errors
    /// [`LeaseError`]
    pub async fn grant_lease(
        &self,
        duration: Duration,
        longest_invocation: Duration,
    ) -> Result<LeaseStatus, LeaseError> {
        let ask = |reply| Command::GrantLease { duration, longest_invocation, reply };
        self.ask(ask).await.unwrap_or(Err(LeaseError::Draining))
    }

    /// Begins the drain now: what is under way finishes, nothing else begins, and the worker ends.
    pub async fn drain(&self) -> LeaseStatus {
        self.ask(Command::Drain).await.unwrap_or_else(terminated)
    }

    /// What the worker is doing.
    pub async fn status(&self) -> WorkerStatus {
        let ended = || WorkerStatus { lease: terminated(), ..WorkerStatus::default() };
        self.ask(Command::Status).await.unwrap_or_else(ended)
    }

    /// Makes a function version known and its images ready. The same again gives the same.
    ///
    /// # Errors
    /// [`RegisterError`]
    pub async fn register(
        &self,
        spec: FunctionVersionSpec,
    ) -> Result<FunctionVersion, RegisterError> {
        let ask = |reply| Command::Register(Box::new(spec), reply);
        self.ask(ask).await.unwrap_or(Err(RegisterError::Unavailable))
    }

    /// Forgets a function version; gives the number of environments that end for it, busy ones once they are done.
    ///
    /// # Errors
    /// [`UnknownFunctionVersion`]
    pub async fn remove(&self, id: FunctionVersionId) -> Result<u32, UnknownFunctionVersion> {
        let ask = |reply| Command::Remove(id, reply);
        self.ask(ask).await.unwrap_or(Err(UnknownFunctionVersion))
    }

    /// All function versions that are known.
    pub async fn function_versions(&self) -> Vec<FunctionVersion> {
        self.ask(Command::FunctionVersions).await.unwrap_or_default()
    }

    /// Reserves an environment for one invocation: an idle one, or a new one.
    ///
    /// # Errors
    /// [`InvokeError`]
    pub async fn reserve(
        &self,
        version: FunctionVersionId,
        invocation: InvocationId,
    ) -> Result<Reservation, InvokeError> {
        let ask = |reply| Command::Reserve { version, invocation, reply };
        self.ask(ask).await.unwrap_or(Err(ENDED))
    }

    /// Spends a reservation. Dropping the answer does not end the invocation.
    ///
    /// # Errors
    /// [`InvokeError`]
    pub async fn invoke(&self, request: InvokeRequest) -> Result<Answer, InvokeError> {
        let ask = |reply| Command::Invoke(Box::new(request), reply);
        self.ask(ask).await.unwrap_or(Err(ENDED))
    }

    /// Waits until an environment is done with an invocation. The last few thousand releases are kept.
    ///
    /// # Errors
    /// [`UnknownInvocation`]
    pub async fn await_release(
        &self,
        invocation: InvocationId,
    ) -> Result<Release, UnknownInvocation> {
        let ask = |reply| Command::AwaitRelease(invocation, reply);
        self.ask(ask).await.unwrap_or(Err(UnknownInvocation))
    }

    /// Sets how many initialised environments of a version are kept.
    ///
    /// # Errors
    /// [`ProvisionError`]
    pub async fn set_provisioned(
        &self,
        version: FunctionVersionId,
        environments: u32,
    ) -> Result<Provisioned, ProvisionError> {
        let ask = |reply| Command::SetProvisioned { version, environments, reply };
        self.ask(ask).await.unwrap_or(Err(ProvisionError::NotReady { why: ENDED_WHY }))
    }

    /// How many there are and should be.
    ///
    /// # Errors
    /// [`UnknownFunctionVersion`]
    pub async fn provisioned(
        &self,
        version: FunctionVersionId,
    ) -> Result<Provisioned, UnknownFunctionVersion> {
        let ask = |reply| Command::Provisioned(version, reply);
        self.ask(ask).await.unwrap_or(Err(UnknownFunctionVersion))
    }

    /// All environments, or those of one version.
    pub async fn environments(&self, version: Option<FunctionVersionId>) -> Vec<EnvironmentInfo> {
        self.ask(|reply| Command::Environments(version, reply)).await.unwrap_or_default()
    }

    /// One environment.
    ///
    /// # Errors
    /// [`UnknownEnvironment`]; one that is gone is not known any more.
    pub async fn environment(
        &self,
        id: EnvironmentId,
    ) -> Result<EnvironmentInfo, UnknownEnvironment> {
        let ask = |reply| Command::Environment(id, reply);
        self.ask(ask).await.unwrap_or(Err(UnknownEnvironment))
    }

    /// Ends an environment at once; an invocation in it is answered with an error.
    ///
    /// # Errors
    /// [`UnknownEnvironment`]
    pub async fn destroy(&self, id: EnvironmentId) -> Result<EnvironmentInfo, UnknownEnvironment> {
        let ask = |reply| Command::Destroy(id, reply);
        self.ask(ask).await.unwrap_or(Err(UnknownEnvironment))
    }

    /// Everything that happens from now on; with `logs` also what functions write.
    #[must_use]
    pub fn watch(&self, logs: bool) -> Watch {
        self.broadcast.watch(logs)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}

const ENDED_WHY: &str = "it has ended";
const ENDED: InvokeError = InvokeError::ResourceNotReady { why: ENDED_WHY };

fn terminated() -> LeaseStatus {
    LeaseStatus { state: WorkerState::Terminated, times: None }
}

#[cfg(test)]
impl WorkerHandle {
    /// A handle on a worker that the test plays: what it is asked, and the handle itself.
    pub(crate) fn played() -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(64);
        (Self { commands, broadcast: Arc::new(Broadcast::new()) }, inbox)
    }

    /// Tells watchers what the test says has happened.
    pub(crate) fn tell(&self, kind: api::WorkerEventKind) {
        self.broadcast.tell(kind);
    }
}
