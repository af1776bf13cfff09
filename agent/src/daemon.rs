//! The process `votive-agent`: everything around the worker.
//!
//! [`run`] is its life, top to bottom: look at the configuration's files and at the host, lock the state folder, sweep what a killed
//! predecessor left, start the worker, listen, say that it is ready, and wait for the worker's end. SIGTERM and SIGINT begin
//! the drain; a second one ends everything at once. SIGHUP reads the certificates again.
//!
//! **Invariant:** systemd's watchdog is fed by answers of the worker's loop and by nothing else ([`pulse`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::artifacts::{Artifacts, Origin};
use crate::causes::with_causes;
use crate::cgroup::{CgroupError, Cgroups};
use crate::config::check;
use crate::config::place::{NoPlace, Places, Surroundings};
use crate::config::value::Listen;
use crate::config::{self, Config, ConfigError, JailMode, OnFlaw};
use crate::control::{ControlError, ControlLimits, ControlServer, ControlSpec, Renewal};
use crate::daemon::endpoint::Endpoint;
use crate::daemon::lock::{LockError, StateLock};
use crate::daemon::pulse::Pulse;
use crate::daemon::signals::{Asked, Signals};
use crate::doctor::{self, Finding};
use crate::images::{Images, ImagesError};
use crate::jail::{JailError, Jails};
use crate::metrics::exporter::{Exporter, ExporterError, UPKEEP_INTERVAL};
use crate::metrics::host;
use crate::network::{self, Network, NetworkError};
use crate::posture::{self, Posture};
use crate::worker::WorkerHandle;
use crate::worker::microvms::HostParts;

mod artifacts;
pub mod cli;
pub mod endpoint;
pub mod leftovers;
pub mod lock;
pub mod logging;
mod manual;
pub mod pulse;
mod service;
pub mod signals;
mod start;

#[cfg(test)]
mod tests;

/// How long callers may read on when the worker has ended. With as much again for what still computes, the process is gone
/// before the lease is over ([`crate::limits::LEASE_KILL_MARGIN`]).
const END_PATIENCE: Duration = Duration::from_millis(500);
/// How long shells may take to be gone meanwhile.
const SHELLS_PATIENCE: Duration = Duration::from_secs(1);

