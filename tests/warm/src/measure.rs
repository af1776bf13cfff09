//! The measure: many invocations one after the other, in windows, once everything is warm.
//!
//! Between the two readings of the clock nothing happens but invocations, so what a window took divided by their number is
//! the steady state: start, first use and the reading of counters are outside. In the lab's exact mode there is one
//! processor, and its clock counts what all of it executes: client, host agent, VMM, the host's kernel, guest.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use votive_bench::clock::monotonic_ns;
use votive_bench::report::{Figure, Series};

use crate::{exits, trace};

/// Invocations before the first window.
const WARM_UP: u32 = 30;
/// Invocations of a record.
const TRACED: u32 = 10;
/// A clock tick of `/proc/stat`, in nanoseconds.
const TICK_NS: u64 = 10_000_000;

/// A way to a warm function.
pub trait Path {
    /// Sends the event and gives the answer, once nothing is left to be done for it.
    fn invoke(&mut self, event: &[u8]) -> impl Future<Output = anyhow::Result<Vec<u8>>>;
}

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `python` or `rust`.
    pub pair: &'static str,
    /// The name in the report.
    pub subject: String,
    /// How many windows.
    pub windows: usize,
    /// How many invocations are in each.
    pub invocations: u32,
    /// Time each invocation instead, on a host whose clock tells the time.
    pub wall: bool,
    /// Where the record of a few more invocations goes, if it is wanted.
    pub trace: Option<PathBuf>,
}

/// Runs the plan over `path`; gives figures of one invocation: instructions and exits, or the time's p50 and p99.
///
/// # Errors
/// An invocation fails, or does not answer with its event.
pub async fn measure(path: &mut impl Path, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let event = crate::handler::event();
    let sent: serde_json::Value = serde_json::from_slice(&event)?;
    for _ in 0..WARM_UP {
        let answer = path.invoke(&event).await?;
        let came: serde_json::Value = serde_json::from_slice(&answer).context("the answer")?;
        ensure!(came == sent, "the answer is not the event");
    }
    let figures = match plan.wall {
        true => time(path, plan, &event).await?,
        false => count(path, plan, &event).await?,
    };
    if let Some(file) = &plan.trace {
        trace::start()?;
        for _ in 0..TRACED {
            path.invoke(&event).await?;
        }
        trace::stop(file)?;
    }
    Ok(figures)
}

/// Instructions and exits, window by window.
async fn count(path: &mut impl Path, plan: &Plan, event: &[u8]) -> anyhow::Result<Vec<Figure>> {
    let (mut instructions, mut exits) = (Series::new("instructions"), Series::new("exits"));
    let each = f64::from(plan.invocations);
    for _ in 0..plan.windows {
        let (exits_before, idle_before) = (exits::total()?, idle_ticks()?);
        let before = monotonic_ns();
        for _ in 0..plan.invocations {
            let answer = path.invoke(event).await?;
            ensure!(answer.len() >= event.len(), "a short answer");
        }
        let took = monotonic_ns() - before;
        let idle = (idle_ticks()? - idle_before) * TICK_NS;
        // An idle processor's clock leaps to the next timer, and what it leaps over was not executed.
        ensure!(idle <= TICK_NS.max(took / 10), "the machine was idle for {idle} ns of {took}");
        instructions.push_real(took as f64 / each);
        exits.push_real((exits::total()? - exits_before) as f64 / each);
    }
    let figures = [(instructions, "instructions"), (exits, "exits")];
    Ok(figures.iter().filter_map(|(series, what)| plan.figure(series, what)).collect())
}

/// The time that invocations take, window by window.
async fn time(path: &mut impl Path, plan: &Plan, event: &[u8]) -> anyhow::Result<Vec<Figure>> {
    let (mut p50, mut p99) = (Series::new("ms"), Series::new("ms"));
    for _ in 0..plan.windows {
        let mut took_ns = Vec::new();
        for _ in 0..plan.invocations {
            let before = monotonic_ns();
            path.invoke(event).await?;
            took_ns.push(monotonic_ns() - before);
        }
        took_ns.sort_unstable();
        let percentile = |percent: usize| took_ns.get((took_ns.len() - 1) * percent / 100).copied();
        p50.push_real(percentile(50).context("no invocations")? as f64 / 1e6);
        p99.push_real(percentile(99).context("no invocations")? as f64 / 1e6);
    }
    let figures = [(p50, "wall_p50"), (p99, "wall_p99")];
    Ok(figures.iter().filter_map(|(series, what)| plan.figure(series, what)).collect())
}

impl Plan {
    fn figure(&self, series: &Series, what: &str) -> Option<Figure> {
        series.figure(&format!("warm_invocation.{}.{what}", self.pair), &self.subject)
    }
}

/// How many ticks the processors were idle so far.
fn idle_ticks() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let idle = text.split_ascii_whitespace().nth(4).context("/proc/stat")?;
    Ok(idle.parse()?)
}
