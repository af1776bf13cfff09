//! What an invocation may leave behind: nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a process that was killed may take to vanish from the table.
const VANISH: Duration = Duration::from_secs(2);

/// A place for one invocation's temporary files, and its process's number.
#[derive(Debug)]
pub struct Leftovers {
    folder: TempDir,
}

impl Leftovers {
    /// An empty place.
    ///
    /// # Errors
    /// The file system's.
    pub fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    /// What `TMPDIR` is to be.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Fails if process `parent` left a microVM, a temporary file or a socket.
    ///
    /// # Errors
    /// What is left.
    pub fn check(&self, parent: u32) -> Result<()> {
        let started = Instant::now();
        while let Some(microvm) = microvm_of(parent) {
            if started.elapsed() > VANISH {
                kill_process(microvm, Signal::KILL)?;
                bail!("process {} is left of the microVM", microvm.as_raw_nonzero());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let files: Vec<_> = std::fs::read_dir(self.folder())?.filter_map(Result::ok).collect();
        if !files.is_empty() {
            bail!("temporary files are left: {files:?}");
        }
        let sockets = std::fs::read_to_string("/proc/net/unix")?;
        let folder = self.folder().to_string_lossy().into_owned();
        if let Some(socket) = sockets.lines().find(|line| line.contains(&folder)) {
            bail!("a socket is left: {socket}");
        }
        Ok(())
    }
}

/// The microVM that process `parent` started: its arguments name its parent.
pub(super) fn microvm_of(parent: u32) -> Option<Pid> {
    microvms_of(parent).first().copied()
}

/// All of them.
pub(super) fn microvms_of(parent: u32) -> Vec<Pid> {
    let wanted = parent.to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let microvms = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<_> = cmdline.split(|byte| *byte == 0).collect();
        let place = words.iter().position(|word| *word == b"--parent")?;
        (*words.get(place + 1)? == wanted.as_bytes()).then(|| Pid::from_raw(pid))?
    });
    microvms.collect()
}
