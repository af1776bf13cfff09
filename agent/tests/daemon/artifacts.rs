//! The process with functions whose code is an artifact: made by `votive image`, run by the agent, never on a disk in the clear.

use std::path::{Path, PathBuf};
use std::process::Command;

use votive_control::v1;

use crate::bed::Bed;
use crate::invocations::{Driver, INVOCATION, MARKER, write_zip};

/// Every case with its name.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("an_artifact_is_run_and_its_code_is_on_no_disk", run),
    ("a_disabled_key_stops_new_environments_by_name_and_no_others", disabled),
    ("keys_that_are_missing_keep_the_agent_from_starting", missing),
];

const ARTIFACT: &str = "arn:aws:lambda:us-east-1:012345678912:function:f:1";

/// Runs `votive image`.
fn image(bed: &Bed, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_votive"));
    command.arg("image").args(arguments).arg("--keys").arg(bed.path("artifact-keys"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A key, an artifact that is sealed with it, and an agent's configuration for them.
fn sealed() -> Bed {
    let bed = Bed::new();
    image(&bed, &["key", "create", "votive"]);
    let (zip, store) = (write_zip(&bed), bed.path("store"));
    let store = store.to_str().unwrap();
    image(&bed, &["create", "--zip", &zip, "--store", store, "--artifact", ARTIFACT, "--quiet"]);
    let keys = bed.path("artifact-keys");
    bed.configure(&format!("artifacts.store = {store:?}\nartifacts.keys = {keys:?}\n"));
    bed
}

fn artifact(identity: &str) -> v1::code::Source {
    v1::code::Source::Artifact(identity.to_owned())
}

/// Whether the marker is in a file below the folder.
fn is_marked(folder: &Path) -> bool {
    let entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.iter().any(|path| match path.is_dir() {
        true => is_marked(path),
        false => std::fs::read(path)
            .is_ok_and(|bytes| bytes.windows(MARKER.len()).any(|at| at == MARKER.as_bytes())),
    })
}

fn run() {
    let bed = sealed();
    let agent = bed.start();
    let driver = Driver::new(&bed);
    let refused = driver.try_register("echo", 3, artifact("another")).unwrap_err();
    let name = &refused.refusal().unwrap().name;
    assert_eq!(name, "InvalidParameterValueException", "{refused}");
    let version = driver.try_register("echo", 3, artifact(ARTIFACT)).unwrap();
    let outcome = driver.finish(driver.invoke(&version, INVOCATION, "{\"a\":1}"));
    assert_eq!(&outcome.payload[..], b"{\"a\":1}");
    assert_eq!(agent.metric("votive_artifact_images"), Some(1.0));
    assert_eq!(agent.metric("votive_artifact_disks"), Some(1.0));
    for folder in ["state", "store", "artifact-keys"] {
        assert!(!is_marked(&bed.path(folder)), "{folder}");
    }
    // The search finds what it looks for: what is packed on the host is there to be read.
    driver.register(&bed, "stream", 3);
    assert!(is_marked(&bed.path("state")));
    drop(agent);
}

fn disabled() {
    let bed = sealed();
    let _agent = bed.start();
    let driver = Driver::new(&bed);
    let version = driver.try_register("echo", 3, artifact(ARTIFACT)).unwrap();
    let invoke = |number: u32| {
        let id = format!("00000000-0000-4000-8000-{number:012}");
        driver.finish(driver.invoke(&version, &id, "{}"))
    };
    assert_eq!(&invoke(1).payload[..], b"{}");
    image(&bed, &["key", "disable", "votive"]);
    // The one that runs goes on.
    assert_eq!(&invoke(2).payload[..], b"{}");
    let refused = driver.try_register("stream", 3, artifact(ARTIFACT)).unwrap_err();
    assert_eq!(refused.refusal().unwrap().name, "KMSDisabledException", "{refused}");
    let all = driver.runtime.block_on(driver.client.environments(None)).unwrap();
    driver.runtime.block_on(driver.client.destroy(&all[0].id)).unwrap();
    let outcome = invoke(3);
    assert_eq!(outcome.end.error_type, "KMSDisabledException");
    let payload: serde_json::Value = serde_json::from_slice(&outcome.payload).unwrap();
    assert_eq!(payload["errorType"], "KMSDisabledException");
    image(&bed, &["key", "enable", "votive"]);
    assert_eq!(&invoke(4).payload[..], b"{}");
}

fn missing() {
    let bed = sealed();
    std::fs::remove_dir_all(bed.path("artifact-keys")).unwrap();
    let output = bed.output(&["check-config"]);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("artifacts.keys"), "{text}");
}
