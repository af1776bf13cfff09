//! Cold boots in the exact clock: from the start of the VMM's process to the guest's first instruction and to PID 1.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::boot::run_until;
use crate::report::Series;
use crate::subject::{self, Guest, Subject};
use crate::tracefs::Event;

/// What one subject's boots cost.
pub struct Cost {
    /// Process start to the guest's first instruction, in instructions.
    pub first_instruction: Series,
    /// Process start to PID 1's first instructions, in instructions.
    pub pid1: Series,
    /// VM exits until then.
    pub exits: Series,
    /// Private memory beside the guest's when PID 1 runs, in KiB; see `private_kib`.
    pub private_memory: Series,
}

/// Boots `guest` in `subject` `count` times for each figure, after one boot that warms the page cache.
///
/// # Errors
/// A boot fails or takes too long.
pub fn measure(
    subject: Subject,
    program: &Path,
    guest: &Guest,
    count: usize,
) -> anyhow::Result<Cost> {
    let scratch = tempfile::tempdir()?;
    let boot = || subject::command(subject, program, guest, scratch.path());
    run_until(boot()?, Event::Mark, |_| Ok(()))?;
    let mut cost = Cost {
        first_instruction: Series::new("instructions"),
        pid1: Series::new("instructions"),
        exits: Series::new("exits"),
        private_memory: Series::new("KiB"),
    };
    for _ in 0..count {
        cost.first_instruction.push(run_until(boot()?, Event::GuestEntry, |_| Ok(()))?);
        let pid1 = run_until(boot()?, Event::Mark, |child| {
            cost.exits.push(exits(child.id())?);
            cost.private_memory.push(private_kib(child.id(), guest.memory_mib)?);
            Ok(())
        })?;
        cost.pid1.push(pid1);
    }
    Ok(cost)
}

/// The VM exits of the microVM of process `pid` so far, as KVM counts them in debugfs.
fn exits(pid: u32) -> anyhow::Result<u64> {
    let folder = fs::read_dir("/sys/kernel/debug/kvm")
        .context("reading KVM's debugfs folder")?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{pid}-")))
        .with_context(|| format!("process {pid} has no microVM in debugfs"))?;
    let path: PathBuf = folder.path().join("exits");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().parse()?)
}

/// Private memory of process `pid` in KiB, the guest's RAM left out: the mappings as large as a RAM region, and the parts of
/// them that a VMM maps a kernel file over. RAM is told by its size, since each VMM names it otherwise: every mapping from
/// the start of one of `memory_mib` on is part of it.
fn private_kib(pid: u32, memory_mib: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut mappings: Vec<(u64, u64, u64)> = Vec::new();
    for line in text.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            mappings.push((start, end, 0));
        } else if matches!(first, "Private_Clean:" | "Private_Dirty:") {
            let kib: u64 = line.split_ascii_whitespace().nth(1).unwrap_or("0").parse()?;
            if let Some(last) = mappings.last_mut() {
                last.2 += kib;
            }
        }
    }
    Ok(outside_ram(&mappings, u64::from(memory_mib) << 20))
}

/// The KiB of those `(start, end, private KiB)` mappings that are outside the first run of adjacent ones of `ram_bytes`.
fn outside_ram(mappings: &[(u64, u64, u64)], ram_bytes: u64) -> u64 {
    let is_ram = |first: usize| {
        let mut end = mappings[first].0;
        let run = mappings[first..].iter().take_while(|mapping| {
            let adjacent = mapping.0 == end;
            end = mapping.1;
            adjacent
        });
        run.map(|mapping| mapping.1 - mapping.0).sum::<u64>() >= ram_bytes
    };
    let start = (0..mappings.len()).find(|first| is_ram(*first)).map(|first| mappings[first].0);
    let inside = |mapping: &(u64, u64, u64)| {
        start.is_some_and(|start| mapping.0 >= start && mapping.0 < start + ram_bytes)
    };
    mappings.iter().filter(|mapping| !inside(mapping)).map(|mapping| mapping.2).sum()
}

#[cfg(test)]
mod tests {
    use super::outside_ram;

    #[test]
    fn guest_memory_split_by_a_mapped_kernel_is_left_out() {
        let mappings = [
            (0x1000, 0x2000, 4),
            (0x10_0000, 0x20_0000, 100),
            (0x20_0000, 0x30_0000, 200),
            (0x30_0000, 0x90_0000, 300),
            (0xa0_0000, 0xa1_0000, 8),
        ];
        assert_eq!(outside_ram(&mappings, 8 << 20), 12);
    }

    #[test]
    fn without_guest_memory_everything_counts() {
        assert_eq!(outside_ram(&[(0x1000, 0x2000, 4), (0x3000, 0x4000, 5)], 8 << 20), 9);
    }
}
