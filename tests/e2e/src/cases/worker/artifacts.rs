//! Functions whose code is an artifact: lazily, encrypted wherever it lies, and with a key and a store that can be lost.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::Case;
use crate::harness::{ArtifactStore, Version, Worker, probe_program, write_layout, write_zip};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("a_function_is_run_from_its_artifact_while_the_store_is_there_and_while_it_is_not", store),
    ("a_disabled_key_stops_new_environments_and_no_running_one", keys),
    ("a_container_image_is_run_from_its_artifact", container),
];

/// A text that is found nowhere but in the clear.
const MARKER: &[u8] = b"a marker that lies nowhere in the clear";
/// The size of a file that a start does not read.
const LARGE: usize = 2 << 20;
const EIO: i64 = 5;

fn start(store: &ArtifactStore) -> Result<Worker> {
    let settings = store.settings();
    let mut settings: Vec<_> =
        settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("artifacts.read_timeout", "\"20s\""));
    Worker::with(&settings)
}

/// A file that no chunk of is like another, with the marker in each of its pages.
fn large() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(LARGE);
    while bytes.len() < LARGE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if bytes.len().is_multiple_of(4096) {
            bytes.extend_from_slice(MARKER);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// The bytes of all files below `folder`, none of which holds the marker.
fn searched(folder: &Path) -> Result<u64> {
    let (mut folders, mut total) = (vec![folder.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path)?;
                let found = bytes.windows(MARKER.len()).any(|window| window == MARKER);
                ensure!(!found, "the marker is in {}", path.display());
                total += bytes.len() as u64;
            }
        }
    }
    Ok(total)
}

fn store() -> Result<()> {
    let store = ArtifactStore::new()?;
    let folder = tempfile::tempdir()?;
    let zip = folder.path().join("code.zip");
    write_zip(&zip, &[("bootstrap", &probe_program()?, true), ("large", &large(), false)])?;
    let artifact = store.create("--zip", &zip)?;
    let worker = start(&store)?;
    let version = worker.register(&Version::tell()?.artifact(&artifact))?;
    let other = worker.register(&Version::tell()?.name("other"))?;

    let cold = worker.invoke(&version, &json!({ "echo": 1 }))?;
    ensure!(cold.code == 0 && cold.response["echo"] == json!(1), "{cold:?}");
    // What is on disks is encrypted, and the large file's chunks are in no cache: nobody read it.
    let stored = searched(store.path())?;
    let cached = searched(&worker.path("state/cache"))?;
    ensure!(stored > LARGE as u64 && cached > 0, "{stored} bytes stored, {cached} cached");
    ensure!(cached + LARGE as u64 / 2 < stored, "{stored} bytes stored, {cached} cached");

    store.lose()?;
    let event = json!({ "read": "/var/task/large" });
    let read = worker.invoke(&version, &event)?;
    ensure!(read.environment == cold.environment, "{read:?}");
    ensure!(read.response["read"]["errno"] == json!(EIO), "{read:?}");
    let there = worker.invoke(&version, &json!({ "echo": 2 }))?;
    ensure!(
        there.environment == cold.environment && there.response["echo"] == json!(2),
        "{there:?}"
    );
    let beside = worker.invoke(&other, &json!({ "echo": 3 }))?;
    ensure!(beside.code == 0 && beside.response["echo"] == json!(3), "{beside:?}");

    store.restore()?;
    let read = worker.invoke(&version, &event)?;
    ensure!(read.environment == cold.environment, "{read:?}");
    ensure!(read.response["read"] == json!({ "bytes": LARGE, "errno": 0 }), "{read:?}");
    for folder in [store.path().to_owned(), worker.path("state"), worker.path("tmp")] {
        searched(&folder)?;
    }
    worker.drain()
}

fn keys() -> Result<()> {
    let store = ArtifactStore::new()?;
    let folder = tempfile::tempdir()?;
    let zip = folder.path().join("code.zip");
    write_zip(&zip, &[("bootstrap", &probe_program()?, true)])?;
    let artifact = store.create("--zip", &zip)?;
    let worker = start(&store)?;
    let version = worker.register(&Version::tell()?.artifact(&artifact))?;
    let cold = worker.invoke(&version, &json!({ "echo": 1 }))?;
    ensure!(cold.code == 0, "{cold:?}");

    store.key("disable")?;
    let warm = worker.invoke(&version, &json!({ "echo": 2 }))?;
    ensure!(warm.environment == cold.environment && warm.response["echo"] == json!(2), "{warm:?}");
    worker.ask(&["environments", "destroy", &cold.environment])?;
    worker.await_environments(<[_]>::is_empty)?;
    let refused = worker.invoke(&version, &json!({}))?;
    ensure!(refused.error_type.as_deref() == Some("KMSDisabledException"), "{refused:?}");

    store.key("enable")?;
    let again = worker.invoke(&version, &json!({ "echo": 3 }))?;
    ensure!(again.code == 0 && again.response["echo"] == json!(3), "{again:?}");
    worker.drain()
}

fn container() -> Result<()> {
    let store = ArtifactStore::new()?;
    let folder = tempfile::tempdir()?;
    // Neither a shell nor a library, nor a folder to mount anything on.
    let config = json!({
        "Entrypoint": ["probe"],
        "Cmd": ["tell"],
        "WorkingDir": "/app",
        "Env": ["PATH=/app", "STAGE=image"],
    });
    write_layout(folder.path(), &[("app/probe", &probe_program()?)], &config)?;
    let artifact = store.create("--oci", folder.path())?;
    let worker = start(&store)?;
    let version = Version::image(&artifact);
    let plain = worker.register(&version)?;
    let answer = worker.invoke(&plain, &json!({ "echo": 1, "env": "STAGE" }))?;
    ensure!(answer.code == 0 && answer.response["echo"] == json!(1), "{answer:?}");
    ensure!(answer.response["env"] == json!("image"), "{answer:?}");

    // What the function says in place of CMD and ENV.
    let other = version.name("other").arguments(["--command", "inspect", "--env", "STAGE=own"]);
    let other = worker.register(&other)?;
    let answer = worker.invoke(&other, &json!({}))?;
    let report = &answer.response;
    ensure!(report["arguments"] == json!(["probe", "inspect"]), "{answer:?}");
    ensure!(report["cwd"] == json!("/app") && report["uid"] == json!(993), "{answer:?}");
    ensure!(report["environment"]["STAGE"] == json!("own"), "{answer:?}");
    ensure!(report["tmp"]["same"] == json!(true), "{answer:?}");
    worker.drain()
}