/// How the process ended when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonEnd {
    /// The worker drained or its lease is over: nothing is left of it.
    Terminated,
    /// A second signal, by its number: everything was ended at once.
    Killed(u8),
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A place that nothing tells.
    #[error(transparent)]
    Place(#[from] NoPlace),
    /// Files that the configuration names.
    #[error("not started: {}", list(.0))]
    Files(Vec<Finding>),
    /// The images.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// No guest can run here.
    #[error("not started: {reason}; {fix}")]
    Kvm {
        /// What kind of KVM this is.
        reason: String,
        /// What to do.
        fix: String,
    },
    /// The host, where the configuration refuses flaws.
    #[error("not started: {}", list(.0))]
    Posture(Vec<Finding>),
    /// The state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The folder of the Unix socket.
    #[error("{path} cannot be made")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The metrics.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    /// The metrics endpoint.
    #[error("cannot listen for metrics at {address}")]
    Metrics {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The control channel.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The event loop or its signals.
    #[error("the event loop cannot be made")]
    Loop(#[source] std::io::Error),
    /// The control groups, which the configuration requires.
    #[error("microVMs cannot have control groups, which environments.cgroups requires")]
    Cgroups(#[source] CgroupError),
    /// The jails, which the configuration requires.
    #[error("microVMs cannot have jails, which isolation.jail requires")]
    Jail(#[source] JailError),
    /// The networks, which the configuration asks for.
    #[error("microVMs cannot have networks, which network.egress asks for")]
    Network(#[source] NetworkError),
    /// The artifacts.
    #[error(transparent)]
    Artifacts(#[from] artifacts::ArtifactsError),
    /// The worker did not start.
    #[error("the worker cannot start")]
    Worker(#[source] start::StartError),
    /// The worker's loop is gone without having ended.
    #[error("the worker's loop failed")]
    Lost(#[source] tokio::task::JoinError),
}

fn list(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!("; {fix}"));
        format!("{}: {}{fix}", finding.subject, finding.text)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n  ")
}

/// Runs a worker until it has ended.
///
/// # Errors
/// [`DaemonError`]; nothing is left running then.
pub fn run(config: &Config) -> Result<DaemonEnd, DaemonError> {
    service::forbid_core_dumps();
    let places = config.places(&Surroundings::here())?;
    let wrong: Vec<_> =
        check::findings(config, &places).into_iter().filter(|finding| !finding.ok).collect();
    if !wrong.is_empty() {
        return Err(DaemonError::Files(wrong));
    }
    let images = config.worker.find_images()?;
    let posture = look_at_host(config, &images)?;
    let lock = StateLock::take(&places.state_dir)?;
    leftovers::sweep(&lock, images.vmm(), &places.state_dir);
    let network = open_network(config, &places)?;
    let host = HostParts {
        cgroups: open_cgroups(config)?,
        jails: find_jails(config, &images)?,
        network: network.clone(),
        limits: config.limits.of_devices(),
        shells: usize::try_from(config.isolation.shells).unwrap_or_default(),
    };
    let origin = artifacts::open(config, &places)?;
    // Several threads: a guest's TLS or a large payload on one of them holds up no other guest.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(DaemonError::Loop)?;
    let serving = serve(config, &places, &posture, images, host, origin);
    let ended = runtime.block_on(serving);
    // A task that still computes cannot hold the process back.
    runtime.shutdown_timeout(END_PATIENCE);
    if let Some(network) = network {
        network.close();
    }
    drop(lock);
    ended
}

/// Tells what the host is like, and refuses one that cannot run guests, or must not.
fn look_at_host(config: &Config, images: &Images) -> Result<Posture, DaemonError> {
    let diagnosis = doctor::diagnose(images);
    if !diagnosis.kind.can_run_guests() {
        let kvm = diagnosis.findings.iter().find(|finding| finding.subject == "KVM");
        let fix = kvm.and_then(|finding| finding.fix.clone());
        let fix = fix.unwrap_or_else(|| String::from("votive doctor tells more"));
        return Err(DaemonError::Kvm { reason: diagnosis.reason, fix });
    }
    for finding in &diagnosis.findings {
        tracing::info!(subject = finding.subject, ok = finding.ok, "{}", finding.text);
    }
    let posture = Posture::of(&posture::Files::of_this_host());
    let host = &config.host;
    for finding in posture.findings().iter().filter(|finding| !finding.ok) {
        let fix = finding.fix.as_deref().unwrap_or_default();
        tracing::warn!(subject = finding.subject, fix, "host posture: {}", finding.text);
    }
    let unaccepted = posture.unaccepted(&host.accept);
    match host.posture {
        OnFlaw::Refuse if !unaccepted.is_empty() => Err(DaemonError::Posture(unaccepted)),
        OnFlaw::Refuse | OnFlaw::Warn => Ok(posture),
    }
}

/// The place of microVMs' control groups, if they are to have any.
fn open_cgroups(config: &Config) -> Result<Option<Cgroups>, DaemonError> {
    let root = config.environments.cgroup_root.as_deref();
    let open = || Cgroups::open_with(root, config.isolation.io_max.as_deref());
    match config.environments.cgroups {
        config::Cgroups::Off => Ok(None),
        config::Cgroups::Required => open().map(Some).map_err(DaemonError::Cgroups),
        config::Cgroups::Auto => Ok(open()
            .inspect_err(|error| {
                tracing::warn!(reason = with_causes(error), "microVMs have no control groups");
            })
            .ok()),
    }
}

/// What makes jails, if microVMs are to have them.
fn find_jails(config: &Config, images: &Images) -> Result<Option<Jails>, DaemonError> {
    let jailer = config.isolation.jailer.clone().unwrap_or_else(|| images.jailer());
    let jails = || {
        let jails = Jails::new(&jailer, config.isolation.uids.0);
        jails.check().map(|()| jails)
    };
    match config.isolation.jail {
        JailMode::Off => Ok(None),
        JailMode::Required => jails().map(Some).map_err(DaemonError::Jail),
        JailMode::Auto => Ok(jails()
            .inspect_err(|error| {
                tracing::warn!(reason = with_causes(error), "microVMs have no jails");
            })
            .ok()),
    }
}

/// The microVMs' networks, if they are to have any. What a killed agent left of its own is removed in any case.
fn open_network(config: &Config, places: &Places) -> Result<Option<Arc<Network>>, DaemonError> {
    let Some(spec) = config.network_spec(&places.state_dir) else {
        if let Err(error) = network::sweep(&places.state_dir) {
            tracing::warn!(reason = with_causes(&error), "a part of the network before stays");
        }
        return Ok(None);
    };
    let network = Network::open(&spec).map_err(DaemonError::Network)?;
    Ok(Some(Arc::new(network)))
}

/// Everything that runs beside the worker.
struct Around {
    control: JoinHandle<()>,
    endpoint: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    renewal: Renewal,
    pulse: Arc<Pulse>,
}

async fn serve(
    config: &Config,
    places: &Places,
    posture: &Posture,
    images: Images,
    host: HostParts,
    origin: Option<Origin>,
) -> Result<DaemonEnd, DaemonError> {
    let mut signals = Signals::listen().map_err(DaemonError::Loop)?;
    let exporter = Exporter::install()?;
    host::tell(posture);
    let control = bind_control(config, places).await?;
    let metrics = bind_metrics(config).await?;
    let addresses: Vec<_> = control.addresses().iter().map(ToString::to_string).collect();
    let artifacts = origin.as_ref().map(|origin| origin.artifacts().clone());
    let (worker, mut ended, shells) =
        start::start(config, places, images, host, origin).map_err(DaemonError::Worker)?;
    let around = Around::start(&worker, control, metrics, exporter, artifacts);
    // The first answer: from here on readiness is true, and systemd is told.
    around.pulse.beat(&worker).await;
    service::ready();
    let beating = tokio::spawn(Arc::clone(&around.pulse).keep(worker.clone()));
    tracing::info!(worker = places.worker_id, control = addresses.join(", "), "ready");
    let end = loop {
        tokio::select! {
            end = &mut ended => break match end {
                Ok(_) => {
                    tracing::info!("the worker has ended");
                    service::stopping();
                    Ok(DaemonEnd::Terminated)
                }
                Err(error) => Err(DaemonError::Lost(error)),
            },
            asked = signals.next() => match asked {
                Asked::Renew => around.renew(),
                Asked::Drain(name) => {
                    tracing::info!(signal = name, "draining; a second signal ends everything at once");
                    service::stopping();
                    drain(worker.clone());
                }
                Asked::End(number) => {
                    tracing::warn!(signal = number, "ended at once");
                    break Ok(DaemonEnd::Killed(number));
                }
            },
        }
    };
    beating.abort();
    let patient = matches!(end, Ok(DaemonEnd::Terminated));
    // Shells that are left then end with this process.
    let closing = timeout(SHELLS_PATIENCE, shells.close());
    let _ = tokio::join!(closing, around.stop(patient));
    end
}

/// Asks for the drain from a task of its own: a loop that hangs must not keep a second signal from being heard.
fn drain(worker: WorkerHandle) {
    tokio::spawn(async move { worker.drain().await });
}

async fn bind_control(config: &Config, places: &Places) -> Result<ControlServer, DaemonError> {
    if let Some(folder) = places.unix_socket.as_ref().and_then(|path| path.parent()) {
        std::fs::create_dir_all(folder)
            .map_err(|source| DaemonError::Folder { path: folder.to_owned(), source })?;
    }
    let tcp = match config.control.tcp {
        Listen::Off => Vec::new(),
        Listen::Address(address) => vec![address],
    };
    let spec = ControlSpec {
        tcp,
        unix: places.unix_socket.clone().into_iter().collect(),
        identity: places.keys.clone(),
        limits: ControlLimits::default(),
    };
    Ok(ControlServer::bind(spec).await?)
}

async fn bind_metrics(config: &Config) -> Result<Option<TcpListener>, DaemonError> {
    let Listen::Address(address) = config.metrics.listen else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| DaemonError::Metrics { address, source })?;
    // With port 0 only this line tells where the metrics are.
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    Ok(Some(listener))
}

impl Around {
    fn start(
        worker: &WorkerHandle,
        control: ControlServer,
        metrics: Option<TcpListener>,
        exporter: Exporter,
        artifacts: Option<Artifacts>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let pulse = Arc::new(Pulse::new());
        let renewal = control.renewal();
        let control = tokio::spawn(control.serve(worker.clone(), until(stopped.clone())));
        tokio::spawn(upkeep(exporter.clone(), stopped.clone()));
        let endpoint = metrics.map(|listener| {
            let endpoint = Endpoint::new(exporter, Arc::clone(&pulse), artifacts);
            tokio::spawn(endpoint.serve(listener, until(stopped)))
        });
        Self { control, endpoint, stop, renewal, pulse }
    }

    fn renew(&self) {
        match self.renewal.renew() {
            Ok(()) => tracing::info!("the certificates were read again"),
            Err(error) => {
                tracing::error!(error = with_causes(&error), "the certificates stay as they were");
            }
        }
    }

    /// Ends everything; calls under way may finish if there is time.
    async fn stop(self, patient: bool) {
        // Nobody listens: it has stopped already.
        let _ = self.stop.send(true);
        if patient {
            // Whoever still reads an answer by then is cut.
            let _ = timeout(END_PATIENCE, self.control).await;
        }
        if let Some(endpoint) = self.endpoint {
            endpoint.abort();
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // The sender is gone: that is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn upkeep(exporter: Exporter, stopped: watch::Receiver<bool>) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    let stop = until(stopped);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = interval.tick() => exporter.upkeep(),
        }
    }
}
