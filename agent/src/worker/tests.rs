//! A whole worker with guests that are played, on a clock that the tests wind on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::clock::wall_clock;
use crate::environment::new_invocation_id;
use crate::fake_guest::FakeLauncher;
use crate::function::ImageConfig;
use crate::report::LogFormat;
use crate::worker::api::{AnswerPart, CodeSource, ReleaseOutcome};
use crate::worker::config::LeaseSource;
use crate::worker::lease_file::{self, Clocks, LeaseFile, LeaseRecord};

struct Fixture {
    handle: WorkerHandle,
    end: JoinHandle<WorkerEnd>,
    _folder: tempfile::TempDir,
}

fn worker(change: impl FnOnce(&mut WorkerConfig)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut config = WorkerConfig::new("w", folder.path().join("state"));
    change(&mut config);
    let (handle, end) = start(config, FakeLauncher, Clock::of_runtime()).unwrap();
    Fixture { handle, end, _folder: folder }
}

fn spec(handler: &str) -> FunctionVersionSpec {
    FunctionVersionSpec {
        account: String::from("123456789012"),
        function_name: handler.to_owned(),
        version: String::from("1"),
        runtime: String::from("provided"),
        handler: handler.to_owned(),
        memory_mb: 128,
        timeout: Duration::from_secs(3),
        init_timeout: Duration::from_secs(10),
        environment: BTreeMap::new(),
        code: CodeSource::Zip(PathBuf::from(handler)),
        layers: Vec::new(),
        image_config: ImageConfig::default(),
        ephemeral_storage_mb: 0,
        concurrency_limit: 0,
        log_format: LogFormat::Text,
    }
}

/// What came of an invocation: payload, error type, release.
async fn invoke(
    handle: &WorkerHandle,
    version: FunctionVersionId,
    payload: &[u8],
) -> (Vec<u8>, Option<String>, Release) {
    let mut answer = begin(handle, version, payload).await;
    let (mut bytes, mut error, mut release) = (Vec::new(), None, None);
    while let Some(part) = answer.parts.recv().await {
        match part {
            AnswerPart::Head { .. } => {}
            AnswerPart::Bytes(mut piece) => bytes.append(&mut piece),
            AnswerPart::End { error_type, .. } => error = error_type,
            AnswerPart::Release(it) => release = Some(it),
        }
    }
    (bytes, error, release.unwrap())
}

