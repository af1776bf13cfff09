//! Tests of what is around the worker, as far as no process needs to run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::leftovers::processes;
use super::lock::{LOCK_FILE, LockError, StateLock};
use super::logging::priority;
use super::pulse::{ANSWER_MAX, Pulse, status_line};
use super::start::worker_config;
use crate::clock::Moment;
use crate::config::Config;
use crate::config::place::Places;
use crate::fixture::folder;
use crate::worker::api::{Capacity, LeaseStatus, LeaseTimes, WorkerState, WorkerStatus};
use crate::worker::config::LeaseSource;

#[test]
fn only_the_vmms_of_the_predecessor_are_found() {
    let vmm = "/usr/lib/votive/bin/votive-vmm";
    let folder = folder(&[
        ("10/cmdline", &format!("{vmm}\0--vcpus\01\0--parent\x00777\0")),
        ("11/cmdline", &format!("{vmm}\0--parent\x00778\0")),
        ("12/cmdline", "/usr/bin/cat\0--parent\x00777\0"),
        ("13/cmdline", &format!("{vmm}\0--cmdline\0--parent\0--vcpus\x00777\0")),
        ("14/cmdline", ""),
        ("self/cmdline", &format!("{vmm}\0--parent\x00777\0")),
    ]);
    assert_eq!(processes(folder.path(), 777, Path::new(vmm)), [10]);
    assert_eq!(processes(folder.path(), 1, Path::new(vmm)), Vec::<u32>::new());
}

#[test]
fn a_lock_tells_who_has_it_and_who_had_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("a").join("b");
    let lock = StateLock::take(&state).unwrap();
    assert_eq!(lock.predecessor(), None);
    let own = std::process::id();
    let holder = match StateLock::take(&state) {
        Err(LockError::Taken { holder, .. }) => holder,
        other => panic!("{other:?}"),
    };
    assert_eq!(holder, Some(own));
    drop(lock);
    assert_eq!(StateLock::take(&state).unwrap().predecessor(), Some(own));
    // Whatever was written into it: it is a lock, and nobody's number.
    std::fs::write(state.join(LOCK_FILE), "x".repeat(1000)).unwrap();
    assert_eq!(StateLock::take(&state).unwrap().predecessor(), None);
}

#[test]
fn levels_have_the_priorities_of_syslog() {
    use tracing::Level;
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
}

fn status(state: WorkerState, remaining: Option<u64>) -> WorkerStatus {
    let times = remaining.map(|remaining| LeaseTimes {
        issued: Duration::from_secs(1000),
        drain_at: Duration::from_secs(1100),
        expires: Duration::from_secs(2000),
        remaining: Duration::from_secs(remaining),
    });
    let lease = LeaseStatus { state, times };
    WorkerStatus { lease, busy: 3, idle: 5, ..WorkerStatus::default() }
}

#[test]
fn the_status_line_tells_the_lease_in_minutes() {
    let text = status_line("active", &status(WorkerState::Active, Some(50_399)));
    assert_eq!(text, "active; 3 busy, 5 idle; the lease ends in 13h 59m");
    let text = status_line("draining", &status(WorkerState::Draining, Some(59)));
    assert_eq!(text, "draining; 3 busy, 5 idle; the lease ends in 0s");
    let text = status_line("unleased", &status(WorkerState::Unleased, None));
    assert_eq!(text, "unleased; 3 busy, 5 idle");
}

#[test]
fn a_loop_that_does_not_answer_is_neither_alive_nor_ready() {
    let pulse = Pulse::new();
    let now = Moment::now();
    assert!(pulse.is_alive(now));
    assert!(!pulse.is_ready(now));
    pulse.heard(now, &status(WorkerState::Active, Some(100)));
    assert!(pulse.is_ready(now + ANSWER_MAX));
    assert!(!pulse.is_alive(now + ANSWER_MAX + Duration::from_nanos(1)));
    assert!(!pulse.is_ready(now + ANSWER_MAX + Duration::from_nanos(1)));
    pulse.heard(now, &status(WorkerState::Draining, Some(100)));
    assert!(pulse.is_alive(now));
    assert!(!pulse.is_ready(now));
    assert_eq!(pulse.state_name(), "draining");
}

