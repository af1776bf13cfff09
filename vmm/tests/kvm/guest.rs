//! Guests of a few hand-assembled instructions, and the program that runs them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Where a guest's code is loaded.
pub(crate) const LOAD: u64 = 16 << 20;
/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where code lies in a guest's file.
const OFFSET: u64 = 0x1000;

/// A guest: its code, and the folder that it lives in.
pub(crate) struct Guest {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

/// A byte to the mark port.
pub(crate) const fn mark(value: u8) -> [u8; 4] {
    [0xb0, value, 0xe6, 0xf4]
}

/// A byte to the exit port.
pub(crate) const fn stop(value: u8) -> [u8; 4] {
    [0xb0, value, 0xe6, 0xf5]
}

/// A halt that nothing ends, and a loop should something do.
pub(crate) const IDLE: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// Code that starts the second vCPU, which runs `code` in 16-bit mode at 0x8000.
pub(crate) fn start_second_vcpu(code: [u8; 8]) -> Vec<u8> {
    let place = [&[0x48, 0xb8][..], &code, &[0x48, 0xa3], &0x8000_u64.to_le_bytes()].concat();
    let write_msr = |msr: u32, low: u32, high: u32| {
        [
            &[0xb9][..],
            &msr.to_le_bytes(),
            &[0xb8],
            &low.to_le_bytes(),
            &[0xba],
            &high.to_le_bytes(),
            &[0x0f, 0x30],
        ]
        .concat()
    };
    // x2APIC on, then INIT and start-up at 0x8000 to APIC id 1.
    let enable = write_msr(0x1b, 0xfee0_0d00, 0);
    let init = write_msr(0x830, 0x4500, 1);
    let start = write_msr(0x830, 0x4608, 1);
    [place, enable, init, start].concat()
}

impl Guest {
    /// A guest with one vCPU and 128 MiB that runs `code` in 64-bit mode.
    pub(crate) fn new(code: &[&[u8]]) -> Self {
        Self::shaped(code, 1)
    }

    /// As [`Guest::new`] with `vcpus` vCPUs.
    pub(crate) fn shaped(code: &[&[u8]], vcpus: u8) -> Self {
        assert!(Path::new("/dev/kvm").exists(), "these tests need /dev/kvm, which is not there");
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        File::create(&kernel).unwrap().write_all(&image(&code.concat())).unwrap();
        let arguments = ["--kernel", kernel.to_str().unwrap(), "--memory-mib", "128", "--vcpus"]
            .map(String::from)
            .into_iter()
            .chain([vcpus.to_string()])
            .collect();
        Self { folder, arguments }
    }

    /// More arguments.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().copied().map(String::from));
        self
    }

    /// With its kernel's file mapped into memory, where [`Running::memory`] finds it.
    pub(crate) fn mapped(self) -> Self {
        self.with(&["--kernel-memory", "mapped"])
    }

    /// Without its `--memory-mib`, for another one.
    pub(crate) fn without_memory(mut self) -> Self {
        let at = self.arguments.iter().position(|argument| argument == "--memory-mib").unwrap();
        self.arguments.drain(at..at + 2);
        self
    }

    /// A file in the guest's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The guest's command line.
    pub(crate) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Runs the guest to its end.
    pub(crate) fn run(&self) -> End {
        End::of(program(&self.arguments).output().unwrap())
    }

    /// Runs the guest until it writes its first mark, and leaves it running.
    pub(crate) fn start(&self) -> Running {
        Running::of(program(&self.arguments)).until_marked()
    }

    /// As [`Guest::start`], with more arguments.
    pub(crate) fn start_with(&self, arguments: &[&str]) -> Running {
        let mut command = program(&self.arguments);
        command.args(arguments);
        Running::of(command).until_marked()
    }

    /// Starts the program with a control channel, and waits for nothing.
    pub(crate) fn spawn_controlled(&self) -> (Running, Control) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        let script = "exec \"$0\" \"$@\" --control fd:3 3<&0 </dev/null";
        command.args(["-c", script, env!("CARGO_BIN_EXE_votive-vmm")]).args(&self.arguments);
        command.stdin(OwnedFd::from(theirs));
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        (Running::of(command), Control(ours))
    }

    /// As [`Guest::start`], with a control channel.
    pub(crate) fn start_controlled(&self) -> (Running, Control) {
        let (running, control) = self.spawn_controlled();
        (running.until_marked(), control)
    }
}

/// The host's end of a control channel.
pub(crate) struct Control(pub(crate) UnixStream);

impl Control {
    /// Sends one command, and gives its answer.
    pub(crate) fn ask(&self, command: u8) -> u8 {
        (&self.0).write_all(&[command]).unwrap();
        let mut answer = [0];
        (&self.0).read_exact(&mut answer).unwrap();
        answer[0]
    }

