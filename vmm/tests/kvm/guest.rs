//! Guests of a few hand-assembled instructions, and the program that runs them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Where a guest's code is loaded.
pub(crate) const LOAD: u64 = 16 << 20;
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
        let mut child = program(&self.arguments)
            .args(["--marks", "/proc/self/fd/1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut marks = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        while !lines.contains("guest-") {
            assert_ne!(marks.read_line(&mut lines).unwrap(), 0, "no mark came: {lines}");
        }
        Running { child, _marks: marks }
    }
}

/// A guest that runs.
pub(crate) struct Running {
    child: Child,
    _marks: BufReader<ChildStdout>,
}

impl Running {
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

/// How a run ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) reason: String,
}

impl End {
    fn of(output: Output) -> Self {
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
