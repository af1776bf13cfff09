//! Control groups (cgroup v2): each environment's VMM in its own, with the share of the processors that its memory buys.
//!
//! ```text
//!   <root>/                         given, or the agent's own
//!     votive-agent/                 the agent, where a group with children may hold no process
//!     votive-environments/          locked by the agent that uses it
//!       <environment>/              cpu.max, memory.max, pids.max; its VMM joins it before anything else
//! ```
//! A VMM in a jail is started in its group. Without a jail it is started outside and moves itself in, through an inherited
//! `cgroup.procs` (`votive-vmm --cgroup`), while it has one thread and no memory to speak of. Groups that an agent left behind when it was killed are ended by the next one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

mod place;
#[cfg(test)]
mod tests;

/// What a memory size of one vCPU is, in MB (CONTRACT 4.6). The share grows with the memory in proportion.
pub const MEMORY_OF_ONE_CPU_MB: u64 = 1769;
/// The period of [`CpuMax::throttle`], in microseconds.
///
/// A throttled guest runs until its share of a period is used up and then not at all until the next period: this bounds how
/// long that is. With the kernel's own default of 100 ms a function of 128 MB would run 7.2 ms and stand still for 93 ms,
/// in the middle of an answer, and its VMM with it. 20 ms is the shortest round number that leaves the smallest function more
/// than the 1 ms that the kernel takes as the least quota (it has 1.4 ms), and the timer that refills the quota fires only
/// while the guest runs.
pub const PERIOD_US: u64 = 20_000;
/// The least quota that the kernel takes, in microseconds.
const QUOTA_MIN_US: u64 = 1_000;

/// Memory of a VMM's own and of the kernel's for it, in bytes: less than 1 MiB is used; the rest is the page cache of its
/// disks, which the kernel takes back as needed, and which needs room to read ahead.
const VMM_MEMORY_BYTES: u64 = 32 << 20;
/// KVM's tables take up to 17 bytes for each page of 4 KiB; this leaves thrice that.
const TABLES_DIVISOR: u64 = 64;
/// Threads of a VMM beside its vCPUs' and disks': the main one, KVM's own, and room for a device's.
const THREADS_MAX: u64 = 8;

/// How long a group's processes may take to be gone once they are killed. Freeing a guest's memory is most of it.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first wait for that, doubled each time up to [`REMOVE_WAIT_MAX`].
const REMOVE_WAIT_MIN: Duration = Duration::from_millis(1);
const REMOVE_WAIT_MAX: Duration = Duration::from_millis(50);
/// The longest name of a group in bytes.
const NAME_MAX: usize = 64;

const ENVIRONMENTS: &str = "votive-environments";
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Why there is no control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The agent is in no cgroup v2 that is mounted.
    #[error("no cgroup v2 file system with this process's group is mounted")]
    NoCgroup2,
    /// The kernel or whoever delegated the group keeps a controller back.
    #[error("{group} does not have the controller {controller}")]
    NoController {
        /// The group.
        group: PathBuf,
        /// What is missing.
        controller: &'static str,
    },
    /// Another agent uses the same group.
    #[error("{group} is used by another agent")]
    InUse {
        /// The group.
        group: PathBuf,
    },
    /// An environment's name is no name of a group.
    #[error("{name:?} is no name of a control group")]
    Name {
        /// What was given.
        name: String,
    },
    /// A file of a group.
    #[error("cannot {act} {path}")]
    Io {
        /// What was being done.
        act: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What an environment's group allows.
#[derive(Clone, Debug)]
pub struct CgroupSpec {
    /// A name that no other environment of this agent has: letters, digits and `-`.
    pub name: String,
    /// The function's memory size in MB, which its processor share follows from.
    pub memory_mb: u32,
    /// The guest's memory in MiB.
    pub guest_memory_mib: u32,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its disks.
    pub disks: u32,
}

/// The groups of an agent.
#[derive(Clone, Debug)]
pub struct Cgroups {
    environments: PathBuf,
    /// A line of `io.max`.
    io_max: Option<String>,
    /// Holds the lock.
    _lock: Arc<File>,
}

/// The group of one environment, unthrottled at first.
#[derive(Debug)]
pub struct EnvironmentCgroup {
    path: PathBuf,
    cpu_max: Arc<CpuMax>,
    removed: bool,
}

/// The processor time that a group may use.
#[derive(Debug)]
pub struct CpuMax {
    file: File,
    quota_us: u64,
}

/// What the processes of a group have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// Processor time.
    pub used: Duration,
    /// Periods in which they were throttled.
    pub throttled_periods: u64,
}

