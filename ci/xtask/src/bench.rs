//! `cargo xtask bench`: what votive costs, beside its peers in the same run, against `ci/budgets.toml`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use votive_bench::report::Figure;
use votive_lab::{Job, Lab, Outcome, Stream};

use crate::binaries;
use crate::cache::Cache;
use crate::kernel;
use crate::labimage;
use crate::place;
use crate::progress::Progress;
use crate::setup;
use crate::subprocess;
use crate::workspace;

mod start;
mod warm;

/// The longest that a part may take in the lab.
const LIMIT: Duration = Duration::from_secs(3000);

/// `cargo xtask bench`. Firecracker is measured beside votive if the environment variable FIRECRACKER names its program.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    /// Also write every figure to this file, one JSON object a line.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs of each figure.
    #[arg(long, default_value_t = 5)]
    count: usize,
    /// Leave QEMU's `microvm` out, whose boots take the longest.
    #[arg(long)]
    without_qemu: bool,
    /// Measure this part alone, against its budgets alone.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Instead, print what each fragment of `kernel-config/` adds to a boot; builds a kernel for each (minutes, once).
    #[arg(long)]
    kernel_fragments: bool,
}

/// A part of the benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// KVM set-up and cold boots.
    ColdBoot,
    /// What isolation costs a cold boot.
    Isolation,
    /// Warm invocations: control socket, handler, and back.
    WarmInvocation,
    /// Starts of a container image of 1 GiB from an artifact; the image takes minutes to build, once, and 3 GB of disk.
    ArtifactStart,
}

impl Part {
    fn of(bench: &str) -> Self {
        match bench.split('.').next() {
            Some("isolation") => Self::Isolation,
            Some("warm_invocation") => Self::WarmInvocation,
            Some("artifact_start") => Self::ArtifactStart,
            _ => Self::ColdBoot,
        }
    }
}

/// One line of `ci/budgets.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    bench: String,
    max: Option<f64>,
    peer: Option<String>,
    ratio: Option<f64>,
}

/// What of `ci/budgets.toml` is measured here; the rest is for `cargo xtask check`.
#[derive(Debug, Deserialize)]
struct Budgets {
    budget: Vec<Budget>,
}

