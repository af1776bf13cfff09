//! `cargo xtask fuzz`: every fuzz target for a while.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::progress::Progress;
use crate::subprocess;
use crate::workspace;

/// What building all targets may take beside the fuzzing itself.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArguments {
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
}

/// Runs the targets one after another; the first input that breaks one ends it all.
pub(crate) fn run(arguments: &FuzzArguments, progress: &Progress) -> Result<()> {
    ensure!(
        subprocess::exists("cargo-fuzz"),
        "cargo-fuzz is not installed; `cargo install cargo-fuzz --locked` does it"
    );
    let folder = workspace::root()?.join("tests/fuzz");
    let fuzz = |words: &[&str]| {
        // cargo-fuzz needs the nightly compiler: rustup's cargo chooses it.
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz"]).args(words).current_dir(&folder);
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        command
    };
    let targets = match &arguments.target {
        Some(target) => vec![target.clone()],
        None => {
            let listed = subprocess::output(&mut fuzz(&["list", "--fuzz-dir", "."]))?;
            listed.lines().map(str::to_owned).collect()
        }
    };
    ensure!(!targets.is_empty(), "there is no fuzz target in tests/fuzz");
    let seconds = format!("-max_total_time={}", arguments.seconds);
    for target in &targets {
        let step = progress.step(format!("fuzzing {target}"));
        let words = ["run", "--fuzz-dir", ".", target.as_str(), "--", &seconds, "-timeout=10"];
        let limit = BUILD_LIMIT + Duration::from_secs(arguments.seconds);
        subprocess::shown(&mut fuzz(&words), limit)?;
        step.done("nothing found");
    }
    Ok(())
}
