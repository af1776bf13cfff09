//! What a VMM costs its host beside the memory of its guest, by `/proc/PID/smaps`.

use anyhow::{Context as _, Result};
use rustix::process::Pid;

/// A VMM's memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct VmmMemory {
    /// What of the guest's memory exists: what the guest, or the kernel's loader for it, has touched.
    pub guest: u64,
    /// Pages that are the VMM's alone, beside its guest's.
    pub private: u64,
    /// Its proportional share of pages, those that it shares with other processes included, beside its guest's.
    pub proportional: u64,
}

impl VmmMemory {
    /// Reads it.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of(process: Pid) -> Result<Self> {
        let path = format!("/proc/{}/smaps", process.as_raw_nonzero());
        let text = std::fs::read_to_string(&path).with_context(|| path)?;
        let mut memory = Self::default();
        let mut mapping = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (name, value) =
                (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let kib = || value.parse::<u64>().unwrap_or_default();
            match name {
                "Rss:" => mapping.guest = kib(),
                "Pss:" => mapping.proportional = kib(),
                "Private_Clean:" | "Private_Dirty:" => mapping.private += kib(),
                // The last line of a mapping. The guest's memory, and nothing else of a VMM that is writable, is kept out of
                // core files (`dd`).
                "VmFlags:" => {
                    let flags: Vec<_> = line.split_whitespace().collect();
                    if flags.contains(&"dd") && flags.contains(&"wr") {
                        memory.guest += mapping.guest;
                    } else {
                        memory.private += mapping.private;
                        memory.proportional += mapping.proportional;
                    }
                    mapping = Self::default();
                }
                _ => {}
            }
        }
        Ok(memory)
    }
}
