//! A worker in three lines of test code: `votive-agent` as an operator runs it, driven by `votive` over its control socket.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use votive_control::address::Address;
use votive_control::client::{Client, ClientSpec};
use votive_control::tls::Identity;

use super::console::Console;
use super::home::{agent, votive};
use super::leftovers::microvms_of;
use super::process::Captured;
use super::version::Code;
use super::{Ended, Version, bounded, images};

mod answer;
mod invocation;
mod watch;

pub use answer::Environment;
pub use invocation::{Invocation, Invoked};
pub use watch::{Watch, now, seconds_of};

/// How long anything may take that is under way. Emulated on a crowded host, an agent's start takes seconds.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// How much of an agent's log is shown when its test failed, in lines.
const LOG_SHOWN: usize = 60;
const CGROUPS: &str = "/sys/fs/cgroup";

thread_local! {
    /// The logs of agents that this thread's test left.
    static LOGS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What agents logged that were dropped since the last call, by this thread's test.
#[must_use]
pub fn logs() -> String {
    LOGS.take()
}

/// A worker: an agent with a configuration, keys, a state folder and a control group of its own.
#[derive(Debug)]
pub struct Worker {
    folder: TempDir,
    keys: PathBuf,
    group: PathBuf,
    console: Option<Console>,
    agent: Option<Captured>,
    pid: Pid,
    metrics: String,
}

impl Worker {
    /// Starts one that leases itself, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start() -> Result<Self> {
        Self::with(&[])
    }

    /// The same with fields of the configuration as TOML writes them, such as `("lease.duration", "\"20s\"")`.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn with(settings: &[(&str, &str)]) -> Result<Self> {
        let mut worker = Self::new()?;
        worker.console = Some(Console::new(&images()?.join("bin/votive-vmm"))?);
        worker.configure(settings)?;
        worker.begin()?;
        Ok(worker)
    }

    /// The same whose guests have no console and one more word on their kernel's command line or none: what an operator has.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn bare(settings: &[(&str, &str)]) -> Result<Self> {
        let mut worker = Self::new()?;
        worker.configure(settings)?;
        worker.begin()?;
        Ok(worker)
    }

    /// The same whose guests' kernels are told `words`.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn with_kernel_words(words: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let mut worker = Self::new()?;
        let console = Console::new(&images()?.join("bin/votive-vmm"))?;
        console.words(words)?;
        worker.console = Some(console);
        worker.configure(settings)?;
        worker.begin()?;
        Ok(worker)
    }

    /// One that is not started.
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new().prefix("votive").tempdir()?;
        std::fs::create_dir(folder.path().join("tmp"))?;
        let keys = folder.path().join("keys");
        make_keys(&keys)?;
        let group = Path::new(CGROUPS).join(format!("e2e-worker-{}-{number}", std::process::id()));
        Ok(Self {
            keys,
            folder,
            group,
            console: None,
            agent: None,
            pid: rustix::process::getpid(),
            metrics: String::new(),
        })
    }

    /// Writes the configuration: what every worker here has, with `settings` in place of it.
    fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let root = self.folder.path().display();
        let vmm = match &self.console {
            Some(console) => console.vmm(),
            None => images()?.join("bin/votive-vmm"),
        };
        // What stands in for the VMM becomes the VMM, which no jail has a path of.
        let jail = if self.console.is_some() { "off" } else { "required" };
        let text = |value: &dyn std::fmt::Display| format!("\"{value}\"");
        let mut fields = BTreeMap::from([
            ("worker.id", text(&"e2e")),
            ("worker.images", text(&images()?.display())),
            ("worker.state_dir", text(&format!("{root}/state"))),
            ("worker.vmm", text(&vmm.display())),
            ("capacity.memory", text(&"64GiB")),
            ("control.unix_socket", text(&format!("{root}/s"))),
            ("control.keys", text(&self.keys.join("worker").display())),
            ("environments.cgroup_root", text(&self.group.display())),
            ("environments.cgroups", text(&"required")),
            ("isolation.jail", text(&jail)),
            // In an emulated machine on a crowded host nothing is hung that takes a second.
            ("environments.hang_timeout", text(&"10s")),
            // Whatever host the tests run on.
            ("host.posture", text(&"warn")),
            ("metrics.listen", text(&"127.0.0.1:0")),
            ("log.format", text(&"json")),
            ("log.level", text(&"info,votive_agent=debug")),
        ]);
        for (name, value) in settings {
            fields.insert(name, (*value).to_owned());
        }
        let lines = fields.iter().fold(String::new(), |mut lines, (name, value)| {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{name} = {value}");
            lines
        });
        Ok(std::fs::write(self.folder.path().join("agent.toml"), lines)?)
    }

    /// Starts the agent, for the first time or again, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn begin(&mut self) -> Result<()> {
        let captured = Captured::spawn(&mut self.command()?)?;
        self.pid = Pid::from_child(&captured.child);
        self.agent = Some(captured);
        let line = self.await_words(&["serving /metrics"])?;
        let (_, address) = line.split_once("127.0.0.1:").context("no address")?;
        let port = address.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        self.metrics = format!("127.0.0.1:{port}");
        // As JSON or as text.
        self.await_words(&["\"ready\"", " ready "])?;
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(agent()?);
        command.arg("--config").arg(self.folder.path().join("agent.toml"));
        command.env("TMPDIR", self.folder.path().join("tmp"));
        Ok(command)
    }

    /// Runs an agent with this configuration that is not expected to serve.
    ///
    /// # Errors
    /// It does.
    pub fn run_again(&self) -> Result<Ended> {
        bounded(&mut self.command()?, PATIENCE)
    }

    /// The agent's process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The control groups of its environments.
    ///
    /// # Errors
    /// There are none.
    pub fn groups(&self) -> Result<Vec<PathBuf>> {
        let groups = self.group.join("votive-environments");
        Ok(folders(&groups)?.iter().map(|name| groups.join(name)).collect())
    }

    /// A path in the worker's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder with the keys of all roles.
    #[must_use]
    pub fn keys(&self) -> &Path {
        &self.keys
    }

    /// The processes of its microVMs.
    #[must_use]
    pub fn microvms(&self) -> Vec<Pid> {
        microvms_of(self.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Everything that the agent has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        self.agent.as_ref().map(Captured::said).unwrap_or_default()
    }

    /// Waits for a line of the log that holds one of these, and gives it.
    ///
    /// # Errors
    /// There is none in time, or the agent has ended.
    pub fn await_words(&mut self, words: &[&str]) -> Result<String> {
        let agent = self.agent.as_mut().context("no agent")?;
        let started = Instant::now();
        loop {
            let said = agent.said();
            if let Some(line) = said.lines().find(|line| words.iter().any(|w| line.contains(w))) {
                return Ok(line.to_owned());
            }
            if let Some(status) = agent.child.try_wait()? {
                bail!("the agent ended ({status}) before it logged {words:?}");
            }
            ensure!(started.elapsed() < PATIENCE, "the agent did not log {words:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until `found` gives something.
    ///
    /// # Errors
    /// Its own, or that it takes too long.
    pub fn await_some<T>(
        &self,
        what: &str,
        mut found: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = found()? {
                return Ok(found);
            }
            ensure!(started.elapsed() < PATIENCE, "{what} did not come");
            std::thread::sleep(LOOK);
        }
    }

    /// `votive` with `words`, told which worker, and as an operator.
    ///
    /// # Errors
    /// No images.
    pub fn votive(&self, words: &[&str]) -> Result<Command> {
        let place = format!("unix:{}", self.path("s").display());
        self.votive_elsewhere(words, &place, "operator")
    }

    /// The same with another address of the worker, and in another role.
    ///
    /// # Errors
    /// No images.
    pub fn votive_elsewhere(&self, words: &[&str], place: &str, role: &str) -> Result<Command> {
        let mut command = Command::new(votive()?);
        command.args(words).args(["--json", "--connect", place]);
        command.arg("--identity").arg(self.keys.join(role));
        Ok(command)
    }

    /// What `votive` with `words` answers.
    ///
    /// # Errors
    /// It refuses.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let ended = self.attempt(words)?;
        ensure!(ended.status.success(), "votive {words:?}: {}: {}", ended.status, ended.stderr);
        serde_json::from_slice(&ended.stdout).with_context(|| format!("votive {words:?}"))
    }

    /// The same, however it ends.
    ///
    /// # Errors
    /// It does not end.
    pub fn attempt(&self, words: &[&str]) -> Result<Ended> {
        bounded(&mut self.votive(words)?, PATIENCE)
    }

    /// A connection to the worker as an operator, for many calls at once.
    ///
    /// # Errors
    /// There is none to be had.
    pub async fn connect(&self) -> Result<Client> {
        let identity = Identity::read(&self.keys.join("operator"))?;
        let spec =
            ClientSpec { address: Address::Unix { path: self.path("s") }, server_name: None };
        Ok(Client::connect(&spec, &identity).await?)
    }

    /// Registers a function version; gives its id.
    ///
    /// # Errors
    /// It is refused.
    pub fn register(&self, version: &Version) -> Result<String> {
        let mut command = self.votive(&["functions", "register", "--name", &version.name])?;
        command.args(&version.words);
        match &version.code {
            Code::Zip(zip) => command.arg("--zip").arg(zip),
            Code::Artifact(identity) => command.args(["--artifact", identity]),
        };
        for layer in &version.layers {
            command.arg("--layer").arg(layer);
        }
        command.args(["--memory", &version.memory_mb.to_string()]);
        command.args(["--timeout", &format!("{}s", version.timeout_s)]);
        // Emulated on a crowded host, the 10 s that a function has elsewhere are not enough for Python.
        command.args(["--init-timeout", "60s"]);
        let ended = bounded(&mut command, PATIENCE)?;
        ensure!(ended.status.success(), "register: {}", ended.stderr);
        let answer: Value = serde_json::from_slice(&ended.stdout)?;
        Ok(answer["id"].as_str().context("no id")?.to_owned())
    }

    /// Invokes a version and waits for the answer.
    ///
    /// # Errors
    /// No answer came. A function that fails is no error here.
    pub fn invoke(&self, version: &str, event: &Value) -> Result<Invoked> {
        self.spawn(version, event, &[])?.answer()
    }

    /// Begins an invocation with further arguments of `votive invoke`.
    ///
    /// # Errors
    /// `votive` cannot be started.
    pub fn spawn(&self, version: &str, event: &Value, words: &[&str]) -> Result<Invocation> {
        let mut command = self.votive(&["invoke", version, "--log-tail"])?;
        command.args(["--event", &event.to_string()]).args(words);
        Invocation::begin(&mut command)
    }

    /// Every environment.
    ///
    /// # Errors
    /// The worker's.
    pub fn environments(&self) -> Result<Vec<Environment>> {
        let all = self.ask(&["environments", "list"])?;
        all.as_array().context("no list")?.iter().map(Environment::read).collect()
    }

    /// Waits until `enough` is true of the environments, and gives them.
    ///
    /// # Errors
    /// It never is.
    pub fn await_environments(
        &self,
        enough: impl Fn(&[Environment]) -> bool,
    ) -> Result<Vec<Environment>> {
        let mut last = Vec::new();
        let found = self.await_some("environments", || {
            last = self.environments()?;
            Ok(enough(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("there are {last:#?}"))
    }

    /// Watches what happens from now on, with further arguments of `votive watch`.
    ///
    /// # Errors
    /// `votive` cannot be started, or does not connect.
    pub fn watch(&self, words: &[&str]) -> Result<Watch> {
        Watch::begin(self.votive(&["watch"])?.args(words))
    }

    /// The value of a metric's series; 0 if there is no such series yet.
    ///
    /// # Errors
    /// The endpoint's.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let (status, text) = self.get("/metrics")?;
        ensure!(status == 200, "status {status}");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0.0), str::parse)?)
    }

    /// What is left of the lease.
    ///
    /// # Errors
    /// The worker has none.
    pub fn remaining(&self) -> Result<Duration> {
        let status = self.ask(&["status"])?;
        let remaining = status["lease"]["remaining"].as_str().context("no lease")?;
        Ok(Duration::try_from_secs_f64(remaining.trim_end_matches('s').parse()?)?)
    }

    /// What guests' kernels said that died.
    #[must_use]
    pub fn consoles(&self) -> String {
        self.console.as_ref().map(Console::last_words).unwrap_or_default()
    }

    /// Status and body of a path of the metrics endpoint.
    ///
    /// # Errors
    /// The connection's.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Waits for the agent's end.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait(&mut self) -> Result<Ended> {
        let ended = self.agent.take().context("no agent")?.wait(PATIENCE)?;
        remember(&ended.stderr);
        Ok(ended)
    }

    /// Has the worker drain as an orchestrator does, waits for the agent's end, and checks that nothing is left.
    ///
    /// # Errors
    /// It fails, or leaves something.
    pub fn drain(mut self) -> Result<()> {
        let lease = self.ask(&["drain"])?;
        // With nothing under way the drain is over at once.
        let state = lease["state"].as_str().unwrap_or_default();
        ensure!(["DRAINING", "TERMINATING", "TERMINATED"].contains(&state), "{lease}");
        let ended = self.wait()?;
        ensure!(ended.status.code() == Some(0), "{}", ended.status);
        self.check_leftovers()
    }

    /// Fails if an agent that ended by itself left a process, a temporary file, a socket, a control group or a file in its
    /// state folder that is not to outlive it.
    ///
    /// # Errors
    /// What is left.
    pub fn check_leftovers(&self) -> Result<()> {
        let microvms = self.microvms();
        ensure!(microvms.is_empty(), "microVMs are left: {microvms:?}");
        let files = names(&self.path("tmp"))?;
        ensure!(files.is_empty(), "temporary files are left: {files:?}");
        ensure!(!self.path("s").exists(), "the control socket's file is left");
        let sockets = std::fs::read_to_string("/proc/net/unix")?;
        let folder = self.folder.path().to_string_lossy().into_owned();
        let socket = sockets.lines().find(|line| line.contains(&folder));
        ensure!(socket.is_none(), "a socket is left: {socket:?}");
        let groups = self.group.join("votive-environments");
        let groups = if groups.exists() { folders(&groups)? } else { Vec::new() };
        ensure!(groups.is_empty(), "control groups are left: {groups:?}");
        let mut state = names(&self.path("state"))?;
        state.retain(|name| !["cache", "images", "lease", "lock"].contains(&name.as_str()));
        ensure!(state.is_empty(), "the state folder holds {state:?}");
        let mut packed = names(&self.path("state/images"))?;
        packed.retain(|name| !name.ends_with(".erofs") && !name.ends_with(".sha256"));
        ensure!(packed.is_empty(), "the folder of images holds {packed:?}");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // It may be stopped, or gone; its microVMs end with it.
            let _ = agent.child.kill();
            let _ = agent.child.wait();
            remember(&agent.said());
        }
        if let Some(console) = &self.console {
            console.remember_all();
        }
        // A group that is still there is in the way of nobody.
        let groups = self.group.join("votive-environments");
        for group in folders(&groups).unwrap_or_default() {
            let _ = std::fs::remove_dir(groups.join(group));
        }
        let _ = std::fs::remove_dir(groups);
        let _ = std::fs::remove_dir(&self.group);
    }
}

fn remember(log: &str) {
    let lines: Vec<_> = log.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(LOG_SHOWN)..).unwrap_or_default();
    let text = format!("--- the agent's log\n{}\n--- its end\n", shown.join("\n"));
    LOGS.with_borrow_mut(|logs| logs.push_str(&text));
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn folders(folder: &Path) -> Result<Vec<String>> {
    let mut names = names(folder)?;
    names.retain(|name| folder.join(name).is_dir());
    Ok(names)
}

/// Makes keys for all roles in a new folder, by `votive keys`.
fn make_keys(folder: &Path) -> Result<()> {
    let mut command = Command::new(votive()?);
    let words = ["keys", "init", "--name", "127.0.0.1"];
    let ended = bounded(command.args(words).arg(folder), PATIENCE)?;
    ensure!(ended.status.success(), "votive keys init: {}", ended.stderr);
    Ok(())
}
