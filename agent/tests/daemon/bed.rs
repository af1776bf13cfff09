//! What an agent needs to start, and what is seen of it from outside: its log, what systemd would be told, its endpoint.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use votive_agent::daemon::lock::StateLock;
use votive_control::keys;

/// How long anything may take that should happen at once, on a host with other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with everything: images, keys, state, configuration.
pub(crate) struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("vot").tempdir().unwrap();
        let bed = Self { folder };
        let images = bed.path("images");
        std::fs::create_dir_all(&images).unwrap();
        std::fs::write(images.join("vmlinux"), b"\x7fELF").unwrap();
        std::fs::write(images.join("init.cpio"), b"070701").unwrap();
        let mut erofs = vec![0; 2048];
        erofs[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        std::fs::write(images.join("provided.erofs"), erofs).unwrap();
        keys::init(&bed.path("keys"), &[], 30, SystemTime::now()).unwrap();
        // A name in this folder, by which a VMM is found.
        symlink(std::env::current_exe().unwrap(), bed.path("vmm")).unwrap();
        bed.configure("");
        bed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration: what every test needs, with `more` after it.
    pub(crate) fn configure(&self, more: &str) {
        let root = self.folder.path().display();
        let text = format!(
            "worker.id = \"test\"\n\
             worker.state_dir = \"{root}/state\"\n\
             worker.images = \"{root}/images\"\n\
             worker.vmm = \"{root}/vmm\"\n\
             control.unix_socket = \"{root}/s\"\n\
             control.keys = \"{root}/keys/worker\"\n\
             metrics.listen = \"127.0.0.1:0\"\n\
             environments.cgroups = \"off\"\n\
             host.posture = \"warn\"\n\
             isolation.jail = \"off\"\n\
             log.format = \"json\"\n{more}"
        );
        std::fs::write(self.path("agent.toml"), text).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_votive-agent"));
        command.arg("--config").arg(self.path("agent.toml")).stdin(Stdio::null());
        for name in ["VOTIVE_LOG", "VOTIVE_IMAGES", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            command.env_remove(name);
        }
        command.env("TMPDIR", self.folder.path());
        command
    }

    /// Runs the agent to its end, which must be near.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Starts an agent and waits until it is ready.
    pub(crate) fn start(&self) -> Agent {
        self.start_with(|_| ())
    }

    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Command)) -> Agent {
        let place = self.path("notify");
        let _ = std::fs::remove_file(&place);
        let notify = UnixDatagram::bind(&place).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = self.command();
        command.env("NOTIFY_SOCKET", &place).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let (lines, log) = mpsc::channel();
        let whole = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&whole);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
                let _ = lines.send(line);
            }
        });
        let mut agent =
            Agent { child, log, whole, notify, told: Vec::new(), metrics: String::new() };
        let line = agent.line("serving /metrics");
        agent.metrics = line["address"].as_str().unwrap().to_owned();
        agent.await_notice("READY=1");
        agent
    }

    /// Takes the state folder's lock, as another agent would.
    pub(crate) fn lock(&self) -> StateLock {
        StateLock::take(&self.path("state")).unwrap()
    }

    /// The processes that name this folder on their command lines: agents and VMMs.
    pub(crate) fn processes(&self) -> Vec<String> {
        let name = self.folder.path().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        processes
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(name))
            .collect()
    }

    /// Waits until there are that many such processes: a start shows a moment after it was asked for.
    pub(crate) fn await_processes(&self, count: usize) {
        let started = Instant::now();
        while self.processes().len() < count {
            assert!(started.elapsed() < PATIENCE, "only: {:?}", self.processes());
            std::thread::yield_now();
        }
    }

    /// Waits until no such process is left. The kernel takes a moment to end those whose parent was killed.
    pub(crate) fn await_nobody(&self) {
        let started = Instant::now();
        while !self.processes().is_empty() {
            assert!(started.elapsed() < PATIENCE, "left: {:?}", self.processes());
            std::thread::yield_now();
        }
    }
}

/// An agent that runs. It is killed when it is dropped.
pub(crate) struct Agent {
    child: Child,
    log: Receiver<String>,
    whole: Arc<Mutex<String>>,
    notify: UnixDatagram,
    told: Vec<String>,
    metrics: String,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        self.whole.lock().unwrap().clone()
    }

    /// Waits for a line of the log whose message begins so.
    pub(crate) fn line(&mut self, message: &str) -> Value {
        loop {
            let Ok(line) = self.log.recv_timeout(PATIENCE) else {
                panic!("no line {message:?} in:\n{}", self.log());
            };
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                return line;
            }
        }
    }

    /// The next thing that systemd is told.
    pub(crate) fn notice(&mut self) -> String {
        let mut buffer = [0; 4096];
        let Ok(len) = self.notify.recv(&mut buffer) else {
            panic!("systemd was told {:?} and nothing more; the log:\n{}", self.told, self.log());
        };
        let text = String::from_utf8(buffer[..len].to_vec()).unwrap().trim_end().to_owned();
        self.told.push(text.clone());
        text
    }

    /// Waits until systemd is told something that begins so.
    pub(crate) fn await_notice(&mut self, text: &str) -> String {
        loop {
            let notice = self.notice();
            if notice.starts_with(text) {
                return notice;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; gives its exit code, or minus the number of the signal that killed it.
    pub(crate) fn wait(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or_else(|| -status.signal().unwrap());
            }
            assert!(started.elapsed() < PATIENCE, "it does not end; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.metrics).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request as it is; gives everything that comes back until the connection ends.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The endpoint may have had enough before the end.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    /// Asks for a path; gives status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let answer = self
            .raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The value of a series at this moment.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }
}
