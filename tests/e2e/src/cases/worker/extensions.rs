//! Layers, extensions and telemetry, with an extension that others wrote.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::cases::Case;
use crate::harness::{Version, Worker, extension_client, write_zip};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("layers_are_merged_in_order_at_opt", layers),
    ("an_unmodified_extension_gets_its_events_and_telemetry", extension),
    ("the_end_of_the_log_comes_when_it_is_asked_for", tail),
];

fn layers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (first, second) = (folder.path().join("first.zip"), folder.path().join("second.zip"));
    write_zip(&first, &[("lib/both", b"first", false), ("lib/only-first", b"1", false)])?;
    write_zip(&second, &[("lib/both", b"second", false), ("only-second", b"2", false)])?;
    let worker = Worker::start()?;
    let version = worker.register(&Version::tell()?.layer(&first).layer(&second))?;
    let told = worker.invoke(&version, &json!({ "opt": true }))?;
    let expected = json!({
        "/opt/lib/both": "second",
        "/opt/lib/only-first": "1",
        "/opt/only-second": "2",
    });
    ensure!(told.response["opt"] == expected, "{told:?}");
    worker.drain()
}

fn extension() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let layer = folder.path().join("layer.zip");
    write_zip(&layer, &[("extensions/client", &extension_client()?, true)])?;
    let worker = Worker::start()?;
    let watch = worker.watch(&["--logs"])?;
    let version = worker.register(&Version::tell()?.layer(&layer))?;
    let mut ids = Vec::new();
    for text in ["first-line", "second-line"] {
        let told = worker.invoke(&version, &json!({ "print": text }))?;
        ensure!(told.code == 0, "{told:?}");
        let id = told.object["release"]["invocationId"].as_str().context("no id")?.to_owned();
        watch.await_log(&format!("event invoke {id}"))?;
        ids.push(id);
    }
    let registered = watch.await_log("EXTENSION\t")?;
    ensure!(registered.contains("client") && registered.contains("Ready"), "{registered}");
    watch.await_log("TELEMETRY\t")?;
    let mut worker = worker;
    worker.ask(&["drain"])?;
    // An environment that ends by itself, with time for its extensions.
    watch.await_log("event shutdown spindown")?;
    // An environment stands still between invocations, so telemetry may be told late, but at its end all of it has been.
    watch.await_log("telemetry PlatformInitStart")?;
    for (id, text) in ids.iter().zip(["first-line", "second-line"]) {
        watch.await_log(&format!("telemetry function {text}"))?;
        watch.await_log(&format!("telemetry PlatformStart {{ request_id: \"{id}\""))?;
        watch.await_log(&format!("telemetry PlatformRuntimeDone {{ request_id: \"{id}\""))?;
    }
    let ended = worker.wait()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.status);
    worker.check_leftovers()
}

fn tail() -> Result<()> {
    let worker = Worker::start()?;
    let version = worker.register(&Version::probe("log")?)?;
    let told = worker.invoke(&version, &json!({}))?;
    ensure!(told.code == 0, "{told:?}");
    ensure!((3_000..=4_096).contains(&told.log_tail.len()), "{} bytes", told.log_tail.len());
    ensure!(told.log_tail.contains("\nline 4999 of the log\n"), "{}", told.log_tail);
    let last = told.log_tail.lines().last().unwrap_or_default();
    ensure!(last.starts_with("REPORT "), "{last}");
    // Nobody gets what nobody asked for.
    let words = ["invoke", &version, "--event", "{}"];
    let quiet = worker.ask(&words)?;
    ensure!(quiet["release"]["logTail"] == json!(""), "{quiet}");
    worker.drain()
}