impl Cgroups {
    /// Takes `root`, or the agent's own group, as the place of environments' groups, and ends what an agent before left
    /// there. Blocks, seconds at worst.
    ///
    /// # Errors
    /// [`CgroupError`]: cgroup v2 is not there, not delegated, or in use.
    pub fn open(root: Option<&Path>) -> Result<Self, CgroupError> {
        Self::open_with(root, None)
    }

    /// The same, where each environment's group has this line in its `io.max`, if there is the controller `io`.
    ///
    /// # Errors
    /// As [`Cgroups::open`].
    pub fn open_with(root: Option<&Path>, io_max: Option<&str>) -> Result<Self, CgroupError> {
        let root = place::find(root)?;
        place::delegate(&root)?;
        let environments = root.join(ENVIRONMENTS);
        make(&environments)?;
        let lock = lock(&environments)?;
        place::delegate(&environments)?;
        sweep(&environments)?;
        let io_max = match io_max {
            Some(line) if place::delegate_io(&root)? && place::delegate_io(&environments)? => {
                Some(line.to_owned())
            }
            Some(_) => {
                tracing::warn!("there is no controller io: isolation.io_max does not hold");
                None
            }
            None => None,
        };
        Ok(Self { environments, io_max, _lock: Arc::new(lock) })
    }

    /// Makes a group.
    ///
    /// # Errors
    /// [`CgroupError::Name`], [`CgroupError::Io`]; nothing is left then.
    pub fn create(&self, spec: &CgroupSpec) -> Result<EnvironmentCgroup, CgroupError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=NAME_MAX).contains(&spec.name.len()) || !spec.name.bytes().all(plain) {
            return Err(CgroupError::Name { name: spec.name.chars().take(NAME_MAX).collect() });
        }
        let path = self.environments.join(&spec.name);
        fs::create_dir(&path).map_err(failed("make", &path))?;
        let group = limit(&path, spec).and_then(|group| {
            self.io_max.iter().try_for_each(|line| write(&path.join("io.max"), line))?;
            Ok(group)
        });
        if group.is_err() {
            // The reason is in the error. A group that stays is swept at the next start.
            let _ = fs::remove_dir(&path);
        }
        group
    }
}

fn limit(path: &Path, spec: &CgroupSpec) -> Result<EnvironmentCgroup, CgroupError> {
    let memory = memory_max_bytes(spec.guest_memory_mib);
    write(&path.join("memory.max"), &memory.to_string())?;
    // Half a VMM is of no use: all of it goes, and its end is noticed.
    write(&path.join("memory.oom.group"), "1")?;
    // A payload must not end up in swap; a kernel without swap has no such file.
    match write(&path.join("memory.swap.max"), "0") {
        Err(CgroupError::Io { source, .. })
            if [ErrorKind::NotFound, ErrorKind::PermissionDenied].contains(&source.kind()) => {}
        written => written?,
    }
    write(&path.join("pids.max"), &threads_max(spec.vcpus, spec.disks).to_string())?;
    let cpu_max = path.join("cpu.max");
    let file = OpenOptions::new().write(true).open(&cpu_max).map_err(failed("open", &cpu_max))?;
    let cpu_max = Arc::new(CpuMax { file, quota_us: quota_us(spec.memory_mb) });
    Ok(EnvironmentCgroup { path: path.to_owned(), cpu_max, removed: false })
}

/// The processor time that a memory size buys in each [`PERIOD_US`], in microseconds.
#[must_use]
pub fn quota_us(memory_mb: u32) -> u64 {
    let share = u64::from(memory_mb) * PERIOD_US;
    ((share + MEMORY_OF_ONE_CPU_MB / 2) / MEMORY_OF_ONE_CPU_MB).max(QUOTA_MIN_US)
}

/// The most threads that a VMM may have.
#[must_use]
pub fn threads_max(vcpus: u32, disks: u32) -> u64 {
    u64::from(vcpus) + u64::from(disks) + THREADS_MAX
}

/// What a VMM with so much guest memory may use in all, in bytes.
fn memory_max_bytes(guest_memory_mib: u32) -> u64 {
    let guest = u64::from(guest_memory_mib) << 20;
    guest + guest / TABLES_DIVISOR + VMM_MEMORY_BYTES
}

