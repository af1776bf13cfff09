//! Container images as PID 1 runs them: a root of their own, and named faults where it cannot be run.

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use votive_agent::microvm::Disk;
use votive_artifact::Limits;
use votive_protocol::FaultCode;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::Case;
use crate::harness::{Guest, Run, Started, images, probe_program};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_container_image_runs_on_a_root_with_three_folders", runs),
    ("a_container_image_that_cannot_be_run_is_a_named_fault", faults),
    ("a_root_without_mount_points_is_a_named_fault", no_mount_points),
];

const ENOENT: u16 = 2;
const EACCES: u16 = 13;
const ENOTDIR: u16 = 20;
const ELOOP: u16 = 40;

/// What is to be in a root.
enum Entry<'a> {
    Folder,
    File(&'a [u8], u32),
    Link(&'a str),
}

/// A root with these entries, in memory.
fn root(entries: &[(&str, Entry<'_>)]) -> Result<File> {
    let folder = tempfile::tempdir()?;
    let (zip, image) = (folder.path().join("root.zip"), folder.path().join("root.erofs"));
    let mut archive = ZipWriter::new(File::create(&zip)?);
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, entry) in entries {
        match entry {
            Entry::Folder => archive.add_directory(*name, stored.unix_permissions(0o755))?,
            Entry::Link(target) => archive.add_symlink(*name, *target, stored)?,
            Entry::File(bytes, mode) => {
                archive.start_file(*name, stored.unix_permissions(*mode))?;
                archive.write_all(bytes)?;
            }
        }
    }
    archive.finish()?;
    votive_artifact::optimise_zip(&zip, &image, &Limits::default())?;
    Ok(File::open(image)?)
}

/// What becomes of a start, and what the function answers if it was asked something.
fn start(root: &File, run: &Run, event: Option<&Value>) -> Result<(Started, Value)> {
    let images = images()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let disk = Disk::new(root.try_clone()?, true);
        let mut guest = Guest::start(&images, disk, run).await?;
        let started = guest.started().await?;
        if let Started::Fault(..) = started {
            // It says so before it powers off; it must do both.
            let ended = guest.ended().await?;
            ensure!(ended.code == Some(0), "{ended}");
        }
        let answer = match event {
            Some(event) => {
                serde_json::from_slice(&guest.invoke(event.to_string().as_bytes()).await?)?
            }
            None => Value::Null,
        };
        Ok((started, answer))
    })
}

fn run(arguments: &[&str], environment: &[&str], working_directory: &str) -> Run {
    let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    let working_directory = working_directory.to_owned();
    Run { arguments: owned(arguments), environment: owned(environment), working_directory }
}

fn runs() -> Result<()> {
    let probe = probe_program()?;
    let root = root(&[
        ("dev", Entry::Folder),
        ("proc", Entry::Folder),
        ("tmp", Entry::Folder),
        ("first/entry", Entry::File(b"not to be executed", 0o644)),
        ("second/entry", Entry::File(&probe, 0o755)),
        ("work", Entry::Folder),
    ])?;
    // The first folder of PATH has a file of that name that may not be executed, as execvp(3) knows it.
    let environment = ["PATH=/none:/first:/second", "LD_LIBRARY_PATH=/own", "STAGE=test"];
    let run = run(&["entry", "inspect", "second word"], &environment, "/work");
    let (started, report) = start(&root, &run, Some(&json!({})))?;
    ensure!(started == Started::Ready, "{started:?}");
    ensure!(report["arguments"] == json!(["entry", "inspect", "second word"]), "{report}");
    ensure!(report["cwd"] == json!("/work"), "{report}");
    ensure!(report["uid"] == json!(993) && report["gid"] == json!(990), "{report}");
    ensure!(report["tmp"]["same"] == json!(true), "{report}");
    let variables = report["environment"].as_object().context("no environment")?;
    for (key, value) in [
        ("PATH", Some("/none:/first:/second")),
        ("LD_LIBRARY_PATH", Some("/own")),
        ("STAGE", Some("test")),
        ("LAMBDA_TASK_ROOT", Some("/var/task")),
        ("AWS_LAMBDA_RUNTIME_API", Some("127.0.0.1:9001")),
        ("LAMBDA_RUNTIME_DIR", None),
        ("AWS_EXECUTION_ENV", None),
        ("_HANDLER", None),
        ("LANG", None),
    ] {
        ensure!(variables.get(key).and_then(Value::as_str) == value, "{key}: {report}");
    }
    Ok(())
}

fn faults() -> Result<()> {
    let root = root(&[
        ("dev", Entry::Folder),
        ("proc", Entry::Folder),
        ("tmp", Entry::Folder),
        ("app/plain", Entry::File(b"no program", 0o644)),
        ("app/script", Entry::File(b"#!/app/no-interpreter\n", 0o755)),
    ])?;
    let (path, there) = (["PATH=/app"], "/");
    let entrypoint = |errno| (FaultCode::InvalidEntrypoint, errno);
    for (arguments, directory, (code, errno)) in [
        (["missing"], there, entrypoint(ENOENT)),
        (["/app/missing"], there, entrypoint(ENOENT)),
        (["plain"], there, entrypoint(EACCES)),
        (["script"], there, entrypoint(ENOENT)),
        (["script"], "/missing", (FaultCode::InvalidWorkingDirectory, ENOENT)),
        (["script"], "/app/plain", (FaultCode::InvalidWorkingDirectory, ENOTDIR)),
    ] {
        let (started, _) = start(&root, &run(&arguments, &path, directory), None)?;
        let Started::Fault(found, number, _) = &started else {
            anyhow::bail!("{arguments:?} in {directory}: {started:?}");
        };
        ensure!((*found, *number) == (code, errno), "{arguments:?} in {directory}: {started:?}");
    }
    Ok(())
}

fn no_mount_points() -> Result<()> {
    let file = Entry::File(b"", 0o644);
    for (dev, errno) in [(None, ENOENT), (Some(file), ENOTDIR), (Some(Entry::Link("proc")), ELOOP)]
    {
        let mut entries = vec![("proc", Entry::Folder), ("tmp", Entry::Folder)];
        entries.extend(dev.map(|dev| ("dev", dev)));
        let (started, _) = start(&root(&entries)?, &run(&["/x"], &[], "/"), None)?;
        let fault = Started::Fault(FaultCode::Mount, errno, "/dev".to_owned());
        ensure!(started == fault, "{started:?}");
    }
    Ok(())
}
