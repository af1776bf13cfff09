//! The handlers `tell` and `spin`: they do what their event says, and answer with what tells one environment from another.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Request, Response, expect_accepted, fill_memory};

/// Invocations of this runtime.
static INVOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Turns of the thread that [`spin`] starts, and the longest time from one turn to the next by the guest's clock, in ms.
static SPINS: AtomicU64 = AtomicU64::new(0);
static LONGEST_GAP_MS: AtomicU64 = AtomicU64::new(0);

/// Begins work in the background that never ends: whatever processor time the guest gets shows in the count, and for how long
/// it got none in the longest gap.
pub(super) fn spin() {
    std::thread::spawn(|| {
        let mut last = Instant::now();
        loop {
            let now = Instant::now();
            let gap = now.duration_since(last).as_millis() as u64;
            LONGEST_GAP_MS.fetch_max(gap, Ordering::Relaxed);
            SPINS.fetch_add(1, Ordering::Relaxed);
            last = now;
        }
    });
}

/// Serves one invocation; `Some` ends the runtime. The event's fields are what is to happen, in this order: `print` (a line of
/// the log), `write` (a file in `/tmp`), `sleepMs`, `throw`, `exit`, `fill` (all of the memory). `opt` asks for the
/// files in `/opt`, `env` for a variable, `read` for what comes of reading a file, `reach` for what comes of
/// connecting to addresses, and to those of `silent`.
pub(super) fn invoke(id: &str, next: &Response) -> Result<Option<u8>> {
    let before = SPINS.load(Ordering::Relaxed);
    let event: Value = serde_json::from_slice(&next.body)?;
    let nth = INVOCATIONS.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(text) = event["print"].as_str() {
        println!("{text}");
    }
    if let Some(name) = event["write"].as_str() {
        fs::write(format!("/tmp/{name}"), id)?;
    }
    if let Some(ms) = event["sleepMs"].as_u64() {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if event["throw"] == json!(true) {
        let path = format!("/runtime/invocation/{id}/error");
        let body = br#"{"errorMessage":"thrown","errorType":"Thrown"}"#;
        let head = "Lambda-Runtime-Function-Error-Type: Function.Thrown\r\n";
        Request::post(&path, head, body).send()?;
        return Ok(None);
    }
    if let Some(code) = event["exit"].as_u64() {
        return Ok(Some(u8::try_from(code)?));
    }
    if event["fill"] == json!(true) {
        fill_memory();
    }
    let variable = |name: &str| std::env::var(name).ok();
    let mut answer = json!({
        "boot": trimmed("/proc/sys/kernel/random/boot_id"),
        "invocation": nth,
        "initialization": variable("AWS_LAMBDA_INITIALIZATION_TYPE"),
        "stream": variable("AWS_LAMBDA_LOG_STREAM_NAME"),
        "echo": event["echo"],
        "spins": { "before": before, "after": SPINS.load(Ordering::Relaxed) },
        "longestGapMs": LONGEST_GAP_MS.load(Ordering::Relaxed),
        "busyTicks": busy_ticks(),
        "upMs": up_ms(),
        "tmp": names("/tmp"),
    });
    if event["opt"] == json!(true) {
        answer["opt"] = json!(contents("/opt"));
    }
    if let Some(path) = event["read"].as_str() {
        answer["read"] = read(path);
    }
    if event["reach"].is_array() {
        answer["reach"] = super::reach::attempts(&event["reach"], &event["silent"]);
        answer["resolver"] = json!(trimmed("/etc/resolv.conf"));
        answer["routes"] = json!(trimmed("/proc/net/route"));
    }
    if let Some(name) = event["env"].as_str() {
        answer["env"] = json!(variable(name));
    }
    let path = format!("/runtime/invocation/{id}/response");
    expect_accepted(&path, answer.to_string().as_bytes())?;
    Ok(None)
}

/// The length of a file that is read to its end, or the system's error number.
fn read(path: &str) -> Value {
    match fs::read(path) {
        Ok(bytes) => json!({ "bytes": bytes.len(), "errno": 0 }),
        Err(error) => json!({ "bytes": 0, "errno": error.raw_os_error() }),
    }
}

fn trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The guest's own account of the time that its processors were busy, in ticks of 10 ms.
fn busy_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    fields.iter().take(3).sum::<u64>() + fields.iter().skip(5).take(2).sum::<u64>()
}

/// The guest's uptime in milliseconds.
fn up_ms() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    (seconds.unwrap_or_default() * 1000.0) as u64
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "lost+found");
    names.sort();
    names
}

/// Every small file below `folder` with its content; of a larger one its length.
fn contents(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in names(&folder) {
            let path = format!("{folder}/{name}");
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.len() > 1024 {
                found.insert(path, format!("{} bytes", metadata.len()));
            } else {
                let text = fs::read_to_string(&path).unwrap_or_default();
                found.insert(path, text);
            }
        }
    }
    found
}
