//! Why a run in the lab gave no outcome.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a run in the lab gave no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("the lab's files could not be prepared")]
    Files(#[from] io::Error),
    /// A file that the job names could not be put in.
    #[error("cannot take {} into the lab", path.display())]
    File {
        /// The file on the host.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The job is not one that can be run.
    #[error("the job names a path that is not absolute or leaves its folder: {}", .0.display())]
    Path(PathBuf),
    /// A program that the lab needs could not be started.
    #[error("cannot start `{program}`")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The image of the job's files could not be made.
    #[error("mkfs.erofs failed: {0}")]
    Payload(String),
    /// The machine ended before the command did.
    #[error("the machine ended before the command did")]
    Ended,
    /// The command could not be started, for a reason that L1 gave.
    #[error("L1 could not run the command: {0}")]
    Refused(String),
    /// L1 sent something that is no frame.
    #[error("L1 sent a frame that does not exist")]
    Frame(#[from] crate::frame::FrameError),
    /// The job took longer than it may.
    #[error("no end after {} s", .0.as_secs())]
    Timeout(Duration),
    /// L1 fell silent: it does not even say that it lives.
    #[error("no sign of life for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The command wrote more than it may.
    #[error("more than {0} bytes of output")]
    Output(usize),
    /// Any of the above once the machine had been started, with what it left behind.
    #[error("the run in the lab failed: {cause}{}\n{tail}", kept(log.as_ref()))]
    Run {
        /// What happened.
        cause: Box<Error>,
        /// The last lines of QEMU's messages and of the console.
        tail: String,
        /// Where all of them are.
        log: Option<PathBuf>,
    },
}

fn kept(log: Option<&PathBuf>) -> String {
    log.map(|path| format!(" (log: {})", path.display())).unwrap_or_default()
}
