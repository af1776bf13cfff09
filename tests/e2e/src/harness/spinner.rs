//! A Linux guest that does nothing but compute, and says on its console how far it is: for what happens to a guest from outside.
//!
//! Its initramfs holds the host's own static busybox and a script. Each line is `round N busy TICKS up SECONDS`: rounds of a
//! loop of the same length, the guest's own account of its busy time, and its clock.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";
/// Lines that the guest's kernel may write before its first round, and between two.
const LINES_MAX: usize = 2_000;

const SCRIPT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
for cpu in $OTHERS; do (while :; do :; done) & done
round=0
while :; do
  turn=0
  while [ $turn -lt 500 ]; do turn=$((turn + 1)); done
  round=$((round + 1))
  read name user nice system rest < /proc/stat
  read up rest < /proc/uptime
  echo \"round $round busy $((user + nice + system)) up $up\"
done
";

/// The images of such a guest.
#[derive(Debug)]
pub struct Spinner {
    folder: TempDir,
}

impl Spinner {
    /// Makes the initramfs of a guest with `vcpus` vCPUs, all of them busy.
    ///
    /// # Errors
    /// There is no busybox, or no room.
    pub fn new(vcpus: u32) -> Result<Self> {
        let others: Vec<String> = (1..vcpus).map(|cpu| cpu.to_string()).collect();
        Self::running(&SCRIPT.replace("$OTHERS", &others.join(" ")))
    }

    /// Makes the initramfs of a guest that runs a script of busybox's instead.
    ///
    /// # Errors
    /// There is no busybox, or no room.
    pub fn running(script: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let busybox = std::fs::read(BUSYBOX).with_context(|| format!("{BUSYBOX} is needed"))?;
        let mut archive = Vec::new();
        for directory in ["dev", "proc", "bin"] {
            member(&mut archive, directory, 0o040_755, (0, 0), &[]);
        }
        member(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
        member(&mut archive, "bin/busybox", 0o100_755, (0, 0), &busybox);
        member(&mut archive, "init", 0o100_755, (0, 0), script.as_bytes());
        member(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
        File::create(folder.path().join("initrd"))?.write_all(&archive)?;
        Ok(Self { folder })
    }

    /// Its initramfs.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.path().join("initrd")
    }

    /// A folder for whatever else the guest needs.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Adds a member to a cpio archive in the format `newc`.
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let fields = [
        archive.len() as u32,
        mode,
        0,
        0,
        1,
        0,
        data.len() as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// How far the guest is.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Rounds done.
    pub number: u64,
    /// Ticks of 10 ms in which the guest found itself busy.
    pub busy: u64,
    /// Seconds since the guest's start by its own clock.
    pub up: f64,
}

/// The guest's console.
#[derive(Debug)]
pub struct SpinnerConsole {
    lines: BufReader<PipeReader>,
    /// All that the guest's kernel wrote.
    pub kernel: Vec<String>,
}

impl SpinnerConsole {
    /// Reads what comes out of `pipe`.
    #[must_use]
    pub fn new(pipe: PipeReader) -> Self {
        Self { lines: BufReader::new(pipe), kernel: Vec::new() }
    }

    /// The next round.
    ///
    /// # Errors
    /// The console ends.
    pub fn round(&mut self) -> Result<Round> {
        for _ in 0..LINES_MAX {
            let mut line = Vec::new();
            if self.lines.read_until(b'\n', &mut line)? == 0 {
                bail!("the guest is gone; it said {:#?}", self.kernel);
            }
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            match parse(&line) {
                Some(round) => return Ok(round),
                None => self.kernel.push(line),
            }
        }
        bail!("no round is done; the guest said {:#?}", self.kernel)
    }
}

fn parse(line: &str) -> Option<Round> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["round", number, "busy", busy, "up", up] = words.as_slice() else { return None };
    Some(Round { number: number.parse().ok()?, busy: busy.parse().ok()?, up: up.parse().ok()? })
}
