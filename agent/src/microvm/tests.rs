//! What comes out of a VMM, and what goes in.

use super::process::{last_bytes, last_line};
use super::*;
use crate::limits::VMM_STDERR_MAX;

/// The least that a VMM can be started with.
pub(super) fn spec(vmm: PathBuf) -> MicrovmSpec {
    MicrovmSpec {
        vmm,
        kernel: PathBuf::from("/dev/null"),
        initrd: PathBuf::from("/dev/null"),
        vcpus: 1,
        memory_mib: 128,
        disks: Vec::new(),
        tap: None,
        limits: DeviceLimits::default(),
        console: None,
        kernel_memory: KernelMemory::default(),
        deadline: None,
        cgroup: None,
        jail: None,
        shell: None,
    }
}

#[test]
fn marks_are_read_and_nonsense_is_dropped() {
    let mark = parse_mark(b"guest-0x01 1500\n").unwrap();
    assert_eq!((mark.name.as_str(), mark.at), ("guest-0x01", Moment::from_nanoseconds(1500)));
    for line in
        [&b"start"[..], b"start x", b"start -1", b"\xff 1", b"", b"start 99999999999999999999"]
    {
        assert_eq!(parse_mark(line), None, "{line:?}");
    }
}

#[test]
fn the_reason_is_the_last_line_without_the_program_and_without_controls() {
    assert_eq!(last_line(b"first\nvotive-vmm: vcpu 0: \x1b[31mbad\n\n"), "vcpu 0: [31mbad");
    assert_eq!(last_line(b""), "");
}

#[test]
fn every_way_to_end_has_its_words() {
    let end = |code, signal, reason: &str| {
        MicrovmEnd { code, signal, reason: String::from(reason), marks: Vec::new() }.to_string()
    };
    assert_eq!(end(Some(0), None, ""), "the guest powered off");
    assert_eq!(end(Some(1), None, "no kernel"), "the microVM could not be set up: no kernel");
    assert_eq!(end(Some(4), None, "vcpu 1"), "a vCPU failed: vcpu 1");
    assert_eq!(end(Some(6), None, ""), "the microVM's deadline passed");
    assert_eq!(end(Some(7), None, ""), "the agent let go of the microVM");
    assert_eq!(end(Some(77), None, ""), "votive-vmm ended with exit code 77");
    assert_eq!(end(None, Some(9), ""), "votive-vmm was killed by signal 9");
}

#[tokio::test]
async fn a_flood_of_marks_and_of_errors_is_bounded() {
    let (mut sender, receiver) = pipe::pipe().unwrap();
    let flood = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let line = format!("{} 1\nstart 2\n", "x".repeat(3 * MARK_LINE_MAX));
        for _ in 0..MARKS_MAX {
            sender.write_all(line.as_bytes()).await.unwrap();
        }
    });
    let marks = read_marks(receiver).await;
    flood.await.unwrap();
    assert_eq!(marks.len(), MARKS_MAX);

    let bytes = vec![b'e'; VMM_STDERR_MAX * 3];
    assert_eq!(last_bytes(bytes.as_slice()).await.len(), VMM_STDERR_MAX);
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let spec = spec(PathBuf::from("/nowhere/votive-vmm"));
    let error = Microvm::spawn(spec).await.unwrap_err();
    assert_eq!(error.to_string(), "/nowhere/votive-vmm cannot be started");
}

#[test]
fn a_disk_has_on_the_command_line_what_makes_it_lazy_encrypted_or_limited() {
    let file = || tempfile::tempfile().unwrap();
    let mut options = Options::default();
    let none = QueueLimits::default();
    let limits = QueueLimits { bandwidth: Rate::new(500, None), operations: None };
    options.parts("--disk", Disk::new(file(), false).parts(limits));
    let (requests, _server) = std::os::unix::net::UnixStream::pair().unwrap();
    let timeout = Duration::from_secs(35);
    let reads = Some(file());
    let lazy = Some(LazyDisk { presence: file(), requests: requests.into(), reads, timeout });
    options.parts("--disk", Disk { lazy, ..Disk::new(file(), true) }.parts(none));
    options.parts("--disk", Disk::encrypted(file(), file()).parts(none));
    let arguments = options.arguments(3);
    let values: Vec<_> = arguments.iter().skip(1).step_by(2).collect();
    assert_eq!(
        values,
        [
            "path=fd:3,bandwidth=500",
            "path=fd:4,readonly,presence=fd:5,requests=fd:6,reads=fd:7,timeout-ms=35000",
            "path=fd:8,encrypted,template=fd:9"
        ]
    );
    assert_eq!((options.descriptors().len(), options.into_descriptors().len()), (7, 7));
}
