//! The configuration of `votive-agent`: one TOML file.
//!
//! The documentation comments of [`Config`] and what it holds are the only text about fields that there is: `--help`, the man page and
//! `docs/configuration.md` are made of them by [`mod@reference`]. [`parse`] reads the text, [`Config::problems`] judges the values,
//! [`check`] looks at the files that they name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{
    ARTIFACT_IDLE_TIMEOUT, ARTIFACT_READ_TIMEOUT, HANG_TIMEOUT, IDLE_TIMEOUT_DEFAULT, LEASE_MAX,
    RESERVATION_LIFETIME, TIMEOUT_MAX_S,
};
use crate::microvm::{DeviceLimits, QueueLimits};
use crate::network::addresses::PRIVATE;
use crate::posture::Flaw;
use value::{Bandwidth, HumanDuration, HumanSize, Listen, Operations, SocketPath, Users};

pub mod check;
mod network;
pub mod parse;
pub mod place;
pub mod reference;
mod rules;
pub mod value;

#[cfg(test)]
mod tests;

/// Where the configuration is unless the command line names another place.
pub const DEFAULT_FILE: &str = "/etc/votive/votive-agent.toml";
/// A configuration that is longer than this is none.
pub const FILE_MAX: u64 = 1024 * 1024;
/// The vCPUs of the largest function (CONTRACT 4.6).
pub(crate) const VCPUS_OF_LARGEST: u32 = 6;

/// The whole file. A field that is left out has its default; a field that is not listed here is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who the worker is and where its files are.
    pub worker: Worker,
    /// How long the worker lives.
    pub lease: Lease,
    /// What execution environments may take together.
    pub capacity: Capacity,
    /// How long execution environments are kept and waited for.
    pub environments: Environments,
    /// What stands between a VMM and the host.
    pub isolation: Isolation,
    /// Where code that is registered as an artifact comes from, and how it is served to microVMs while they run.
    pub artifacts: Artifacts,
    /// What functions reach beyond their microVMs. Nobody reaches a microVM from outside, whatever is set here (docs/network.md).
    pub network: Network,
    /// What the devices of each microVM may move, by token buckets: RATE a second, and after a rest up to BURST at once, or a tenth of
    /// a second's worth (docs/devices.md). What is left out has no limit.
    pub limits: Limits,
    /// The socket that the worker is driven by: gRPC over mutual TLS 1.3 with AES-256-GCM.
    pub control: Control,
    /// Metrics and health over plain HTTP, without authentication.
    pub metrics: Metrics,
    /// The worker's own log, on standard error. It never holds payloads, environment variables, keys or credentials.
    pub log: Log,
    /// What is asked of the host.
    pub host: Host,
}

/// Who the worker is and where its files are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// The worker's name in its status, events and logs: 1 to 64 letters, digits, '.', '-' or '_'. Without it, the host's name.
    pub id: Option<String>,
    /// The folder that outlives the process: the lease and what the worker made of functions' code. One agent at a time uses
    /// it; nobody but the agent's user may enter it. Without it, what systemd gives (StateDirectory=), else /var/lib/votive for
    /// root, else votive in $XDG_STATE_HOME or ~/.local/state.
    #[schemars(extend("format" = "path"))]
    pub state_dir: Option<PathBuf>,
    /// The folder with vmlinux, init.cpio and the runtimes' images. Without it, $VOTIVE_IMAGES, else what cargo xtask image built
    /// last.
    #[schemars(extend("format" = "path"))]
    pub images: Option<PathBuf>,
    /// The VMM's program. Without it, bin/votive-vmm in the folder with images.
    #[schemars(extend("format" = "path"))]
    pub vmm: Option<PathBuf>,
}

/// How long the worker lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lease {
    /// Who gives the lease.
    pub source: LeaseSource,
    /// How long a self-issued lease lasts: 1s to 14h. At its end every microVM is gone and the process ends with exit code 0.
    pub duration: HumanDuration,
    /// The longest invocation that must still end inside a self-issued lease: 1s to 15m. It decides when the drain begins.
    pub longest_invocation: HumanDuration,
}

/// Who gives the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseSource {
    /// the worker itself, when it starts: one machine is all there is
    SelfIssued,
    /// an orchestrator, over the control socket; until then the worker takes no invocation
    Orchestrator,
}

/// What execution environments may take together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Capacity {
    /// The most environments at once: 1 to 10000.
    pub environments: u32,
    /// The memory of all microVMs together, such as 64GiB: at least 192MiB. Without it, three quarters of the host's memory.
    pub memory: Option<HumanSize>,
    /// The vCPUs of all microVMs together: 1 to 60000. Without it, as many as the environments have; between invocations no vCPU
    /// runs.
    pub vcpus: Option<u32>,
    /// The most environments of one function version that names no limit of its own: 1 to 10000.
    pub environments_per_function_version: u32,
    /// The most microVMs that boot at once: 1 to 10000. Further ones wait for their turn, so that a burst of starts takes no longer
    /// than one after another would, and one turn is kept for environments that a caller waits for. Without it, two for each processor.
    pub boots: Option<u32>,
}