async fn begin(handle: &WorkerHandle, version: FunctionVersionId, payload: &[u8]) -> Answer {
    let reservation = handle.reserve(version, new_invocation_id()).await.unwrap();
    let request = InvokeRequest {
        token: reservation.token,
        invocation: reservation.invocation,
        version,
        payload: payload.to_vec(),
        content_type: String::new(),
        client_context: String::new(),
        cognito_identity: String::new(),
        trace_id: String::new(),
        log_tail: true,
    };
    handle.invoke(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_environment_is_made_for_the_first_invocation_and_used_for_the_next() {
    let worker = worker(|_| {});
    let version = worker.handle.register(spec("echo")).await.unwrap();
    let big = vec![b'x'; 6 * 1024 * 1024];
    let (bytes, error, first) = invoke(&worker.handle, version.id, &big).await;
    assert!(bytes == big && error.is_none());
    assert!(first.report.init.is_some());
    let (bytes, _, second) = invoke(&worker.handle, version.id, b"{}").await;
    assert_eq!(bytes, b"{}");
    assert_eq!((second.environment, second.report.init), (first.environment, None));
    let tail = String::from_utf8(second.log_tail.clone()).unwrap();
    assert!(
        tail.starts_with("START RequestId: ") && tail.contains("\nREPORT RequestId: "),
        "{tail}"
    );
    assert_eq!(worker.handle.await_release(second.invocation).await, Ok(second));
    // 200 MB would go the same way: a stream is handed on as it comes.
    let stream = worker.handle.register(spec("stream")).await.unwrap();
    let (bytes, error, _) = invoke(&worker.handle, stream.id, &big).await;
    assert!(bytes == big && error.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_answered_and_its_environment_replaced() {
    let worker = worker(|_| {});
    for (handler, error_type, outcome) in [
        ("throw", "Function.Unknown", ReleaseOutcome::Reused),
        ("exit", "Runtime.ExitError", ReleaseOutcome::Reset),
        ("hang", "Sandbox.Timedout", ReleaseOutcome::Reset),
        ("crash", "Sandbox.Failure", ReleaseOutcome::Destroyed),
        ("stuck", "Sandbox.Failure", ReleaseOutcome::Destroyed),
    ] {
        let version = worker.handle.register(spec(handler)).await.unwrap();
        for _ in 0..2 {
            let begun = tokio::time::Instant::now();
            let (_, error, release) = invoke(&worker.handle, version.id, b"{}").await;
            assert_eq!(error.as_deref(), Some(error_type), "{handler}");
            assert_eq!(release.outcome, outcome, "{handler}");
            let most = match handler {
                "hang" => 3500,
                // It answers once, after 400 ms, and hangs from then on: that is known within a second.
                "stuck" => 1400,
                _ => 1000,
            };
            assert!(begun.elapsed() <= Duration::from_millis(most), "{handler}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_good_once_for_its_own_invocation_and_version() {
    let worker = worker(|_| {});
    let version = worker.handle.register(spec("hang")).await.unwrap().id;
    let other = worker.handle.register(spec("echo")).await.unwrap().id;
    let invocation = new_invocation_id();
    let reservation = worker.handle.reserve(version, invocation).await.unwrap();
    assert!(reservation.cold && reservation.token.len() == 64);
    let again = worker.handle.reserve(version, invocation).await;
    assert_eq!(again, Err(InvokeError::AlreadyReserved));
    let request = InvokeRequest {
        token: reservation.token,
        invocation,
        version,
        payload: Vec::new(),
        content_type: String::new(),
        client_context: String::new(),
        cognito_identity: String::new(),
        trace_id: String::new(),
        log_tail: false,
    };
    let refused = |request: InvokeRequest| async {
        worker.handle.invoke(request).await.err().map(|error| error.name())
    };
    let wrong = InvokeRequest { token: String::from("guess"), ..request.clone() };
    assert_eq!(refused(wrong).await, Some("ErrInvalidReservationToken"));
    let wrong = InvokeRequest { version: other, ..request.clone() };
    assert_eq!(refused(wrong).await, Some("ErrInvalidFunctionVersion"));
    let wrong = InvokeRequest { invocation: new_invocation_id(), ..request.clone() };
    assert_eq!(refused(wrong).await, Some("ErrInvalidInvokeID"));
    let wrong = InvokeRequest { trace_id: String::from("a\r\nb"), ..request.clone() };
    assert_eq!(refused(wrong).await, Some("InvalidRequestContentException"));
    assert_eq!(refused(request.clone()).await, None);
    assert_eq!(refused(request.clone()).await, Some("ErrAlreadyInvocating"));
    worker.handle.await_release(invocation).await.unwrap();
    assert_eq!(refused(request.clone()).await, Some("ErrInvalidReservationToken"));
    let late = worker.handle.reserve(version, new_invocation_id()).await.unwrap();
    tokio::time::sleep(late.expires_in).await;
    let late = InvokeRequest { token: late.token, invocation: late.invocation, ..request };
    assert_eq!(refused(late).await, Some("ErrReservationExpired"));
}

#[tokio::test(start_paused = true)]
async fn provisioned_environments_wait_and_come_back() {
    let worker = worker(|_| {});
    let version = worker.handle.register(spec("echo")).await.unwrap().id;
    worker.handle.set_provisioned(version, 3).await.unwrap();
    let ready = async || loop {
        let provisioned = worker.handle.provisioned(version).await.unwrap();
        if provisioned.available == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    ready().await;
    let first = worker.handle.environments(Some(version)).await[0].clone();
    worker.handle.destroy(first.id).await.unwrap();
    ready().await;
    assert_eq!(worker.handle.environments(Some(version)).await.len(), 3);
    let (_, _, release) = invoke(&worker.handle, version, b"{}").await;
    // Nobody waited for its init phase.
    assert_eq!(release.report.init, None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_fourteen_hours_ends_with_an_invocation_in_flight() {
    let lease = LeaseSource::FromOrchestrator;
    let worker = worker(|config| config.lease = lease);
    let (hours, longest) = (Duration::from_secs(14 * 3600), Duration::from_secs(900));
    let begun = tokio::time::Instant::now();
    let version = FunctionVersionSpec { timeout: longest, ..spec("hang") };
    let version = worker.handle.register(version).await.unwrap().id;
    let unleased = worker.handle.reserve(version, new_invocation_id()).await;
    assert_eq!(unleased.map_err(|error| error.name()), Err("ResourceNotReadyException"));
    worker.handle.grant_lease(hours, longest).await.unwrap();
    let more = worker.handle.grant_lease(hours, longest).await;
    assert!(more.is_ok() || matches!(more, Err(LeaseError::BeyondLife { .. })), "{more:?}");
    let status = worker.handle.status().await.lease.times.unwrap();
    let drains_in = status.drain_at - status.issued;
    // The last second in which an invocation is taken.
    tokio::time::sleep(drains_in - Duration::from_secs(2)).await;
    let mut answer = begin(&worker.handle, version, b"{}").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(worker.handle.status().await.lease.state, WorkerState::Draining);
    let late = worker.handle.reserve(version, new_invocation_id()).await;
    assert_eq!(late.map_err(|error| error.name()), Err("ResourceNotReadyException"));
    // It has its 900 s, and is told that they are over.
    let mut error = None;
    while let Some(part) = answer.parts.recv().await {
        if let AnswerPart::End { error_type, .. } = part {
            error = error_type;
        }
    }
    assert_eq!(error.as_deref(), Some("Sandbox.Timedout"));
    let end = worker.end.await.unwrap();
    assert_eq!(end.lease.state, WorkerState::Terminated);
    assert!(begun.elapsed() < hours, "{:?}", begun.elapsed());
    assert!(begun.elapsed() > hours - Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(worker.handle.status().await.lease.state, WorkerState::Terminated);
}

/// A worker that finds a lease of an hour in its state folder, of which `left` is left.
fn restarted(left: Duration, source: LeaseSource) -> Fixture {
    let hour = Duration::from_secs(3600);
    worker(|config| {
        config.lease = source;
        std::fs::create_dir_all(&config.state_dir).unwrap();
        let wall = wall_clock() - (hour - left);
        let boot_id = lease_file::boot_id().unwrap();
        let issued = Clocks { boot_id, boot_time: Clock::of_runtime().boot_time(), wall };
        let record = LeaseRecord {
            first: issued.clone(),
            issued,
            duration: hour,
            longest_invocation: Duration::from_secs(60),
            draining: false,
        };
        LeaseFile::new(&config.state_dir).store(&record).unwrap();
    })
}

#[tokio::test(start_paused = true)]
async fn one_that_leases_itself_goes_on_with_its_lease_and_begins_anew_when_its_drain_was_due() {
    let duration = Duration::from_secs(3600);
    let own = LeaseSource::SelfIssued { duration, longest_invocation: Duration::from_secs(60) };
    let left = async |worker: &Fixture| worker.handle.status().await.lease.times.unwrap().remaining;
    let worker = restarted(Duration::from_secs(600), own);
    assert_eq!(worker.handle.status().await.lease.state, WorkerState::Active);
    assert!(left(&worker).await <= Duration::from_secs(600));
    let worker = restarted(Duration::from_secs(50), own);
    assert_eq!(worker.handle.status().await.lease.state, WorkerState::Active);
    assert!(left(&worker).await > Duration::from_secs(3500));
    // What an orchestrator leased is the orchestrator's to renew.
    let worker = restarted(Duration::from_secs(50), LeaseSource::FromOrchestrator);
    assert_eq!(worker.end.await.unwrap().lease.state, WorkerState::Terminated);
}

/// Guests that are played, and a count of first releases.
struct Counting(std::sync::Arc<std::sync::atomic::AtomicU32>);

impl Launcher for Counting {
    async fn prepare(&self, spec: FunctionVersionSpec) -> Result<registry::Version, RegisterError> {
        FakeLauncher.prepare(spec).await
    }

    async fn launch(
        &self,
        order: launcher::LaunchOrder,
    ) -> Result<launcher::Launched, launcher::LaunchError> {
        let count = std::sync::Arc::clone(&self.0);
        let first_release: launcher::FirstRelease = Box::new(move || {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        });
        let launched = FakeLauncher.launch(order).await?;
        Ok(launcher::Launched { first_release: Some(first_release), ..launched })
    }

    fn forget(&self, _: &registry::VersionImages) {}
}

#[tokio::test(start_paused = true)]
async fn an_environment_s_first_release_is_told_once_and_only_if_it_can_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = WorkerConfig::new("w", folder.path().join("state"));
    let count = std::sync::Arc::<std::sync::atomic::AtomicU32>::default();
    let told = || count.load(std::sync::atomic::Ordering::SeqCst);
    let launcher = Counting(count.clone());
    let (handle, _end) = start(config, launcher, Clock::of_runtime()).unwrap();
    let exit = handle.register(spec("exit")).await.unwrap();
    invoke(&handle, exit.id, b"1").await;
    assert_eq!(told(), 0, "the runtime ended");
    let echo = handle.register(spec("echo")).await.unwrap();
    invoke(&handle, echo.id, b"1").await;
    assert_eq!(told(), 1);
    invoke(&handle, echo.id, b"2").await;
    assert_eq!(told(), 1);
}
