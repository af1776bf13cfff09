//! A control channel with its keys in a folder of its own, and a worker that is played.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use votive_control::address::Address;
use votive_control::client::{Client, ClientError, ClientSpec};
use votive_control::identity::{Holder, Role};
use votive_control::keys;
use votive_control::tls::Identity;
use votive_control::v1;
use votive_protocol::{InvocationId, ResponseMode};

use crate::control::tally::{Cut, Tally};
use crate::control::{ControlLimits, ControlServer, ControlSpec, Renewal};
use crate::report::{Report, Status};
use crate::worker::api::{
    Answer, AnswerPart, Capacity, CreateReason, EndOfResponse, EndReason, EnvironmentId,
    EnvironmentInfo, EnvironmentState, FunctionVersion, FunctionVersionId, FunctionVersionSpec,
    Initialization, InvokeError, LeaseStatus, LeaseTimes, Provisioned, ProvisionedStatus, Release,
    ReleaseOutcome, Reservation, ThrottleReason, UnknownEnvironment, UnknownFunctionVersion,
    UnknownInvocation, WorkerState, WorkerStatus,
};
use crate::worker::{Command, WorkerHandle};

/// How long anything may take on a busy machine before the test fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A pause in between two looks at a count.
const LOOK: Duration = Duration::from_millis(5);

/// The id of an invocation.
pub(super) const INVOCATION: &str = "11111111-2222-4333-8444-555555555555";

/// A channel that serves.
pub(super) struct Channel {
    pub(super) place: TempDir,
    pub(super) tcp: Address,
    pub(super) unix: Address,
    pub(super) tally: Arc<Tally>,
    pub(super) worker: WorkerHandle,
    pub(super) renewal: Renewal,
    /// Questions that the worker was asked.
    pub(super) asked: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
}

impl Channel {
    pub(super) async fn start(limits: ControlLimits) -> Self {
        let place = tempfile::tempdir().unwrap();
        keys::init(&place.path().join("keys"), &[], 30, SystemTime::now()).unwrap();
        Self::start_in(place, limits, 0).await
    }

    /// A channel with the keys that are in `place` already.
    pub(super) async fn start_in(place: TempDir, limits: ControlLimits, port: u16) -> Self {
        let spec = ControlSpec {
            tcp: vec![([127, 0, 0, 1], port).into()],
            unix: vec![place.path().join("control.sock")],
            identity: place.path().join("keys/worker"),
            limits,
        };
        let server = ControlServer::bind(spec).await.unwrap();
        let mut addresses = server.addresses().into_iter();
        let (tcp, unix) = (addresses.next().unwrap(), addresses.next().unwrap());
        let (worker, inbox) = WorkerHandle::played();
        let asked = Arc::new(AtomicU64::new(0));
        tokio::spawn(play(inbox, Arc::clone(&asked)));
        let (tally, renewal) = (server.tally(), server.renewal());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = server.serve(worker.clone(), async {
            let _ = stopped.await;
        });
        let served = Some(tokio::spawn(serving));
        Self { place, tcp, unix, tally, worker, renewal, asked, stop: Some(stop), served }
    }

    pub(super) fn keys(&self, name: &str) -> PathBuf {
        self.place.path().join("keys").join(name)
    }

    pub(super) fn port(&self) -> u16 {
        match self.tcp {
            Address::Tcp { port, .. } => port,
            Address::Unix { .. } => unreachable!("it is a TCP address"),
        }
    }

    pub(super) async fn client(&self, role: Role) -> Client {
        self.client_at(&self.tcp, role.name()).await.unwrap()
    }

    pub(super) async fn client_at(
        &self,
        address: &Address,
        keys: &str,
    ) -> Result<Client, ClientError> {
        let identity = Identity::read(&self.keys(keys)).unwrap();
        let spec = ClientSpec { address: address.clone(), server_name: None };
        Client::connect(&spec, &identity).await
    }