    pub(crate) fn pause(&self) {
        assert_eq!(self.ask(b'p'), b'p');
    }

    pub(crate) fn resume(&self) {
        assert_eq!(self.ask(b'r'), b'r');
    }
}

/// A guest that runs.
pub(crate) struct Running {
    child: Child,
    marks: BufReader<ChildStdout>,
}

impl Running {
    /// Spawns `command`, a VMM's.
    fn of(mut command: Command) -> Self {
        let mut child = command
            .args(["--marks", "/proc/self/fd/1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let marks = BufReader::new(child.stdout.take().unwrap());
        Self { child, marks }
    }

    /// Reads marks until the guest's first.
    pub(crate) fn until_marked(mut self) -> Self {
        let mut lines = String::new();
        while !lines.contains("guest-") {
            assert_ne!(self.marks.read_line(&mut lines).unwrap(), 0, "no mark came: {lines}");
        }
        self
    }

    /// The memory of a guest that is [`Guest::mapped`]. The kernel's file is at [`LOAD`], inside one mapping of all low memory.
    pub(crate) fn memory(&self) -> Memory {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        let line = maps.lines().find(|line| line.ends_with("/kernel")).unwrap();
        let host = u64::from_str_radix(line.split_once('-').unwrap().0, 16).unwrap();
        let file = File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        Memory { file, base: host - LOAD }
    }

    /// States and processor times of the vCPUs' threads: `S` is asleep.
    pub(crate) fn vcpu_threads(&self) -> Vec<(String, String)> {
        let mut threads = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap() {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            let (name, rest) = stat.split_once('(').unwrap().1.split_once(')').unwrap();
            if name.starts_with("vcpu") {
                let fields: Vec<&str> = rest.split_whitespace().collect();
                threads.push((fields[0].to_owned(), fields[11..13].join("+")));
            }
        }
        threads
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub(crate) fn wait(self) -> End {
        End::of(self.child.wait_with_output().unwrap())
    }
}

/// A running guest's memory.
pub(crate) struct Memory {
    file: File,
    base: u64,
}

impl Memory {
    /// The eight bytes at `gpa`.
    pub(crate) fn word(&self, gpa: u64) -> u64 {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, self.base + gpa).unwrap();
        u64::from_le_bytes(word)
    }

    /// Waits until a word is not `old` any more.
    pub(crate) fn wait_for_change(&self, gpa: u64, old: u64) {
        let since = Instant::now();
        while self.word(gpa) == old {
            assert!(since.elapsed() < PATIENCE, "{gpa:#x} stays {old}");
            std::thread::yield_now();
        }
    }

    /// Waits until a word changes.
    pub(crate) fn wait_for_progress(&self, gpa: u64) {
        self.wait_for_change(gpa, self.word(gpa));
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) reason: String,
}

impl End {
    pub(crate) fn of(output: Output) -> Self {
        let reason = String::from_utf8(output.stderr).unwrap();
        Self { code: output.status.code(), reason }
    }

    /// Checks the exit code, and that one line gives a reason that contains `part`.
    pub(crate) fn is(&self, code: i32, part: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.reason.contains(part), "{self:?} does not say {part:?}");
        assert!(self.reason.starts_with("votive-vmm: "), "{self:?}");
        assert_eq!(self.reason.matches('\n').count(), 1, "{self:?}");
    }
}

/// The program with these arguments.
pub(crate) fn program(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_votive-vmm"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A pipe with no room left, whose reader stays open and never reads.
pub(crate) fn full_pipe() -> std::io::PipeWriter {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let (reader, writer) = std::io::pipe().unwrap();
    std::mem::forget(reader);
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler =
        std::fs::OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while filler.write(&[b'.'; 4096]).is_ok() {}
    while filler.write(b".").is_ok() {}
    writer
}

/// A kernel of one segment, padded to whole pages with two pages behind the code.
fn image(code: &[u8]) -> Vec<u8> {
    let mut bytes = code.to_vec();
    bytes.resize(code.len().next_multiple_of(0x1000) + 0x2000, 0x90);
    let size = bytes.len() as u64;
    let mut image = vec![0; OFFSET as usize];
    let mut put = |at: usize, data: &[u8]| image[at..at + data.len()].copy_from_slice(data);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0]);
    put(24, &LOAD.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &[56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 7, 0, 0, 0]);
    for (field, value) in [(8, OFFSET), (16, LOAD), (24, LOAD), (32, size), (40, size)] {
        put(64 + field, &value.to_le_bytes());
    }
    image.extend(bytes);
    image
}
