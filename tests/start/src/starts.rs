//! The starts, each from nothing: its own worker, its own cache, its own microVM.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use votive_agent::artifacts::{Ahead, ReadList};
use votive_agent::microvm::Disk;
use votive_artifact::oci::ContainerConfig;
use votive_bench::report::{Figure, Series};
use votive_e2e::harness::{Guest, Run, Started};

use crate::origin::Origin;

/// What everything is compared with: the image is there before the microVM starts.
const PEER: &str = "everything-first";

/// One start.
struct Start {
    /// From nothing to the function's answer, in nanoseconds: in the lab, instructions.
    answered: u64,
    /// What was fetched until then.
    fetched_bytes: u64,
    /// What was read of the image.
    reads: ReadList,
}

/// Starts once; gives the list of what was read as it is kept.
pub(crate) async fn record(origin: &Origin, images: &Path, event: &[u8]) -> Result<Vec<u8>> {
    let start = lazily(origin, images, event, None).await?;
    tell("the start that is recorded", origin, &start);
    Ok(start.reads.encode())
}

/// A first start; one with what it read fetched ahead; the same of the image that is laid out for such starts; and one with
/// everything fetched first.
pub(crate) async fn measure(
    origin: &Origin,
    laid_out: Option<&Origin>,
    images: &Path,
    event: &[u8],
    lazy_alone: bool,
) -> Result<Vec<Figure>> {
    let first = lazily(origin, images, event, None).await?;
    tell("the first start", origin, &first);
    let ahead = lazily(origin, images, event, Some(first.reads.clone())).await?;
    tell("the start with what it read fetched ahead", origin, &ahead);
    let mut starts = vec![("first", origin, first), ("ahead", origin, ahead)];
    if let Some(laid_out) = laid_out {
        let again = lazily(laid_out, images, event, None).await?;
        tell("the first start of the image laid out for it", laid_out, &again);
        let recorded = lazily(laid_out, images, event, Some(again.reads)).await?;
        tell("the start of that with what it read fetched ahead", laid_out, &recorded);
        starts.push(("recorded", laid_out, recorded));
    }
    let mut figures = Vec::new();
    for (name, origin, start) in &starts {
        let percent = start.fetched_bytes as f64 / origin.image_bytes() as f64 * 100.0;
        figures.push(figure(name, "fetched", "votive", "%", percent)?);
        figures.push(figure(
            name,
            "instructions",
            "votive",
            "instructions",
            start.answered as f64,
        )?);
    }
    if !lazy_alone {
        let answered = whole(origin, images, event).await? as f64;
        for (name, ..) in &starts {
            figures.push(figure(name, "instructions", PEER, "instructions", answered)?);
        }
    }
    Ok(figures)
}

/// The time that it takes to fetch all chunks, and to fetch `share` percent of them, evenly spread.
pub(crate) async fn fetches(origin: &Origin, share: f64, count: usize) -> Result<Vec<Figure>> {
    let all = origin.chunks();
    let some = ((all.len() as f64 * share / 100.0).ceil() as usize).clamp(1, all.len());
    let some: Vec<u32> =
        (0..some).filter_map(|at| all.get(at * all.len() / some)).copied().collect();
    let (mut lazy, mut whole) = (Series::new("ms"), Series::new("ms"));
    for _ in 0..count {
        for (chunks, series) in [(&some, &mut lazy), (&all, &mut whole)] {
            let worker = origin.worker()?;
            let begun = Instant::now();
            worker.fetch(origin, chunks).await?;
            series.push_real(begun.elapsed().as_secs_f64() * 1000.0);
        }
    }
    let figures = [(lazy, "votive"), (whole, PEER)];
    let figures = figures.map(|(series, subject)| series.figure("artifact_start.fetch", subject));
    figures.into_iter().map(|figure| figure.context("nothing was measured")).collect()
}

fn figure(name: &str, what: &str, subject: &str, unit: &'static str, value: f64) -> Result<Figure> {
    let mut series = Series::new(unit);
    series.push_real(value);
    let bench = format!("artifact_start.{name}.{what}");
    series.figure(&bench, subject).context("nothing was measured")
}

/// On standard error, for whoever wants to know what was read.
fn tell(what: &str, origin: &Origin, start: &Start) {
    let reads = start.reads.indices();
    eprintln!(
        "{what}: {:.1} of {:.0} MB fetched; {} of {} chunks: {reads:?}",
        start.fetched_bytes as f64 / 1e6,
        origin.image_bytes() as f64 / 1e6,
        reads.len(),
        origin.chunks().len()
    );
}

/// A start whose chunks come when they are read, those of `ahead` before.
async fn lazily(
    origin: &Origin,
    images: &Path,
    event: &[u8],
    ahead: Option<ReadList>,
) -> Result<Start> {
    let worker = origin.worker()?;
    let ahead = ahead.map(|list| Box::pin(std::future::ready(Some(list))) as Ahead);
    let begun = Instant::now();
    let attached = worker.artifacts.attach(origin.name(), ahead).await?;
    let run = run_of(&attached.config)?;
    answer(images, attached.disk, &run, event).await?;
    let answered = u64::try_from(begun.elapsed().as_nanos())?;
    let fetched_bytes = worker.artifacts.stats().fetched.fetched_bytes;
    Ok(Start { answered, fetched_bytes, reads: attached.reads.so_far() })
}

/// A start that fetches everything first.
async fn whole(origin: &Origin, images: &Path, event: &[u8]) -> Result<u64> {
    let worker = origin.worker()?;
    let config = worker.artifacts.config(origin.name()).await?;
    let begun = Instant::now();
    let image = worker.fetch(origin, &origin.chunks()).await?;
    answer(images, Disk::new(image, true), &run_of(&config)?, event).await?;
    Ok(u64::try_from(begun.elapsed().as_nanos())?)
}

async fn answer(images: &Path, root: Disk, run: &Run, event: &[u8]) -> Result<()> {
    let mut guest = Guest::start(images, root, run).await?;
    let started = guest.started().await?;
    ensure!(started == Started::Ready, "{started:?}: {}", guest.log);
    let answer = guest.invoke(event).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    ensure!(answer["sum"].is_number(), "the function answered {answer}: {}", guest.log);
    Ok(())
}

/// How the image says that it is run.
fn run_of(config: &[u8]) -> Result<Run> {
    let config = ContainerConfig::parse(config)?;
    let variables = config.environment.into_iter();
    Ok(Run {
        arguments: [config.entrypoint, config.command].concat(),
        environment: variables.map(|(name, value)| format!("{name}={value}")).collect(),
        working_directory: config.working_folder,
    })
}