#[test]
fn the_lease_runs_on_without_answers() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let pulse = Pulse::new();
        let asked = Moment::now();
        pulse.heard(asked, &status(WorkerState::Active, Some(100)));
        pulse.refresh(asked + Duration::from_secs(160));
    });
    let text = handle.render();
    assert!(text.contains("votive_worker_lease_remaining_seconds -60\n"), "{text}");
    assert!(text.contains("votive_worker_lease_duration_seconds 1000\n"), "{text}");
    assert!(text.contains("votive_worker_loop_answer_age_seconds 160\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_beat_gives_a_loop_that_hangs_up() {
    let (worker, _commands) = crate::worker::WorkerHandle::played();
    assert_eq!(Pulse::new().beat(&worker).await, None);
}

#[test]
fn a_worker_is_told_what_the_configuration_says() {
    let places = Places {
        worker_id: String::from("w"),
        state_dir: PathBuf::from("/s"),
        unix_socket: None,
        keys: PathBuf::from("/k"),
        artifact_cache: PathBuf::from("/s/cache"),
    };
    let told = worker_config(&Config::default(), &places, 64 << 30);
    assert_eq!((told.id.as_str(), told.state_dir.as_path()), ("w", Path::new("/s")));
    let expected = Capacity { environments: 1000, memory_mb: 48 * 1024, vcpus: 6000 };
    assert_eq!(told.limits.capacity, expected);
    let lease = LeaseSource::SelfIssued {
        duration: Duration::from_secs(14 * 3600),
        longest_invocation: Duration::from_secs(900),
    };
    assert_eq!(told.lease, lease);
    let text = "lease.source = \"orchestrator\"\n[capacity]\nmemory = \"1GiB\"\nvcpus = 7\n\
                environments_per_function_version = 3\n[environments]\nidle_timeout = \"1m\"\n";
    let config = crate::config::parse::parse(text).unwrap();
    let told = worker_config(&config, &places, 64 << 30);
    assert_eq!(told.lease, LeaseSource::FromOrchestrator);
    assert_eq!((told.limits.capacity.memory_mb, told.limits.capacity.vcpus), (1024, 7));
    assert_eq!(told.limits.per_function_version, 3);
    assert_eq!(told.idle_timeout, Duration::from_secs(60));
}

#[test]
fn artifacts_are_served_when_store_keys_and_cache_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = |extra: &str| {
        let (store, keys) = (at("store"), at("keys"));
        let text = format!("[artifacts]\nstore = {store:?}\nkeys = {keys:?}\n{extra}");
        crate::config::parse::parse(&text).unwrap()
    };
    let places = Places {
        worker_id: String::from("w"),
        state_dir: at("state"),
        unix_socket: None,
        keys: PathBuf::from("/k"),
        artifact_cache: at("state/cache"),
    };
    assert!(super::artifacts::open(&Config::default(), &places).unwrap().is_none());
    let error = super::artifacts::open(&config(""), &places).unwrap_err();
    assert_eq!(error.to_string(), "artifacts.keys cannot be used");
    votive_artifact::keys::Embedded::create(&at("keys")).unwrap();
    let origin = super::artifacts::open(&config(""), &places).unwrap().unwrap();
    // One process a cache.
    let error = super::artifacts::open(&config(""), &places).unwrap_err();
    assert_eq!(error.to_string(), "artifacts.cache cannot be used");
    drop(origin);
    super::artifacts::open(&config("memory = \"64MiB\""), &places).unwrap().unwrap();
    let nameless = Places { worker_id: String::from("a b"), ..places };
    assert!(super::artifacts::open(&config(""), &nameless).is_err());
    // A store that is elsewhere is opened without asking it for anything.
    let text = format!("[artifacts]\nstore = \"s3://bucket/x\"\nkeys = {:?}\n", at("keys"));
    let s3 = crate::config::parse::parse(&text).unwrap();
    let places = Places { worker_id: String::from("w"), ..nameless };
    super::artifacts::open(&s3, &places).unwrap().unwrap();
}
