//! Bodies of the fuzz targets of what the VMM reads before there is a guest, so that ordinary tests can replay what a fuzzer
//! found. They panic on a finding. The devices' are in `virtio::fuzz`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::descriptor::FileRef;
use crate::kernel::Plan;
use crate::limits::{
    MAX_ASSIGNMENT_BYTES, MAX_DISK_TIMEOUT_MS, MAX_DISKS, MAX_MEMORY_MIB, MAX_MTU,
    MAX_PROGRAM_HEADERS, MAX_VCPUS, MAX_VSOCK_PORTS, MIN_MEMORY_MIB, MIN_MTU, SHOWN_VALUE_CHARS,
};
use crate::memory::kernel_range;
use crate::spec::{Request, ValidSpec, VmSpec};

/// Bytes as a kernel's image: no panic, and a plan that is made lies in the file and in memory.
pub fn kernel(data: &[u8]) {
    let allowed = kernel_range(u64::from(MIN_MEMORY_MIB) << 20);
    let Ok(plan) = Plan::read(data, &allowed) else { return };
    assert!(plan.segments.len() <= usize::from(MAX_PROGRAM_HEADERS), "more segments than headers");
    for (at, segment) in plan.segments.iter().enumerate() {
        let (memory, file_end) = (segment.memory(), segment.offset + segment.file_bytes);
        assert!(file_end <= data.len() as u64, "a segment ends behind the file");
        assert!(segment.file_bytes <= segment.memory_bytes, "a segment gets more than it holds");
        assert!(memory.start >= allowed.start && memory.end <= allowed.end, "outside memory");
        let apart =
            |other: &std::ops::Range<u64>| memory.end <= other.start || other.end <= memory.start;
        assert!(plan.segments[..at].iter().all(|other| apart(&other.memory())), "an overlap");
    }
    let filled = |at| plan.segments.iter().any(|segment| segment.memory().contains(&at));
    assert!(filled(plan.entry), "the entry is in no segment");
}

/// Bytes as a command line, one argument a line: no panic, and a spec that is accepted keeps every cap.
pub fn spec(data: &[u8]) {
    let arguments = data.split(|byte| *byte == b'\n').map(|line| OsString::from_vec(line.to_vec()));
    let checked = VmSpec::read(arguments).and_then(|request| match request {
        Request::Run(spec) => spec.validate().map(Some),
        _ => Ok(None),
    });
    match checked {
        Ok(Some(spec)) => assert_caps(&spec),
        Ok(None) => {}
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "an error of more than one line");
            // Escaping makes a character up to ten.
            assert!(text.len() <= SHOWN_VALUE_CHARS * 10 + 400, "an error without end");
        }
    }
}

/// Bytes as a shell's assignment with four descriptors: no panic, nothing without bounds, no path, and no descriptor but these.
pub fn assignment(data: &[u8]) {
    let parsed = crate::assignment::parse(data);
    let Ok(Some(options)) = parsed else { return };
    let bytes: usize = options.iter().map(|option| option.len() + 1).sum();
    assert!(bytes <= MAX_ASSIGNMENT_BYTES + 1, "options longer than the longest assignment");
    let shell = ["--shell", "fd:3", "--vcpus", "1", "--memory-mib", "128", "--disks", "2"];
    let Ok(Request::Run(shell)) = VmSpec::read(shell.map(OsString::from)) else {
        unreachable!("the shell's own options are right");
    };
    let Ok(spec) = shell.validate_shell().and_then(|shell| shell.assign(options, 4)) else {
        return;
    };
    assert!(spec.disks.len() <= 2 && spec.control.is_none() && spec.kvm.is_none(), "a shell's own");
    assert!((spec.vcpus, spec.memory_bytes) == (1, 128 << 20), "another shape");
    let files = [Some(&spec.kernel), spec.initrd.as_ref(), spec.marks.as_ref()];
    for file in files.into_iter().flatten().chain(spec.disks.iter().map(|disk| &disk.file)) {
        assert!(matches!(file, FileRef::Fd(0..=3)), "{file} did not come along");
    }
}

fn assert_caps(spec: &ValidSpec) {
    let memory = u64::from(MIN_MEMORY_MIB) << 20..=u64::from(MAX_MEMORY_MIB) << 20;
    assert!((1..=MAX_VCPUS).contains(&spec.vcpus), "vcpus");
    assert!(memory.contains(&spec.memory_bytes), "memory");
    assert!(spec.disks.len() <= MAX_DISKS, "disks");
    let ports = spec.vsock.iter().flat_map(|vsock| &vsock.ports);
    assert!(ports.clone().count() <= MAX_VSOCK_PORTS, "ports");
    let files = [Some(&spec.kernel), spec.initrd.as_ref(), spec.marks.as_ref()];
    let disks = spec.disks.iter().map(|disk| &disk.file);
    let encrypted = spec.disks.iter().filter(|disk| disk.encrypted.is_some());
    assert!(encrypted.clone().all(|disk| !disk.read_only && disk.lazy.is_none()), "encrypted");
    let templates = encrypted.filter_map(|disk| disk.encrypted.as_ref()?.template.as_ref());
    let disks = disks.chain(templates);
    let mut seen = HashSet::new();
    let fds = files.into_iter().flatten().chain(disks).filter_map(|file| match file {
        FileRef::Fd(fd) => Some(*fd),
        FileRef::Path(_) => None,
    });
    let net = spec.net.as_ref();
    assert!(net.is_none_or(|net| (MIN_MTU..=MAX_MTU).contains(&net.mtu)), "mtu");
    assert!(net.is_none_or(|net| net.mac[0] & 1 == 0), "mac");
    let tap = net.map(|net| net.tap);
    let lazy = spec.disks.iter().filter_map(|disk| disk.lazy.as_ref().map(|lazy| (disk, lazy)));
    for (disk, lazy) in lazy.clone() {
        assert!(disk.read_only && (1..=MAX_DISK_TIMEOUT_MS).contains(&lazy.timeout_ms), "lazy");
    }
    let lazy = lazy.flat_map(|(_, lazy)| [lazy.presence, lazy.requests]);
    for fd in fds.chain(ports.map(|(_, fd)| *fd)).chain(lazy).chain(tap) {
        assert!(fd > 2 && seen.insert(fd), "descriptor {fd} is a standard stream or taken twice");
    }
}

#[cfg(test)]
mod tests;
