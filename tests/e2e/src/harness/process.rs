//! A child process whose run is bounded.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

/// How often a child is looked at. It is no synchronisation: a child that ends later is found later.
const LOOK: Duration = Duration::from_millis(10);

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

/// A child whose output is being read.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) child: Child,
    stdout: Stream,
    stderr: Stream,
    started: Instant,
}

/// What came out of a pipe so far, and the thread that reads on.
#[derive(Debug)]
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Captured {
    /// Starts a command.
    pub(super) fn spawn(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdout = Stream::read(child.stdout.take());
        let stderr = Stream::read(child.stderr.take());
        Ok(Self { child, stdout, stderr, started: Instant::now() })
    }

    /// Whether its standard error holds `words` by now.
    pub(super) fn has_said(&self, words: &str) -> bool {
        String::from_utf8_lossy(&lock(&self.stderr.bytes)).contains(words)
    }

    /// What its standard output holds by now.
    pub(super) fn printed(&self) -> String {
        String::from_utf8_lossy(&lock(&self.stdout.bytes)).into_owned()
    }

    /// What its standard error holds by now.
    pub(super) fn said(&self) -> String {
        String::from_utf8_lossy(&lock(&self.stderr.bytes)).into_owned()
    }

    /// Waits for its end; kills it, and fails, after `limit`.
    pub(super) fn wait(mut self, limit: Duration) -> Result<Ended> {
        let waiting = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if waiting.elapsed() > limit {
                self.child.kill()?;
                self.child.wait()?;
                let said = String::from_utf8_lossy(&self.stderr.finish()).into_owned();
                bail!("it did not end within {} s; it said: {said}", limit.as_secs());
            }
            std::thread::sleep(LOOK);
        };
        let took = self.started.elapsed();
        let stdout = self.stdout.finish();
        let stderr = String::from_utf8_lossy(&self.stderr.finish()).into_owned();
        Ok(Ended { status, stdout, stderr, took })
    }
}

impl Stream {
    fn read(source: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let Some(mut source) = source else { return };
            let mut piece = [0; 16 * 1024];
            // A pipe that breaks ends what was read.
            while let Ok(len @ 1..) = source.read(&mut piece) {
                lock(&kept).extend_from_slice(&piece[..len]);
            }
        });
        Self { bytes, reader }
    }

    fn finish(self) -> Vec<u8> {
        // A reader that panicked has read what it has read.
        let _ = self.reader.join();
        std::mem::take(&mut *lock(&self.bytes))
    }
}

fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The processor time that the host gave a VMM's vCPUs so far, in ticks of 10 ms.
///
/// # Errors
/// It is gone.
pub fn vcpu_ticks(process: Pid) -> Result<u64> {
    let mut ticks = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero()))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let (name, fields) = stat.rsplit_once(')').context("no name")?;
        if name.contains("(vcpu") {
            let fields: Vec<&str> = fields.split_whitespace().collect();
            for field in fields.get(11..13).context("no times")? {
                ticks += field.parse::<u64>()?;
            }
        }
    }
    Ok(ticks)
}

/// Runs a command to its end, within `limit`.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub fn bounded(command: &mut Command, limit: Duration) -> Result<Ended> {
    Captured::spawn(command)?.wait(limit)
}
