//! Where programs that need KVM guests run: in the lab, or straight on this host.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use votive_lab::{Job, Lab, Stream};

use crate::binaries;
use crate::cache::Cache;
use crate::labimage;
use crate::progress::Progress;

/// Where the images are in L1.
pub(crate) const LAB_IMAGES: &str = "/votive";

/// Memory of an L1 that runs several guests at once, in MiB. It is taken from this host only as far as it is used.
pub(crate) const LAB_MEMORY_MIB: u32 = 6144;

/// What in the cache's current folder is for guests and what drives them: the rest is the lab's own.
const HOME_ENTRIES: &[&str] = &["vmlinux", "init.cpio", "bin", "functions"];

/// Where guests can run.
#[derive(Debug)]
pub(crate) enum Place {
    /// On this host: its KVM boots Linux.
    Host,
    /// In the lab.
    Lab(Lab),
}

impl Place {
    /// Asks `votive doctor` about this host, and says in one line where guests will run.
    pub(crate) fn find(cache: &Cache, progress: &Progress) -> Result<Self> {
        let program = binaries::compile(progress, binaries::VOTIVE)?;
        let doctor = Command::new(&program)
            .args(["doctor", "--json", "--images"])
            .arg(cache.current())
            .stdin(Stdio::null())
            .output()
            .context("cannot start votive")?;
        let answer: Doctor = serde_json::from_slice(&doctor.stdout).with_context(|| {
            format!("votive doctor did not answer: {}", String::from_utf8_lossy(&doctor.stderr))
        })?;
        if answer.can_run_guests {
            progress.say(&format!("guests run on this host: {}", answer.reason));
            return Ok(Self::Host);
        }
        progress.say(&format!("guests run in the lab (QEMU, nested): {}", answer.reason));
        Ok(Self::Lab(open_lab(cache, progress)?))
    }
}

/// The part of `votive doctor --json` that matters here.
#[derive(Debug, Deserialize)]
struct Doctor {
    can_run_guests: bool,
    reason: String,
}

/// `cargo xtask lab`.
#[derive(Debug, clap::Args)]
pub(crate) struct LabArguments {
    /// Count instructions: one nanosecond of the lab's clocks an instruction.
    #[arg(long)]
    exact: bool,
    /// The longest the run may take, in seconds.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// The lab's memory in MiB.
    #[arg(long, default_value_t = 4096)]
    memory_mib: u32,
    /// A file or folder of this host to take along, as HOST=PATH-IN-THE-LAB.
    #[arg(long = "file", value_parser = parse_file)]
    files: Vec<(PathBuf, PathBuf)>,
    /// A variable for the command's environment, as NAME=VALUE.
    #[arg(long = "env", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs one command in the lab and ends as it did.
pub(crate) fn lab(arguments: &LabArguments, progress: &Progress) -> Result<ExitCode> {
    let cache = Cache::open()?;
    let lab = open_lab(&cache, progress)?;
    let mut job = with_images(Job::new(arguments.command.clone()), &cache)?;
    job.exact = arguments.exact;
    job.memory_mib = arguments.memory_mib;
    job.timeout = Duration::from_secs(arguments.timeout);
    job.files.extend(arguments.files.iter().cloned());
    job.env.extend(arguments.env.iter().cloned());
    let outcome = lab.run(&job, &mut pass_on)?;
    Ok(ExitCode::from(u8::try_from(outcome.exit).unwrap_or(u8::MAX)))
}

/// The lab, built if need be.
pub(crate) fn open_lab(cache: &Cache, progress: &Progress) -> Result<Lab> {
    Ok(Lab {
        images: labimage::build(cache, progress)?,
        scratch: cache.root().join("tmp"),
        logs: cache.root().join("logs"),
    })
}

/// Adds the current images to a job, under [`LAB_IMAGES`], and says so in its environment.
pub(crate) fn with_images(mut job: Job, cache: &Cache) -> Result<Job> {
    for item in std::fs::read_dir(cache.current())? {
        let name = item?.file_name().to_string_lossy().into_owned();
        if HOME_ENTRIES.contains(&name.as_str()) || name.ends_with(".erofs") {
            job = job.file(cache.current().join(&name), format!("{LAB_IMAGES}/{name}"));
        }
    }
    Ok(job.env("VOTIVE_IMAGES", LAB_IMAGES))
}

/// Shows what a command in the lab writes, as it comes.
pub(crate) fn pass_on(stream: Stream, bytes: &[u8]) {
    // Nobody reads on: then there is nobody to tell, either.
    let _ = match stream {
        Stream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Stderr => std::io::stderr().lock().write_all(bytes),
    };
}

/// Shows whole lines only, so that those of several labs do not mix.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Lines {
    /// A line that grows beyond this is shown in pieces, in bytes.
    const MAX: usize = 64 * 1024;

    /// Takes what a command wrote, shows what is whole of it.
    pub(crate) fn pass_on(&mut self, stream: Stream, bytes: &[u8]) {
        let waiting = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        waiting.extend_from_slice(bytes);
        let end = waiting.iter().rposition(|byte| *byte == b'\n').map(|index| index + 1);
        let end = end.unwrap_or(if waiting.len() > Self::MAX { waiting.len() } else { 0 });
        if end > 0 {
            let whole: Vec<u8> = waiting.drain(..end).collect();
            pass_on(stream, &whole);
        }
    }
}

impl Drop for Lines {
    /// What is left has no end of line, and is shown all the same.
    fn drop(&mut self) {
        pass_on(Stream::Stdout, &self.stdout);
        pass_on(Stream::Stderr, &self.stderr);
    }
}

fn parse_file(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (host, inside) = text.split_once('=').ok_or("expected HOST=PATH-IN-THE-LAB")?;
    Ok((host.into(), inside.into()))
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
