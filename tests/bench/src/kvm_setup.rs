//! KVM set-up, natively: from the start of the VMM's process to the first instruction of a guest of six.
//!
//! The guest is an ELF "kernel" that writes one byte to the serial port and halts, so any KVM that can emulate an `out` will
//! do, and what is timed is the VMM and KVM alone. Firecracker and votive both show that byte on their standard output.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::monotonic_ns;
use crate::report::Series;
use crate::subject::{self, Guest, Subject};

/// The byte that the guest writes.
const GREETING: u8 = b'V';
const TIMEOUT: Duration = Duration::from_secs(20);
/// Where the guest is loaded and entered.
const LOAD_ADDRESS: u64 = 0x100_0000;
/// `mov dx, 0x3f8; mov al, 'V'; out dx, al; hlt; jmp -3`
const CODE: [u8; 10] = [0x66, 0xba, 0xf8, 0x03, 0xb0, GREETING, 0xee, 0xf4, 0xeb, 0xfd];

/// Starts `subject` `count` times and times each, in milliseconds.
///
/// # Errors
/// A start fails or the greeting does not come.
pub fn measure(subject: Subject, program: &Path, count: usize) -> anyhow::Result<Series> {
    let scratch = tempfile::tempdir()?;
    let kernel = scratch.path().join("greeter");
    fs::write(&kernel, elf())?;
    let guest = Guest { kernel, initrd: None, memory_mib: 128, own_options: false };
    let mut series = Series::new("ms");
    // The first run warms the page cache and is not counted.
    for run in 0..=count {
        let mut command = subject::command(subject, program, &guest, scratch.path())?;
        if subject == Subject::Votive {
            command.args(["--console", "stdout"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let started_ns = monotonic_ns();
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let greeted = wait_for_greeting(&mut child, started_ns);
        child.kill()?;
        child.wait()?;
        let at_ns = greeted.with_context(|| format!("{command:?}"))?;
        if run > 0 {
            series.push_real((at_ns - started_ns) as f64 / 1e6);
        }
    }
    Ok(series)
}

/// Reads the child's output until a line that is the greeting alone begins; gives the time at which it came.
fn wait_for_greeting(child: &mut Child, started_ns: u64) -> anyhow::Result<u64> {
    let mut stdout = child.stdout.take().context("the output is piped")?;
    let mut at_line_start = true;
    let mut bytes = [0; 4096];
    loop {
        let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&wait))? > 0 {
            let count = stdout.read(&mut bytes)?;
            let at_ns = monotonic_ns();
            for byte in bytes.get(..count).unwrap_or_default() {
                if *byte == GREETING && at_line_start {
                    return Ok(at_ns);
                }
                at_line_start = *byte == b'\n';
            }
            if count == 0 {
                bail!("it ended without the guest's greeting");
            }
        }
        if monotonic_ns() - started_ns > u64::try_from(TIMEOUT.as_nanos())? {
            bail!("no greeting within {TIMEOUT:?}");
        }
    }
}

/// The guest: an ELF header, one program header, and [`CODE`], one page in all.
fn elf() -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let code_offset: u64 = 0x1000;
    let code_len = CODE.len() as u64;
    // e_type EXEC, e_machine x86-64, e_version, e_entry, e_phoff, e_shoff, e_flags, sizes and counts (System V ABI, ch. 4).
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [LOAD_ADDRESS, 64, 0].iter().for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // PT_LOAD, R+X, offset, vaddr, paddr, filesz, memsz, align.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [code_offset, LOAD_ADDRESS, LOAD_ADDRESS, code_len, code_len, 0x1000]
        .iter()
        .for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    elf.resize(usize::try_from(code_offset).unwrap_or(0), 0);
    elf.extend(CODE);
    elf
}
