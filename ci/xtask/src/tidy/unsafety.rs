//! The rule on which files may hold `unsafe`: this list, so that a new one is somebody's decision.

use std::collections::BTreeSet;

/// Every file that suspends the workspace's ban of `unsafe`, for itself or for modules below it.
const FILES: &[&str] = &[
    "guest-init/src/guest/filter.rs",
    "guest-init/src/guest/system.rs",
    "guest-init/src/guest/vsock.rs",
    "guest-init/src/main.rs",
    "jailer/src/main.rs",
    "jailer/src/system.rs",
    "tap/src/lib.rs",
    "tests/e2e/src/bin/votive-compromised.rs",
    "tests/hostile/guest/src/entry.rs",
    "tests/hostile/guest/src/machine.rs",
    "tests/lab/src/qemu.rs",
    "vmm/benches/kvm_order.rs",
    "vmm/src/assignment.rs",
    "vmm/src/deadline.rs",
    "vmm/src/demand.rs",
    "vmm/src/descriptor.rs",
    "vmm/src/heap.rs",
    "vmm/src/kvm.rs",
    "vmm/src/main.rs",
    "vmm/src/marks.rs",
    "vmm/src/memory.rs",
    "vmm/src/parent.rs",
    "vmm/src/pause.rs",
    "vmm/src/probe.rs",
    "vmm/src/seccomp.rs",
    "vmm/src/signals.rs",
    "vmm/src/threads.rs",
    "vmm/src/userfault.rs",
    "vmm/src/vcpu.rs",
    "vmm/src/virtio/block/io.rs",
    "vmm/src/virtio/block/xts.rs",
    "vmm/src/virtio/rng.rs",
    "vmm/src/virtio/vsock/host.rs",
    "vmm/src/virtio/watch.rs",
];

/// What suspends the ban, with any white space in it left out. In halves, so that this file does not hold it.
const SUSPENDS: &str = concat!("expect(", "unsafe_code");

/// The complaints about the repository's files, each a path and its text.
pub(super) fn complaints(files: &[(String, String)]) -> Vec<String> {
    judge(FILES, files)
}

fn judge(allowed: &[&str], files: &[(String, String)]) -> Vec<String> {
    let holds = |text: &str| text.split_whitespace().collect::<String>().contains(SUSPENDS);
    let holding: BTreeSet<&str> = files
        .iter()
        .filter(|(name, text)| name.ends_with(".rs") && holds(text))
        .map(|(name, _)| name.as_str())
        .collect();
    let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
    let new = holding.difference(&allowed);
    let gone = allowed.difference(&holding);
    new.map(|name| {
        format!("{name}: `unsafe` in a file that ci/xtask/src/tidy/unsafety.rs does not list")
    })
    .chain(gone.map(|name| {
        format!("{name}: ci/xtask/src/tidy/unsafety.rs lists it, and it holds no `unsafe`")
    }))
    .collect()
}

#[cfg(test)]
mod tests;
