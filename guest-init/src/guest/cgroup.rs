//! The runtime's control group (cgroup v2): how much it may use, and a way to end all of it at once.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use votive_protocol::FaultCode;

use super::file_systems::{mount, read_at_start};
use crate::http::Writer;
use crate::worker::Problem;
use rustix::mount::MountFlags;

/// Where the hierarchy is mounted. The initramfs has the directory, and the runtime never sees it.
const MOUNT_POINT: &str = "/sys";
/// Processes and threads of a function together (CONTRACT 4.5).
const PIDS_MAX: &str = "1024";

/// The runtime's cgroup, by descriptors: it is out of sight once the root has changed.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: OwnedFd,
    memory_peak: OwnedFd,
    memory_events: OwnedFd,
    kill: OwnedFd,
    /// The groups of the runtime alone and of external extensions, once there are extensions. They divide no resource: they
    /// only tell who is to be killed.
    parts: Option<Parts>,
    /// `oom_kill` when this process began.
    kills_before: u64,
}

/// Two groups within the group.
#[derive(Debug)]
struct Parts {
    function: OwnedFd,
    function_kill: OwnedFd,
    function_events: OwnedFd,
    extensions: OwnedFd,
}

fn problem(errno: Errno, detail: &'static str) -> Problem {
    Problem::new(FaultCode::Cgroup, errno, detail)
}

impl Cgroup {
    /// Mounts the hierarchy.
    pub(super) fn mount() -> Result<(), Problem> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"cgroup2", MOUNT_POINT, c"cgroup2", flags, None)
            .map_err(|errno| problem(errno, MOUNT_POINT))
    }

    /// Makes the runtime's group with a limit of `memory_bytes`.
    pub(super) fn make(memory_bytes: u64) -> Result<Self, Problem> {
        let root = open_directory(MOUNT_POINT)?;
        write(root.as_fd(), "cgroup.subtree_control", b"+memory +pids")?;
        rustix::fs::mkdirat(&root, "runtime", Mode::from_raw_mode(0o755))
            .map_err(|errno| problem(errno, "runtime"))?;
        let directory = rustix::fs::openat(
            &root,
            "runtime",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| problem(errno, "runtime"))?;
        let mut digits = [0_u8; 20];
        let mut writer = Writer::new(&mut digits);
        writer.push_decimal(memory_bytes);
        let len = writer.finish().unwrap_or(0);
        write(directory.as_fd(), "memory.max", digits.get(..len).unwrap_or(&[]))?;
        write(directory.as_fd(), "memory.oom.group", b"1")?;
        write(directory.as_fd(), "pids.max", PIDS_MAX.as_bytes())?;
        let memory_peak = open(directory.as_fd(), "memory.peak", OFlags::RDONLY)?;
        let memory_events = open(directory.as_fd(), "memory.events", OFlags::RDONLY)?;
        let kill = open(directory.as_fd(), "cgroup.kill", OFlags::WRONLY)?;
        Ok(Self { directory, memory_peak, memory_events, kill, parts: None, kills_before: 0 })
    }

    /// Makes groups for the runtime and for external extensions, if there are none yet.
    pub(super) fn divide(&mut self) -> Result<(), Problem> {
        if self.parts.is_none() {
            let function = self.make_part("function")?;
            let extensions = self.make_part("extensions")?;
            self.parts = Some(Parts {
                function_kill: open(function.as_fd(), "cgroup.kill", OFlags::WRONLY)?,
                function_events: open(function.as_fd(), "cgroup.events", OFlags::RDONLY)?,
                function,
                extensions,
            });
        }
        Ok(())
    }

    fn make_part(&self, name: &'static str) -> Result<OwnedFd, Problem> {
        rustix::fs::mkdirat(&self.directory, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| problem(errno, name))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        open(self.directory.as_fd(), name, flags)
    }

    /// A runtime that is started into this directory belongs to the group.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.parts.as_ref().map_or(self.directory.as_fd(), |parts| parts.function.as_fd())
    }

    /// As [`Cgroup::directory`], for an external extension.
    pub(super) fn extensions_directory(&self) -> BorrowedFd<'_> {
        self.parts.as_ref().map_or(self.directory.as_fd(), |parts| parts.extensions.as_fd())
    }

    /// Kills the runtime and what it started.
    pub(super) fn kill_runtime(&self) {
        match &self.parts {
            Some(parts) => {
                let _ = rustix::io::write(&parts.function_kill, b"1");
            }
            None => self.kill(),
        }
    }

    /// Whether nothing of the runtime is left.
    pub(super) fn is_runtime_gone(&self) -> bool {
        let Some(parts) = &self.parts else { return true };
        let mut text = [0_u8; 128];
        let events = read_at_start(parts.function_events.as_fd(), &mut text);
        events.split(|byte| *byte == b'\n').any(|line| line == b"populated 0")
    }

    /// A new process is about to be started: what happened to earlier ones no longer counts.
    pub(super) fn begin_life(&mut self) {
        self.kills_before = self.oom_kills();
    }

    /// The most memory that the group held, in bytes.
    pub(super) fn memory_peak_bytes(&self) -> u64 {
        let mut text = [0_u8; 32];
        number(read_at_start(self.memory_peak.as_fd(), &mut text))
    }

    /// Whether the kernel killed a process of the group for want of memory since [`Cgroup::begin_life`].
    pub(super) fn out_of_memory(&self) -> bool {
        self.oom_kills() > self.kills_before
    }

    fn oom_kills(&self) -> u64 {
        let mut text = [0_u8; 512];
        let events = read_at_start(self.memory_events.as_fd(), &mut text);
        let mut lines = events.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(b"oom_kill ")).map_or(0, number)
    }

    /// Kills every process of the group.
    pub(super) fn kill(&self) {
        // It can only fail if the group is gone, and it never goes.
        let _ = rustix::io::write(&self.kill, b"1");
    }
}

/// The decimal number at the front of `text`.
fn number(text: &[u8]) -> u64 {
    text.iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, byte| number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')))
}

fn open_directory(path: &'static str) -> Result<OwnedFd, Problem> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| problem(errno, path))
}

fn open(directory: BorrowedFd<'_>, name: &'static str, access: OFlags) -> Result<OwnedFd, Problem> {
    rustix::fs::openat(directory, name, access | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| problem(errno, name))
}

fn write(directory: BorrowedFd<'_>, name: &'static str, value: &[u8]) -> Result<(), Problem> {
    let file = open(directory, name, OFlags::WRONLY)?;
    match rustix::io::write(&file, value) {
        Ok(_) => Ok(()),
        Err(errno) => Err(problem(errno, name)),
    }
}
