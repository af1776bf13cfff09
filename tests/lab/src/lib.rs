//! The lab: a machine in which real microVMs run, on a host whose KVM cannot boot Linux.
//!
//! QEMU emulates an AMD processor with nested paging; in it runs Debian's cloud kernel with KVM (called L1), and under
//! that the microVMs under test. A [`Job`] is one command in a fresh L1, with the files it needs. The command is told
//! nothing about where it runs: the same binaries run straight on a host that has a KVM for guests.
//!
//! In exact mode L1's clocks advance by one nanosecond an executed instruction, whatever else the host does.

mod error;
pub mod frame;
mod job;
mod payload;
mod qemu;
mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use error::Error;
pub use job::{Job, Orders, Outcome, Stream};

use crate::qemu::Qemu;

/// What L1 is made of; `cargo xtask image lab` builds these.
#[derive(Clone, Debug)]
pub struct Images {
    /// Debian's cloud kernel.
    pub kernel: PathBuf,
    /// The initramfs with `lab-init` and the kernel's modules.
    pub initrd: PathBuf,
    /// EROFS images whose union is L1's root; of two files with one path, that of the earlier image is seen.
    pub layers: Vec<PathBuf>,
}

/// A lab that can be booted any number of times, also at once.
#[derive(Clone, Debug)]
pub struct Lab {
    /// What L1 is made of.
    pub images: Images,
    /// A folder for what a run needs while it runs; on the images' file system, files need not be copied.
    pub scratch: PathBuf,
    /// Where a failed run leaves its logs.
    pub logs: PathBuf,
}

impl Lab {
    /// Boots an L1, runs one command in it, and ends it. What the command writes is handed to `sink` as it comes.
    ///
    /// An [`Outcome`] means that the command ran to its end, well or not; it is an error when L1 could not be booted,
    /// died, fell silent, wrote too much or took longer than the job allows. Nothing outlives this call.
    pub fn run(&self, job: &Job, sink: &mut dyn FnMut(Stream, &[u8])) -> Result<Outcome, Error> {
        let start = Instant::now();
        fs::create_dir_all(&self.scratch)?;
        let folder = tempfile::Builder::new().prefix("lab-").tempdir_in(&self.scratch)?;
        let payload = payload::build(job, folder.path())?;
        let mut qemu = Qemu::start(&self.images, job, &payload, folder.path())?;
        let ended = session::follow(&mut qemu, job, start, sink);
        drop(qemu);
        ended.map_err(|error| self.with_logs(error, folder.path()))
    }

    /// Keeps a failed run's logs and adds the end of the console to its error.
    fn with_logs(&self, error: Error, folder: &Path) -> Error {
        let console = read_lossy(&folder.join(qemu::CONSOLE_LOG));
        let mut stderr = read_lossy(&folder.join(qemu::STDERR_LOG));
        // The emulator lists at each start what an EPYC has and it has not.
        stderr = stderr.lines().filter(|line| !line.contains("TCG doesn't support")).collect();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kept = self.logs.join(format!("{name}.log"));
        let whole = format!("{error}\n--- QEMU\n{stderr}\n--- console\n{console}");
        let saved = fs::create_dir_all(&self.logs).and_then(|()| fs::write(&kept, whole));
        Error::Run {
            cause: Box::new(error),
            tail: last_lines(&stderr, 5) + &last_lines(&console, 15),
            log: saved.ok().map(|()| kept),
        }
    }
}

fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("  {line}\n")).collect()
}
