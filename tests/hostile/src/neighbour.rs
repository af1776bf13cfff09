//! The innocent microVM beside a hostile one: served as ever, or not.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use votive_hostile_guest::layout::{ORDER_OPERATIONS, PORT_ORDERS};

use crate::peers::path_of;
use crate::process;
use crate::subject::{Files, Orders, Subject};

/// How long it may take to be there, and to serve one order beside a hostile guest: a bound for hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Its own deadline: longer than any suite.
const LIFE: Duration = Duration::from_secs(7200);

/// An innocent microVM that does what it is told.
#[derive(Debug)]
pub struct Neighbour {
    child: Child,
    stream: UnixStream,
    _files: Files,
}

/// What one order came to.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Device operations that went well: all of them, or none is counted.
    pub operations: u32,
    /// Nanoseconds that its VMM's threads ran for it, but for the vCPU's.
    pub device_ns: u64,
    /// Calls of the read and write kind that its VMM made for it.
    pub calls: u64,
}

impl Neighbour {
    /// Starts it, and waits until it asks for orders.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(subject: &Subject) -> Result<Self> {
        let files = Files::make()?;
        let listener = UnixListener::bind(path_of(&files.socket(), PORT_ORDERS))?;
        let orders =
            Orders { case: "innocent".to_owned(), vcpus: 1, seed: 1, steps: 0, scale: 100 };
        let mut command = subject.command(&files, &orders, LIFE, None)?;
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let accepted = accept(&listener);
        if accepted.is_err() {
            child.kill()?;
            child.wait()?;
        }
        Ok(Self { child, stream: accepted.context("the innocent guest")?, _files: files })
    }

    /// Has it do its operations once.
    ///
    /// # Errors
    /// It does not answer.
    pub fn order(&mut self) -> Result<Served> {
        let pid = self.child.id();
        let before = (process::device_ns(pid), process::calls(pid));
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.write_all(b"g")?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer).context("the innocent guest does not answer")?;
        let operations = if answer == *b"y" { ORDER_OPERATIONS } else { 0 };
        let device_ns = process::device_ns(pid).saturating_sub(before.0);
        let calls = process::calls(pid).saturating_sub(before.1);
        Ok(Served { operations, device_ns, calls })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may have ended itself; either way nothing of it stays.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guest's connection, within [`PATIENCE`].
fn accept(listener: &UnixListener) -> Result<UnixStream> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let wait = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs())?, tv_nsec: 0 };
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&wait))? == 0 {
        bail!("it did not ask for orders within {PATIENCE:?}");
    }
    Ok(listener.accept()?.0)
}
