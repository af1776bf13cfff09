//! What libFuzzer says at its end.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// The figures of one target's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stats {
    /// Inputs that were run.
    pub(super) executions: u64,
    /// Inputs that reached something new.
    pub(super) new_units: u64,
    /// The most memory, in MiB.
    pub(super) peak_mib: u64,
}

/// The figures in a target's output, which `-print_final_stats` puts there.
pub(super) fn stats(output: &str) -> Option<Stats> {
    let figure = |name: &str| {
        let line = output.lines().rev().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().parse().ok()
    };
    Some(Stats {
        executions: figure("stat::number_of_executed_units")?,
        new_units: figure("stat::new_units_added")?,
        peak_mib: figure("stat::peak_rss_mb")?,
    })
}

/// A line for people.
pub(super) fn line(name: &str, stats: &Stats, known: usize) -> String {
    let Stats { executions, new_units, peak_mib } = stats;
    format!(
        "  {name:<18} {executions:>10} inputs, {known:>5} known, {new_units:>5} new, {peak_mib:>4} MiB"
    )
}

/// The inputs in a corpus.
pub(super) fn units(corpus: &Path) -> Result<usize> {
    Ok(fs::read_dir(corpus)?.count())
}
