//! What is run in the lab, and what came of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One command in a fresh L1.
#[derive(Clone, Debug)]
pub struct Job {
    /// Files and folders of the host, each with its absolute path in L1. Links are followed; modes are kept.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The program (a path in L1, or a name that `$PATH` there finds) and its arguments.
    pub command: Vec<String>,
    /// Added to L1's environment (`PATH`, `HOME`).
    pub env: Vec<(String, String)>,
    /// Files in L1 that are brought back when the command has ended; those that do not exist are left out.
    pub results: Vec<PathBuf>,
    /// Count instructions instead of time.
    pub exact: bool,
    /// L1's memory in MiB.
    pub memory_mib: u32,
    /// The longest the whole run may take, in the host's time.
    pub timeout: Duration,
}

impl Job {
    /// A job without files: L1 has 4 GiB, one processor, and ten minutes.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            files: Vec::new(),
            command: command.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            results: Vec::new(),
            exact: false,
            memory_mib: 4096,
            timeout: Duration::from_secs(600),
        }
    }

    /// Adds a file or folder of the host under a path in L1.
    #[must_use]
    pub fn file(mut self, host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        self.files.push((host.into(), inside.into()));
        self
    }

    /// Adds a variable to the command's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The part of the job that L1 is told.
    pub(crate) fn orders(&self) -> Orders {
        Orders {
            command: self.command.clone(),
            env: self.env.iter().cloned().collect(),
            results: self.results.clone(),
            heartbeat: !self.exact,
        }
    }
}

/// The part of a job that L1 is told; a JSON file at [`Orders::PATH`].
#[derive(Debug, Deserialize, Serialize)]
pub struct Orders {
    /// See [`Job::command`].
    pub command: Vec<String>,
    /// See [`Job::env`].
    pub env: BTreeMap<String, String>,
    /// See [`Job::results`].
    pub results: Vec<PathBuf>,
    /// Whether L1 says now and then that it lives. In exact mode it must not: an idle machine's
    /// clock leaps from timer to timer, so that a heartbeat would never pause.
    pub heartbeat: bool,
}

impl Orders {
    /// Where L1 finds them.
    pub const PATH: &str = "/.lab/orders.json";
}

/// Which of the command's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A command that ran to its end.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; 128 and the signal's number if a signal ended it.
    pub exit: i32,
    /// All it wrote to standard output.
    pub stdout: Vec<u8>,
    /// The result files that exist, by their path in L1.
    pub results: BTreeMap<PathBuf, Vec<u8>>,
    /// How long the whole run took, in the host's time.
    pub wall: Duration,
}