    /// A further certificate of the same authority, good for `days` from `now` on.
    pub(super) fn issue(&self, name: &str, holder: Holder, days: u32, now: SystemTime) -> PathBuf {
        let into = self.keys(name);
        keys::issue(&self.place.path().join("keys"), holder, &[], days, &into, now).unwrap();
        into
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until something was refused or cut so often, and makes sure that it was not oftener.
    pub(super) async fn until_cut(&self, cut: Cut, times: u64) {
        until(&format!("{} {times} times", cut.name()), || self.tally.count(cut) >= times).await;
        assert_eq!(self.tally.count(cut), times, "{}", cut.name());
    }

    /// Everything that was refused or cut, by reason.
    pub(super) fn cuts(&self) -> Vec<(Cut, u64)> {
        let counts = Cut::ALL.iter().map(|cut| (*cut, self.tally.count(*cut)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Ends the channel and waits for it.
    pub(super) async fn stop(mut self) -> TempDir {
        self.begin_stop();
        self.until_stopped().await;
        self.place
    }

    pub(super) fn begin_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(super) async fn until_stopped(&mut self) {
        let served = self.served.take().unwrap();
        tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
    }
}

/// Waits for something that happens in another task.
pub(super) async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("it did not happen: {what}");
    }
}

/// Registers a function whose handler says how it behaves; gives its id.
pub(super) async fn register(client: &Client, handler: &str) -> String {
    let source = Some(v1::code::Source::ZipPath(String::from("/code.zip")));
    let request = v1::RegisterFunctionVersionRequest {
        account: String::from("012345678912"),
        function_name: String::from("function"),
        version: String::from("1"),
        runtime: String::from("provided"),
        handler: handler.to_owned(),
        memory_mb: 128,
        code: Some(v1::Code { source }),
        ..Default::default()
    };
    client.register(request).await.unwrap().id
}

/// The start of an invocation of what was reserved.
pub(super) fn start_of(reservation: &v1::Reservation) -> v1::InvokeStart {
    v1::InvokeStart {
        token: reservation.token.clone(),
        invocation_id: reservation.invocation_id.clone(),
        function_version_id: reservation.function_version_id.clone(),
        log_tail: true,
        ..Default::default()
    }
}

/// What the played worker knows.
#[derive(Default)]
struct Played {
    versions: HashMap<FunctionVersionId, FunctionVersion>,
    reservations: HashMap<String, (InvocationId, FunctionVersionId)>,
    releases: HashMap<InvocationId, Release>,
    environments: u64,
    draining: bool,
    throttles: u32,
}

/// Answers as a worker would, without any environment. What a function does is in its handler: `echo`; `stream N`, N bytes in
/// pieces of 64 KiB; `fail`; `lost`, which never answers; `throttle N`, which has no room the first N times.
async fn play(mut inbox: mpsc::Receiver<Command>, asked: Arc<AtomicU64>) {
    let mut played = Played::default();
    while let Some(command) = inbox.recv().await {
        asked.fetch_add(1, Ordering::SeqCst);
        played.answer(command);
    }
}

impl Played {
    fn lease(&self) -> LeaseStatus {
        let times = LeaseTimes {
            issued: Duration::from_secs(1_800_000_000),
            drain_at: Duration::from_secs(1_800_002_690),
            expires: Duration::from_secs(1_800_003_600),
            remaining: Duration::from_millis(3_599_500),
        };
        let state = if self.draining { WorkerState::Draining } else { WorkerState::Active };
        LeaseStatus { state, times: Some(times) }
    }

    fn answer(&mut self, command: Command) {
        match command {
            Command::GrantLease { reply, .. } => tell(reply, Ok(self.lease())),
            Command::Drain(reply) => {
                self.draining = true;
                tell(reply, self.lease());
            }
            Command::Status(reply) => tell(
                reply,
                WorkerStatus {
                    worker_id: String::from("played"),
                    lease: self.lease(),
                    capacity: Capacity { environments: 7, memory_mb: 1024, vcpus: 2 },
                    ..WorkerStatus::default()
                },
            ),
            Command::Register(spec, reply) => tell(reply, Ok(self.register(*spec))),
            Command::Remove(id, reply) => {
                let removed = self.versions.remove(&id).map(|_| 1).ok_or(UnknownFunctionVersion);
                tell(reply, removed);
            }
            Command::FunctionVersions(reply) => {
                tell(reply, self.versions.values().cloned().collect());
            }
            Command::Reserve { version, invocation, reply } => {
                tell(reply, self.reserve(version, invocation));
            }
            Command::Invoke(request, reply) => {
                let Some((invocation, version)) = self.reservations.remove(&request.token) else {
                    return tell(reply, Err(InvokeError::InvalidReservationToken));
                };
                let (sender, parts) = mpsc::channel(4);
                let environment = EnvironmentId(1);
                tell(reply, Ok(Answer { environment, parts }));
                let release = release(invocation, environment, request.log_tail);
                self.releases.insert(invocation, release.clone());
                let handler = self.versions[&version].handler.clone();
                tokio::spawn(async move { run(&handler, request.payload, release, sender).await });
            }
            Command::AwaitRelease(invocation, reply) => {
                let release = self.releases.get(&invocation).cloned().ok_or(UnknownInvocation);
                tell(reply, release);
            }
            Command::SetProvisioned { version, environments, reply } => {
                tell(reply, Ok(provisioned(version, environments)));
            }
            Command::Provisioned(version, reply) => tell(reply, Ok(provisioned(version, 0))),
            Command::Environments(_, reply) => tell(reply, vec![environment(None)]),
            Command::Environment(id, reply) => {
                let known = id == EnvironmentId(1);
                tell(reply, known.then(|| environment(None)).ok_or(UnknownEnvironment));
            }
            Command::Destroy(_, reply) => {
                tell(reply, Ok(environment(Some(EndReason::OperatorRequest))));
            }
        }
    }

    fn register(&mut self, spec: FunctionVersionSpec) -> FunctionVersion {
        let id = FunctionVersionId([u8::try_from(self.versions.len()).unwrap() + 1; 16]);
        let version = FunctionVersion {
            id,
            arn: format!(
                "arn:aws:lambda:us-east-1:{}:function:{}",
                spec.account, spec.function_name
            ),
            account: spec.account,
            function_name: spec.function_name,
            version: spec.version,
            runtime: spec.runtime,
            handler: spec.handler,
            memory_mb: spec.memory_mb,
            timeout: spec.timeout,
            code_sha256: [0; 32],
            environments: 0,
        };
        self.versions.insert(id, version.clone());
        version
    }

    fn reserve(
        &mut self,
        version: FunctionVersionId,
        invocation: InvocationId,
    ) -> Result<Reservation, InvokeError> {
        let known = self.versions.get(&version).ok_or(InvokeError::ResourceNotFound)?;
        if let Some(times) = known.handler.strip_prefix("throttle ")
            && self.throttles < times.parse().unwrap()
        {
            self.throttles += 1;
            return Err(InvokeError::TooManyRequests {
                reason: ThrottleReason::ConcurrentInvocationLimitExceeded,
                retry_after: Duration::from_millis(20),
            });
        }
        self.environments += 1;
        let token = format!("token-{}", self.environments);
        self.reservations.insert(token.clone(), (invocation, version));
        Ok(Reservation {
            token,
            invocation,
            version,
            environment: EnvironmentId(1),
            cold: self.environments == 1,
            function_timeout: Duration::from_secs(3),
            expires_in: Duration::from_secs(10),
        })
    }
}

/// Answers; whoever asked may have gone.
fn tell<T>(reply: oneshot::Sender<T>, answer: T) {
    let _ = reply.send(answer);
}

async fn run(handler: &str, payload: Vec<u8>, release: Release, sender: mpsc::Sender<AnswerPart>) {
    let (kind, amount) = handler.split_once(' ').unwrap_or((handler, "0"));
    let failed = kind == "fail";
    let mode = if kind == "stream" { ResponseMode::Streaming } else { ResponseMode::Buffered };
    let content_type = String::from("application/json");
    let head = AnswerPart::Head { mode, content_type, function_error: failed };
    let mut pieces = Vec::new();
    match kind {
        "lost" => return sender.closed().await,
        "stream" => {
            let amount: usize = amount.parse().unwrap();
            pieces.resize(amount / 65_536, vec![b'x'; 65_536]);
        }
        _ => pieces.extend(payload.chunks(65_536).map(<[u8]>::to_vec)),
    }
    let end = AnswerPart::End {
        end_of_response: EndOfResponse::Complete,
        error_type: failed.then(|| String::from("Function.Unknown")),
        function_error: failed,
        error_details: Vec::new(),
    };
    let bytes = pieces.into_iter().map(AnswerPart::Bytes);
    for part in std::iter::once(head).chain(bytes).chain([end, AnswerPart::Release(release)]) {
        if sender.send(part).await.is_err() {
            return;
        }
    }
}

fn release(invocation: InvocationId, environment: EnvironmentId, log_tail: bool) -> Release {
    Release {
        invocation,
        environment,
        outcome: ReleaseOutcome::Reused,
        report: report_of(invocation),
        log_tail: if log_tail { b"START\nEND\n".to_vec() } else { Vec::new() },
    }
}

fn report_of(id: InvocationId) -> Report {
    Report {
        id,
        duration: Duration::from_micros(2500),
        memory_size_mb: 128,
        memory_used_bytes: 1024 * 1024,
        init: None,
        extensions: Duration::ZERO,
        status: Status::Success,
    }
}

fn provisioned(version: FunctionVersionId, requested: u32) -> Provisioned {
    Provisioned {
        version,
        requested,
        allocated: requested,
        available: 0,
        status: ProvisionedStatus::InProgress,
        status_reason: String::new(),
    }
}

/// The one environment that there is.
pub(super) fn environment(ending_for: Option<EndReason>) -> EnvironmentInfo {
    EnvironmentInfo {
        id: EnvironmentId(1),
        version: FunctionVersionId([1; 16]),
        state: if ending_for.is_some() { EnvironmentState::Ending } else { EnvironmentState::Idle },
        initialization: Initialization::OnDemand,
        created_for: CreateReason::ColdStart,
        ending_for,
        process_id: Some(42),
        age: Duration::from_secs(9),
        invocations: 3,
    }
}