impl EnvironmentCgroup {
    /// The opened folder of the group, which a VMM is started in ([`crate::jail::Jail::cgroup`]).
    ///
    /// # Errors
    /// [`CgroupError::Io`]
    pub fn folder(&self) -> Result<OwnedFd, CgroupError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&self.path, flags, Mode::empty());
        opened.map_err(|error| failed("open", &self.path)(error.into()))
    }

    /// The file that a VMM without a jail joins the group through, for [`crate::microvm::MicrovmSpec::cgroup`].
    ///
    /// # Errors
    /// [`CgroupError::Io`]
    pub fn procs(&self) -> Result<File, CgroupError> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))
    }

    /// Its processor time, which is kept apart: an environment sets it for as long as it lives, and another task waits for the
    /// group's end.
    #[must_use]
    pub fn cpu_max(&self) -> Arc<CpuMax> {
        Arc::clone(&self.cpu_max)
    }

    /// What its processes have used.
    ///
    /// # Errors
    /// [`CgroupError::Io`]
    pub fn usage(&self) -> Result<CpuUsage, CgroupError> {
        let path = self.path.join("cpu.stat");
        let stat = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let figure = |name: &str| {
            let mut fields = stat.lines().filter_map(|line| line.split_once(' '));
            let value = fields.find(|(key, _)| *key == name)?.1;
            value.parse::<u64>().ok()
        };
        Ok(CpuUsage {
            used: Duration::from_micros(figure("usage_usec").unwrap_or_default()),
            throttled_periods: figure("nr_throttled").unwrap_or_default(),
        })
    }

    /// Kills what is left in the group and removes it as soon as that is gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when it is not gone within seconds; it is swept at the next start then.
    pub async fn remove(mut self) -> Result<(), CgroupError> {
        self.removed = true;
        let until = Instant::now() + REMOVE_TIMEOUT;
        let mut wait = REMOVE_WAIT_MIN;
        loop {
            match remove_once(&self.path) {
                Err(error) if is_busy(&error) && Instant::now() < until => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(REMOVE_WAIT_MAX);
                }
                removed => return removed.map_err(failed("remove", &self.path)),
            }
        }
    }
}

impl CpuMax {
    /// Gives the group its memory size's share of the processors and no more: for invocations.
    ///
    /// # Errors
    /// The operating system's.
    pub fn throttle(&self) -> io::Result<()> {
        self.set(&format!("{} {PERIOD_US}", self.quota_us))
    }

    /// Lets the group use all of its vCPUs: for the init phase.
    ///
    /// # Errors
    /// The operating system's.
    pub fn unthrottle(&self) -> io::Result<()> {
        self.set(&format!("max {PERIOD_US}"))
    }

    fn set(&self, value: &str) -> io::Result<()> {
        self.file.write_all_at(value.as_bytes(), 0)
    }
}

impl Drop for EnvironmentCgroup {
    fn drop(&mut self) {
        // `remove` waits for what must be waited for. This is for a group that never had a process.
        if !self.removed
            && let Err(error) = remove_once(&self.path)
        {
            tracing::debug!(%error, group = %self.path.display(), "a control group stays until the next start");
        }
    }
}

/// Removes an empty group; one that is not is killed first, and `EBUSY` until that is done.
fn remove_once(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if is_busy(&error) => {
            // Kernels before 5.14 have no such file; their groups are empty once their VMMs have been killed.
            let killed = fs::write(path.join("cgroup.kill"), "1");
            tracing::debug!(?killed, group = %path.display(), "killed what was left in a control group");
            fs::remove_dir(path)
        }
        removed => removed,
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty)
}

/// Ends every group that an agent before left, and everything in it.
fn sweep(environments: &Path) -> Result<(), CgroupError> {
    let until = Instant::now() + REMOVE_TIMEOUT;
    let entries = fs::read_dir(environments).map_err(failed("list", environments))?;
    for entry in entries {
        let entry = entry.map_err(failed("list", environments))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        tracing::info!(group = %path.display(), "an agent before left a control group: it is removed");
        let mut wait = REMOVE_WAIT_MIN;
        loop {
            match remove_once(&path) {
                Err(error) if is_busy(&error) && Instant::now() < until => {
                    thread::sleep(wait);
                    wait = (wait * 2).min(REMOVE_WAIT_MAX);
                }
                removed => break removed.map_err(failed("remove", &path))?,
            }
        }
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed("make", path)(error)),
        _ => Ok(()),
    }
}

/// Locks a group for as long as the file is open: the groups in it are this agent's to sweep.
fn lock(group: &Path) -> Result<File, CgroupError> {
    let file = File::open(group).map_err(failed("open", group))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(CgroupError::InUse { group: group.to_owned() }),
        Err(error) => Err(failed("lock", group)(error.into())),
    }
}

/// Writes to a file of a group, in one go as the kernel wants it.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
    file.write_all(value.as_bytes()).map_err(failed("write", path))
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { act, path, source }
}