/// How long execution environments are kept and waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Environments {
    /// How long an environment on demand waits for its next invocation before it is ended: 1s to 14h.
    pub idle_timeout: HumanDuration,
    /// How long a reservation is good: 100ms to 1m.
    pub reservation_lifetime: HumanDuration,
    /// How long a VMM may leave a question unanswered before it counts as hung and is replaced: 100ms to 1m. With the default a hang
    /// is known within a second; on a host that is emulated or far overcommitted it finds hangs where there are none.
    pub hang_timeout: HumanDuration,
    /// Whether each microVM gets a control group of its own, which bounds its CPU time, its memory and its processes.
    pub cgroups: Cgroups,
    /// The control group (version 2) that the microVMs' groups are made in; the agent must be allowed to write it. Without it,
    /// the one that the agent was started in.
    #[schemars(extend("format" = "path"))]
    pub cgroup_root: Option<PathBuf>,
}

/// Whether microVMs get control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cgroups {
    /// yes, where the host allows it; where not, the log says so once
    Auto,
    /// yes; where the host does not allow it, the worker does not start
    Required,
    /// no
    Off,
}

/// What stands between a VMM and the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// Whether each VMM runs in a jail of its own (docs/jail.md), which takes root, or CAP_SETUID and CAP_SETGID.
    pub jail: JailMode,
    /// The users of the jails, each one's at a time: more than capacity.environments, and nobody else's on this host.
    pub uids: Users,
    /// The program that makes jails. Without it, bin/votive-jailer in the folder with images.
    #[schemars(extend("format" = "path"))]
    pub jailer: Option<PathBuf>,
    /// How many VMMs are started and jailed ahead for each of the four memory sizes that environments were started with last:
    /// 0 to 64. An environment that finds one starts sooner. Each takes one of the users, and little memory while it waits.
    pub shells: u32,
    /// What each microVM may read and write of a disk of the host, as a line of the kernel's io.max:
    /// "8:0 rbps=200000000 wbps=100000000". Without it, or without the controller io, only the limits of its own disks hold.
    pub io_max: Option<String>,
}

/// Whether VMMs are jailed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JailMode {
    /// yes, where a jail can be made; where not, the log says so once
    #[default]
    Auto,
    /// yes; where no jail can be made, the worker does not start
    Required,
    /// no
    Off,
}

/// Where artifacts come from, and how they are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Artifacts {
    /// The store that votive image create writes: a folder, or s3://BUCKET/PREFIX, whose endpoint and credentials come from the
    /// variables that AWS's tools read. Without it, no artifact can be registered.
    pub store: Option<String>,
    /// The key service that unwraps artifacts' keys, as votive image --keys takes it: the folder of the embedded one, which records
    /// each use in it, or awskms:KEY for AWS KMS's API (docs/keys.md).
    pub keys: Option<String>,
    /// The folder of the cache of encrypted chunks. Without it, cache in worker.state_dir. One agent at a time uses it.
    #[schemars(extend("format" = "path"))]
    pub cache: Option<PathBuf>,
    /// What the cache may take of its disk: 16MiB to 1024TiB.
    pub cache_size: HumanSize,
    /// The memory of all images that microVMs read, shared by those that read the same: at least 64MiB. An absent chunk that finds
    /// no room is an I/O error. Without it, an eighth of the host's memory. It is not part of capacity.memory.
    pub memory: Option<HumanSize>,
    /// How long an image stays in memory after its last environment: 1s to 14h. It makes room sooner if others need it.
    pub idle_timeout: HumanDuration,
    /// How long a guest's read may wait for a chunk before it is an I/O error: 1s to 9m.
    pub read_timeout: HumanDuration,
}

/// What functions reach beyond their microVMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// How packets of microVMs leave the host.
    pub egress: Egress,
    /// The link that they leave by with egress "nat". Without it, that of the default route.
    pub uplink: Option<String>,
    /// The bridge that they leave by with egress "bridge".
    pub bridge: Option<String>,
    /// The next hop on the bridge.
    pub gateway: Option<String>,
    /// The addresses of microVMs' ends on the host, one for each: a range of at most 24 bits behind its prefix and at least 3. With
    /// egress "nat" nobody else sees them; with "bridge" they are those of the bridge's network that are kept for microVMs. The host drops what
    /// anybody else sends from them.
    pub links: String,
    /// The servers that resolve names, at most three IPv4 addresses. Their port 53 is reached also if deny has them.
    pub dns: Vec<String>,
    /// Ranges that no microVM reaches, at most 256. Never reached are the host's own addresses, other microVMs, and what is
    /// link-local (metadata services), loopback, multicast or broadcast.
    pub deny: Vec<String>,
    /// Ranges that microVMs reach although deny has them, at most 256.
    pub allow: Vec<String>,
    /// How many networks are made ahead of need: 0 to 256.
    pub ready: u32,
}

/// How packets of microVMs leave the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// not at all: microVMs have no network device
    None,
    /// forwarded, with the address of the host
    Nat,
    /// as frames on a bridge of the host's, with an address of links
    Bridge,
}

