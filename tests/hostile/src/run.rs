//! One case against one VMM: started, fed, watched, ended.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::neighbour::{Neighbour, Served};
use crate::peers::Peers;
use crate::process;
use crate::subject::{Files, Orders, Subject};
use crate::table::{Case, Expected};

/// Beyond a VMM's own deadline, when it is called hung and killed.
const GRACE: Duration = Duration::from_secs(20);
/// Bytes that are kept of what a VMM or its guest says.
const KEPT_BYTES: usize = 64 << 10;
/// What the guest's own lines begin with.
const GUEST_LINE: &str = "hostile: ";

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Got {
    /// The exit code; 128 and the signal's number if a signal ended it; `None` if it had to be killed.
    pub code: Option<i32>,
    /// The last line on standard error, or of the log.
    pub reason: String,
    /// Facts that the guest saw hold.
    pub held: u32,
    /// Facts that it did not.
    pub failed: u32,
    /// Facts that a VMM can be safe without, and that do not hold: it is laxer than votive.
    pub lax: u32,
    /// Whether the guest told the host so.
    pub told: bool,
    /// Those that failed or are lax, in its own words.
    pub wrong: Vec<String>,
    /// Whether a thread of the VMM panicked.
    pub panicked: bool,
    /// Largest resident memory in KiB, guest memory included.
    pub peak_kib: u64,
    /// Processor time in milliseconds, the guest's included.
    pub cpu_ms: u64,
    /// Nanoseconds that its device threads ran while the guest rested after the case, and how long that was: the quietest of its
    /// rests. `None` when nobody heard it rest.
    pub rest_ns: Option<(u64, u64)>,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Bytes in standard error, log and marks.
    pub logged_bytes: u64,
    /// Device operations that the innocent microVM beside it was served meanwhile.
    pub neighbour_operations: u32,
    /// Nanoseconds that its VMM's device threads ran for them.
    pub neighbour_ns: u64,
    /// Calls of the read and write kind that its VMM made for them.
    pub neighbour_calls: u64,
}

/// Runs `case` with `orders` against `subject` beside `neighbour`; `limit` is its deadline.
///
/// # Errors
/// The case could not be run; what a VMM does wrong is in [`Got`].
pub fn run(
    subject: &Subject,
    case: &Case,
    orders: &Orders,
    limit: Duration,
    neighbour: &mut Neighbour,
) -> Result<Got> {
    let files = Files::make()?;
    let peers = Peers::listen(&files.socket())?;
    let mut command = subject.command(&files, orders, limit, Some(peers.sockets(&files)?))?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    peers.set_process(child.id());
    let stdout = child.stdout.take().context("standard output is piped")?;
    let stderr = child.stderr.take().context("standard error is piped")?;
    // The command holds descriptors that only the VMM shall hold.
    drop(command);
    let unread = case.expected == Expected::AnswersUnheard;
    let pid = child.id();
    let said = thread::spawn(move || Said::new(stdout, pid, unread));
    let complained = thread::spawn(move || complaints(stderr));
    let (ended, served) = thread::scope(|scope| {
        let served = scope.spawn(|| neighbour.order());
        let ended = process::wait(&mut child, limit + GRACE);
        (ended, served.join())
    });
    let ended = ended?;
    // A neighbour that is not served is a finding, not a failure of the suite.
    let served = served.ok().and_then(Result::ok).unwrap_or(Served {
        operations: 0,
        device_ns: 0,
        calls: 0,
    });
    let said = said.join().ok().context("the reader of the console")?;
    let (wrong, rest_ns) = said.finish();
    let (complaints, complained_bytes) = complained.join().ok().context("the reader of errors")?;
    let logged = std::fs::read_to_string(files.log()).unwrap_or_default();
    let told = peers.told();
    let usage = told.map_or(ended.usage, |(_, usage)| usage.max(ended.usage));
    let panicked = [&complaints, &logged].iter().any(|text| text.contains("panicked"));
    let last_line = |text: &str| text.lines().next_back().unwrap_or_default().to_owned();
    let reason = if logged.is_empty() { last_line(&complaints) } else { last_line(&logged) };
    Ok(Got {
        code: ended.status.map(|status| {
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
        }),
        reason,
        held: told.map_or(0, |(told, _)| told.held),
        failed: told.map_or(0, |(told, _)| told.failed),
        lax: told.map_or(0, |(told, _)| told.lax),
        told: told.is_some(),
        wrong,
        rest_ns,
        panicked,
        peak_kib: usage.peak_kib,
        cpu_ms: usage.cpu_ms,
        seconds: ended.took.as_secs_f64(),
        logged_bytes: complained_bytes + files.logged_bytes(),
        neighbour_operations: served.operations,
        neighbour_ns: served.device_ns,
        neighbour_calls: served.calls,
    })
}

/// The console: read as it comes, or left unread until the VMM is gone.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// When the guest began to rest, and what the VMM's device threads had run then.
    resting: Option<(Instant, u64)>,
    /// The quietest rest: what they ran in it, and how long it was, in nanoseconds.
    rest_ns: Option<(u64, u64)>,
    unread: Option<ChildStdout>,
}

impl Said {
    fn new(stdout: ChildStdout, pid: u32, unread: bool) -> Self {
        if unread {
            return Self { unread: Some(stdout), ..Self::default() };
        }
        let mut said = Self::default();
        let mut kept = 0;
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            // A flood may stand before it on the same line.
            let Some((_, line)) = line.rsplit_once(GUEST_LINE) else { continue };
            match line {
                "rest" => said.resting = Some((Instant::now(), process::device_ns(pid))),
                "rested" => said.has_rested(process::device_ns(pid)),
                _ if kept < KEPT_BYTES => {
                    kept += line.len();
                    said.lines.push(line.to_owned());
                }
                _ => {}
            }
        }
        said
    }

    fn has_rested(&mut self, ran_ns: u64) {
        let Some((since, before_ns)) = self.resting.take() else { return };
        let long_ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        let rest = (ran_ns.saturating_sub(before_ns), long_ns);
        let share = |(ran, long): (u64, u64)| ran as f64 / long as f64;
        if self.rest_ns.is_none_or(|quietest| share(rest) < share(quietest)) {
            self.rest_ns = Some(rest);
        }
    }

    fn finish(self) -> (Vec<String>, Option<(u64, u64)>) {
        drop(self.unread);
        (self.lines, self.rest_ns)
    }
}

/// What a VMM says on standard error, kept up to a bound, and how much it was.
fn complaints(stderr: ChildStderr) -> (String, u64) {
    let mut text = Vec::new();
    let mut stderr = BufReader::new(stderr);
    // The end is what matters; a VMM that says more than is kept has failed its bound anyway.
    let kept = stderr.by_ref().take(KEPT_BYTES as u64).read_to_end(&mut text).unwrap_or_default();
    let rest = std::io::copy(&mut stderr, &mut std::io::sink()).unwrap_or_default();
    (String::from_utf8_lossy(&text).into_owned(), kept as u64 + rest)
}
