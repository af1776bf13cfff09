//! What a function sees of its environment, as one JSON object.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use rustix::process::{Resource, getgid, getrlimit, getuid};
use serde_json::{Value, json};

use super::Response;

mod attacks;

/// The paths of CONTRACT 4.5 that a function must not be able to write.
const READ_ONLY: [&str; 7] =
    ["/", "/var/task", "/opt", "/var/runtime", "/etc", "/usr/bin", "/var/task/bootstrap"];

/// Everything.
pub(super) fn report(next: &Response) -> Value {
    let environment: BTreeMap<_, _> = std::env::vars().collect();
    let headers: BTreeMap<_, _> = next.headers.iter().cloned().collect();
    let writes: BTreeMap<_, _> = READ_ONLY.iter().map(|path| (*path, try_to_write(path))).collect();
    json!({
        "arguments": std::env::args().collect::<Vec<_>>(),
        "environment": environment,
        "headers": headers,
        "uid": getuid().as_raw(),
        "gid": getgid().as_raw(),
        "groups": groups(),
        "cwd": std::env::current_dir().ok(),
        "writes": writes,
        "tmp": try_tmp(),
        "attacks": attacks::tried(),
        "processors": processors(),
        "files": getrlimit(Resource::Nofile).current,
        "pid": std::process::id(),
        "descriptors": descriptors(),
        "mounts": fs::read_to_string("/proc/self/mounts").unwrap_or_default(),
        "cgroup": fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        "capabilities": status("CapEff:"),
        "no_new_privileges": status("NoNewPrivs:"),
        "seccomp": status("Seccomp:"),
        "interfaces": interfaces(),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "year": year(),
        "random": fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default().trim(),
    })
}

/// The system's error number of an attempt to write at `path`; 0 if it worked.
fn try_to_write(path: &str) -> i32 {
    let target = Path::new(path);
    let file = if target.is_dir() { target.join("written") } else { target.to_owned() };
    match fs::OpenOptions::new().append(true).create(true).open(file) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

fn try_tmp() -> Value {
    let write = || {
        let path = "/tmp/written";
        let data = vec![7_u8; 3 * 1024 * 1024 + 5];
        let mut file = fs::File::create(path)?;
        file.write_all(&data)?;
        file.sync_all()?;
        let same = fs::read(path)? == data;
        let space = rustix::fs::statvfs("/tmp")?;
        fs::remove_file(path)?;
        Ok::<_, std::io::Error>((same, space.f_blocks * space.f_frsize))
    };
    match write() {
        Ok((same, bytes)) => json!({ "same": same, "bytes": bytes }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn groups() -> Vec<u32> {
    let groups = status("Groups:");
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim().to_owned()
}

fn processors() -> usize {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

/// Where each descriptor that this process was born with leads, its own listing aside.
fn descriptors() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut targets: Vec<_> = targets.map(|target| target.display().to_string()).collect();
    targets.retain(|target| !target.starts_with("/proc/"));
    targets.sort();
    targets
}

fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn year() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    1970 + now.map_or(0, |now| now.as_secs()) / 31_556_952
}

/// How many threads can be started, up to a little more than should be possible.
pub(super) fn process_limit() -> Value {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let mut threads = Vec::new();
    for _ in 0..1100 {
        let held = std::sync::Arc::clone(&held);
        let wait = move || {
            let _ = held.lock().map(|held| held.recv());
        };
        match std::thread::Builder::new().stack_size(16 * 1024).spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(_) => break,
        }
    }
    let count = threads.len();
    drop(release);
    for thread in threads {
        let _ = thread.join();
    }
    json!({ "threads": count })
}

/// Writes to `/tmp` until it is full.
pub(super) fn fill_disk() -> Value {
    let piece = vec![0xa5_u8; 1024 * 1024];
    let mut written = 0_u64;
    let error = match fs::File::create("/tmp/full") {
        Ok(mut file) => loop {
            match file.write(&piece) {
                Ok(len) => written += len as u64,
                Err(error) => break error,
            }
        },
        Err(error) => error,
    };
    json!({ "written": written, "errno": error.raw_os_error() })
}