/// What the devices of each microVM may move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes per second of each disk: the runtime's, the code's, the layers' and /tmp. "100MiB" or "100MiB/1GiB".
    pub disk_bandwidth: Option<Bandwidth>,
    /// Requests per second of each disk. "5000" or "5000/20000".
    pub disk_operations: Option<Operations>,
    /// Bytes per second of the network, in each direction.
    pub network_bandwidth: Option<Bandwidth>,
    /// Packets per second of the network, in each direction.
    pub network_packets: Option<Operations>,
}

impl Limits {
    /// The same as a microVM takes it.
    #[must_use]
    pub fn of_devices(&self) -> DeviceLimits {
        let queue = |bandwidth: Option<Bandwidth>, operations: Option<Operations>| QueueLimits {
            bandwidth: bandwidth.map(|it| it.0),
            operations: operations.map(|it| it.0),
        };
        DeviceLimits {
            disk: queue(self.disk_bandwidth, self.disk_operations),
            network: queue(self.network_bandwidth, self.network_packets),
        }
    }
}

/// The socket that the worker is driven by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// The path of the Unix socket, or "off". Without it, control.sock in what systemd gives (RuntimeDirectory=), else in
    /// /run/votive for root, else in votive in $XDG_RUNTIME_DIR. TLS decides who may do what, not the socket's permissions.
    pub unix_socket: Option<SocketPath>,
    /// The address of the TCP socket, such as "192.0.2.7:9443", or "off".
    pub tcp: Listen,
    /// The folder with ca.pem, cert.pem and key.pem, which votive keys makes. Without it, keys/worker in /etc/votive. SIGHUP makes
    /// the agent read it again: new connections get the new certificate.
    #[schemars(extend("format" = "path"))]
    pub keys: Option<PathBuf>,
}

/// Metrics and health over plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// The address that serves /metrics, /healthz and /readyz, or "off". Whoever reaches it reads names of functions, and nothing
    /// else of tenants.
    pub listen: Listen,
}

/// The worker's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged: off, error, warn, info, debug, trace, or directives such as "info,votive_agent::worker=debug". $VOTIVE_LOG
    /// replaces it.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// text; under systemd with journald's priorities in front, and without the time, which journald knows
    Text,
    /// one JSON object a line
    Json,
}

/// What is asked of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// What to do on a host on which tenants could learn of each other, or what they hold could outlive them. The metric
    /// votive_host_flaws tells each flaw.
    pub posture: OnFlaw,
    /// Flaws that this host may have although posture is refuse.
    pub accept: Vec<Flaw>,
}

/// What to do on a host with a flaw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFlaw {
    /// do not start, unless accept names it
    #[default]
    Refuse,
    /// tell each flaw in the log and go on
    Warn,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            source: LeaseSource::SelfIssued,
            duration: HumanDuration(LEASE_MAX),
            longest_invocation: HumanDuration(Duration::from_secs(u64::from(TIMEOUT_MAX_S))),
        }
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            environments: 1000,
            memory: None,
            vcpus: None,
            environments_per_function_version: 1000,
            boots: None,
        }
    }
}

impl Default for Environments {
    fn default() -> Self {
        Self {
            idle_timeout: HumanDuration(IDLE_TIMEOUT_DEFAULT),
            reservation_lifetime: HumanDuration(RESERVATION_LIFETIME),
            hang_timeout: HumanDuration(HANG_TIMEOUT),
            cgroups: Cgroups::Auto,
            cgroup_root: None,
        }
    }
}

impl Default for Artifacts {
    fn default() -> Self {
        Self {
            store: None,
            keys: None,
            cache: None,
            cache_size: HumanSize(8 << 30),
            memory: None,
            idle_timeout: HumanDuration(ARTIFACT_IDLE_TIMEOUT),
            read_timeout: HumanDuration(ARTIFACT_READ_TIMEOUT),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            egress: Egress::None,
            uplink: None,
            bridge: None,
            gateway: None,
            links: String::from("198.18.0.0/16"),
            dns: Vec::new(),
            deny: PRIVATE.iter().map(ToString::to_string).collect(),
            allow: Vec::new(),
            ready: 4,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Listen::Address(([127, 0, 0, 1], 9464).into()) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: String::from("info"), format: LogFormat::Text }
    }
}

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line in the file, if it has one.
    pub line: Option<usize>,
    /// The field, such as `lease.duration`; empty if it is the text itself.
    pub field: String,
    /// The value and what is allowed.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("the configuration {path} cannot be read")]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What it says.
    #[error("the configuration {path} is wrong: {}", list(.problems))]
    Wrong {
        /// Where it is.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    lines.concat()
}

impl Config {
    /// Reads `path`; without one, [`DEFAULT_FILE`] if there is such a file, else every field has its default.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem that was found.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let place = path.unwrap_or(Path::new(DEFAULT_FILE));
        match read_bounded(place) {
            Ok(text) => parse::parse(&text)
                .map_err(|problems| ConfigError::Wrong { path: place.to_owned(), problems }),
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Unreadable { path: place.to_owned(), source }),
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
    }
    Ok(text)
}
