//! What a killed predecessor left: its VMMs, if any outlived it, and its temporary files.
//!
//! The kernel ends a VMM when its agent dies, so that there is nothing to find but in the moments after. A VMM that is found
//! was started for the predecessor, whose lock we hold: it is dead, and so must this be before another worker starts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clock::Moment;
use crate::daemon::lock::StateLock;

/// How long VMMs of a dead agent may take to go by themselves. The kernel has signalled them; freeing their memory takes a while.
const GRACE: Duration = Duration::from_secs(2);
/// How often they are looked for meanwhile.
const PACE: Duration = Duration::from_millis(10);
/// What the agent's own temporary files are called: they are renamed when they are whole.
const TEMPORARY: &str = ".tmp";
/// The folder of packed code in the state folder.
const IMAGES: &str = "images";

/// Ends and removes what is left.
pub fn sweep(lock: &StateLock, vmm: &Path, state_dir: &Path) {
    if let Some(predecessor) = lock.predecessor() {
        end_processes(predecessor, vmm);
    }
    for folder in [state_dir.to_owned(), state_dir.join(IMAGES)] {
        remove_temporary_files(&folder);
    }
}

fn end_processes(predecessor: u32, vmm: &Path) {
    let started = Moment::now();
    loop {
        let left = processes(Path::new("/proc"), predecessor, vmm);
        if left.is_empty() {
            return;
        }
        if Moment::now().since(started) > GRACE {
            for id in left {
                tracing::warn!(process = id, "a microVM of a dead agent is killed");
                kill(id, predecessor, vmm);
            }
            return;
        }
        std::thread::sleep(PACE);
    }
}

/// The processes in `proc` that run `vmm` for the agent `predecessor`.
#[must_use]
pub fn processes(proc: &Path, predecessor: u32, vmm: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vec::new();
    };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| is_vmm(&proc.join(id.to_string()), predecessor, vmm)).collect()
}

fn is_vmm(process: &Path, predecessor: u32, vmm: &Path) -> bool {
    let Ok(command_line) = fs::read(process.join("cmdline")) else {
        return false;
    };
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let parent = predecessor.to_string();
    program == vmm.as_os_str().as_encoded_bytes()
        && words.clone().zip(words.skip(1)).any(|pair| pair == (b"--parent", parent.as_bytes()))
}

fn kill(id: u32, predecessor: u32, vmm: &Path) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    let Some(descriptor) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    // Only now is the number bound to one process: look again who it is.
    if is_vmm(&Path::new("/proc").join(id.to_string()), predecessor, vmm) {
        // It has ended meanwhile: that is what was wanted.
        let _ = pidfd_send_signal(descriptor, Signal::KILL);
    }
}

fn remove_temporary_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "a temporary file stays");
        }
    }
}