/// Measures, prints a table, and compares with the budgets.
pub(crate) fn run(arguments: &BenchArguments, progress: &Progress) -> Result<ExitCode> {
    setup::run(progress)?;
    let cache = Cache::open()?;
    binaries::build_microvm(&cache, progress)?;
    kernel::build(&cache, progress)?;
    let program = binaries::compile(progress, binaries::BENCH)?;
    if arguments.kernel_fragments {
        fragments(arguments, &cache, &program, progress)?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_wanted = |part: Part| arguments.only.is_none_or(|only| only == part);
    let mut figures = Vec::new();
    if is_wanted(Part::ColdBoot) {
        figures.extend(native(arguments, &cache, &program, progress));
        figures.extend(kvm_order(progress)?);
        figures.extend(in_lab(arguments, &cache, &program, progress)?);
    }
    if is_wanted(Part::Isolation) {
        figures.extend(isolation(arguments, &cache, &program, progress)?);
    }
    if is_wanted(Part::WarmInvocation) {
        let plan = warm::Plan { count: arguments.count, with_qemu: !arguments.without_qemu };
        figures.extend(warm::measure(&plan, &cache, progress)?);
    }
    if is_wanted(Part::ArtifactStart) {
        figures.extend(start::measure(arguments.count, &cache, progress)?);
    }
    print_table(&figures);
    if let Some(path) = &arguments.json {
        let lines =
            figures.iter().map(|figure| serde_json::to_string(figure).map(|line| line + "\n"));
        fs::write(path, lines.collect::<Result<String, _>>()?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let budgets = fs::read_to_string(workspace::root()?.join("ci/budgets.toml"))?;
    let budgets: Budgets = toml::from_str(&budgets).context("ci/budgets.toml")?;
    let budgets = budgets.budget.iter().filter(|budget| is_wanted(Part::of(&budget.bench)));
    let over: Vec<String> = budgets.flat_map(|budget| complaints(budget, &figures)).collect();
    over.iter().for_each(|line| println!("over budget: {line}"));
    Ok(if over.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The program that FIRECRACKER names.
fn firecracker() -> Option<PathBuf> {
    std::env::var_os("FIRECRACKER").map(PathBuf::from)
}

/// KVM set-up on this host, in milliseconds; what cannot be measured here is told and left out.
fn native(
    arguments: &BenchArguments,
    cache: &Cache,
    program: &Path,
    progress: &Progress,
) -> Vec<Figure> {
    let mut subjects = vec![("votive", cache.current().join("bin/votive-vmm"))];
    subjects.extend(firecracker().map(|path| ("firecracker", path)));
    let mut figures = Vec::new();
    for (subject, path) in subjects {
        let step = progress.step(format!("KVM set-up of {subject}, natively"));
        let mut command = Command::new(program);
        command.args(["--count", &arguments.count.to_string(), "kvm-setup"]);
        command.args(["--subject", subject, "--program"]).arg(path);
        match subprocess::output(&mut command).and_then(|text| parse(&text)) {
            Ok(found) => {
                figures.extend(found);
                step.done("done");
            }
            Err(error) => step.done(&format!("not measured: {error:#}")),
        }
    }
    figures
}

/// What the order of calls to KVM is worth, natively: `vmm/benches/kvm_order.rs`. Other work on this host lengthens the shorter
/// time more than the longer one, so it tries again a few times before it is over its budget.
fn kvm_order(progress: &Progress) -> Result<Vec<Figure>> {
    let step = progress.step("the order of KVM's set-up, natively");
    let mut command = workspace::cargo(&workspace::root()?);
    command.args(["bench", "--quiet", "--package", "votive-vmm", "--bench", "kvm_order"]);
    command.args(["--", "--check"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    // Its own verdict is the budget's, which is told with all others.
    match parse(&String::from_utf8_lossy(&output.stdout)) {
        Ok(figures) => {
            step.done("done");
            Ok(figures)
        }
        Err(error) => {
            step.done(&format!("not measured: {error:#}"));
            Ok(Vec::new())
        }
    }
}

/// Cold boots in the lab's exact clock.
fn in_lab(
    arguments: &BenchArguments,
    cache: &Cache,
    program: &Path,
    progress: &Progress,
) -> Result<Vec<Figure>> {
    let mut lab = place::open_lab(cache, progress)?;
    let current = cache.current();
    let home = place::LAB_IMAGES;
    let mut runs = vec![
        ("votive", format!("{home}/votive-vmm"), "same"),
        ("votive", format!("{home}/votive-vmm"), "own"),
    ];
    let mut script = String::from("set -e\n");
    let mut files = vec![
        (program.to_owned(), "votive-bench"),
        (current.join("bin/votive-vmm"), "votive-vmm"),
        (current.join("vmlinux"), "vmlinux"),
        (current.join("init.cpio"), "init.cpio"),
    ];
    if let Some(path) = firecracker() {
        files.push((path, "firecracker"));
        runs.push(("firecracker", format!("{home}/firecracker"), "same"));
    }
    if !arguments.without_qemu {
        lab.images.layers.insert(0, labimage::peers(cache, progress)?);
        runs.push(("qemu-microvm", "/usr/bin/qemu-system-x86_64".to_owned(), "same"));
    }
    for (subject, path, variant) in runs {
        // Writing to a String cannot fail.
        let _ = writeln!(
            script,
            "{home}/votive-bench --count {} cold-boot --subject {subject} --program {path} \
             --variant {variant} --kernel {home}/vmlinux --initrd {home}/init.cpio",
            arguments.count,
        );
    }
    count_in_lab(&lab, &script, &files, "cold boots", progress)
}

/// Cold boots with everything that isolates, and with nothing of it, in the lab's exact clock.
fn isolation(
    arguments: &BenchArguments,
    cache: &Cache,
    program: &Path,
    progress: &Progress,
) -> Result<Vec<Figure>> {
    let lab = place::open_lab(cache, progress)?;
    let (current, home) = (cache.current(), place::LAB_IMAGES);
    let script = format!(
        "{home}/votive-bench --count {} isolation --vmm {home}/votive-vmm --jailer {home}/votive-jailer \
         --unfiltered {home}/unfiltered --kernel {home}/vmlinux --initrd {home}/init.cpio",
        arguments.count,
    );
    let files = [
        (program.to_owned(), "votive-bench"),
        (current.join("bin/votive-vmm"), "votive-vmm"),
        (current.join("bin/votive-jailer"), "votive-jailer"),
        (binaries::compile(progress, binaries::UNFILTERED_VMM)?, "unfiltered"),
        (current.join("vmlinux"), "vmlinux"),
        (current.join("init.cpio"), "init.cpio"),
    ];
    count_in_lab(&lab, &script, &files, "cold boots with and without isolation", progress)
}

/// Runs `script` in the lab's exact clock, with `files` in its folder of images; gives the figures that it prints.
fn count_in_lab(
    lab: &Lab,
    script: &str,
    files: &[(PathBuf, &str)],
    what: &str,
    progress: &Progress,
) -> Result<Vec<Figure>> {
    let mut job = job(script, files);
    job.exact = true;
    let step = progress.step(format!("{what} in the lab's exact clock"));
    let outcome = run_in_lab(lab, &job)?;
    step.done(&format!("{:.0} s", outcome.wall.as_secs_f64()));
    parse(&String::from_utf8_lossy(&outcome.stdout))
}

/// `script` in the lab, with `files` in its folder of images.
fn job(script: &str, files: &[(PathBuf, &str)]) -> Job {
    let job = Job { timeout: LIMIT, ..Job::new(["/bin/sh", "-c", script]) };
    let at = |name: &str| format!("{}/{name}", place::LAB_IMAGES);
    files.iter().fold(job, |job, (host, name)| job.file(host, at(name)))
}

/// Runs a job to its good end; what it says to standard error is passed on.
fn run_in_lab(lab: &Lab, job: &Job) -> Result<Outcome> {
    let outcome = lab.run(job, &mut |stream, bytes| {
        if stream == Stream::Stderr {
            place::pass_on(stream, bytes);
        }
    })?;
    ensure!(outcome.exit == 0, "the benchmark ended with {}", outcome.exit);
    Ok(outcome)
}

/// Boots, as `own` does, a kernel of the first fragments, then one with the next as well, and so on; prints the table of
/// `docs/kernel.md`.
fn fragments(
    arguments: &BenchArguments,
    cache: &Cache,
    program: &Path,
    progress: &Progress,
) -> Result<()> {
    let lab = place::open_lab(cache, progress)?;
    let (current, home) = (cache.current(), place::LAB_IMAGES);
    println!("| with | boot, M instructions | more than without |");
    println!("| --- | ---: | ---: |");
    let mut before: Option<f64> = None;
    for (name, entry) in kernel::build_steps(cache, progress)? {
        let script = format!(
            "{home}/votive-bench --count {} cold-boot --subject votive --program {home}/votive-vmm \
             --variant own --kernel {home}/vmlinux --initrd {home}/init.cpio",
            arguments.count,
        );
        let files = [
            (program.to_owned(), "votive-bench"),
            (current.join("bin/votive-vmm"), "votive-vmm"),
            (entry.join("vmlinux"), "vmlinux"),
            (current.join("init.cpio"), "init.cpio"),
        ];
        let what = format!("cold boots up to {name}");
        let figures = count_in_lab(&lab, &script, &files, &what, progress)?;
        let pid1 = figures.iter().find(|figure| figure.bench == "cold_boot.own.pid1");
        let boot = pid1.context("the boots were not measured")?.median / 1e6;
        let more = before.map_or(String::from("-"), |before| format!("{:.2}", boot - before));
        println!("| `{name}` | {boot:.2} | {more} |");
        before = Some(boot);
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Figure>> {
    let figures: Vec<Figure> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("its figures")?;
    if figures.is_empty() {
        bail!("no figures");
    }
    Ok(figures)
}

fn print_table(figures: &[Figure]) {
    println!("{:34} {:20} {:>14} {:>14} {:>14}  unit", "bench", "subject", "min", "median", "max");
    for figure in figures {
        let number = |value: f64| match value {
            _ if figure.unit == "ms" => format!("{value:.2}"),
            // Exits of one invocation, averaged.
            ..100.0 => format!("{value:.1}"),
            _ => format!("{value:.0}"),
        };
        println!(
            "{:34} {:20} {:>14} {:>14} {:>14}  {}",
            figure.bench,
            figure.subject,
            number(figure.min),
            number(figure.median),
            number(figure.max),
            figure.unit
        );
    }
}

/// What of `figures` is over `budget`, a line each. A figure of votive's own that is missing is over.
fn complaints(budget: &Budget, figures: &[Figure]) -> Vec<String> {
    let median = |subject: &str| {
        let figure = figures.iter().find(|f| f.bench == budget.bench && f.subject == subject);
        figure.map(|figure| figure.median)
    };
    let Some(own) = median("votive") else {
        return vec![format!("{} was not measured", budget.bench)];
    };
    let mut found = Vec::new();
    if let Some(max) = budget.max.filter(|max| own > *max) {
        found.push(format!("{}: {own:.0}, at most {max:.0}", budget.bench));
    }
    let peer = budget.peer.as_deref().and_then(|peer| Some((peer, median(peer)?)));
    if let (Some((peer, theirs)), Some(ratio)) = (peer, budget.ratio)
        && own > ratio * theirs
    {
        let is = own / theirs;
        found.push(format!("{}: {is:.3} of {peer}'s, at most {ratio}", budget.bench));
    }
    found
}

#[cfg(test)]
mod tests;
