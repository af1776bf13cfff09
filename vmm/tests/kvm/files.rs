//! Wrong specs and wrong files: an exit code of 2 or 1, and a line that names what is wrong.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};
use votive_vmm::memory::{GuestRam, LowMemory};

use crate::guest::{Guest, IDLE, mark, program, stop};

#[test]
fn a_wrong_spec_ends_with_2_before_anything_is_opened() {
    let guest = Guest::new(&[&stop(0)]);
    let marks = guest.file("marks");
    let guest = guest.with(&["--marks", marks.to_str().unwrap(), "--cmdline", "a\u{7f}b"]);
    guest.run().is(2, "--cmdline: \"a\\u{7f}b\" is not allowed; allowed: printable ASCII");
    assert!(!marks.exists());
}

#[test]
fn help_and_version_end_with_0() {
    for (argument, part) in [("--help", "--memory-mib N"), ("--version", "votive-vmm 0.")] {
        let output = program(&[argument.to_owned()]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains(part));
    }
}

#[test]
fn a_kernel_that_is_none_ends_with_1_and_says_what_it_is() {
    let cases: [(u64, &[u8], &str); 6] = [
        (0, b"MZ", "the kernel is not an ELF file"),
        (4, &[1], "not a 64-bit little-endian ELF executable"),
        (18, &[183], "for ELF machine 183"),
        (56, &[0xff, 0xff], "65535 program headers"),
        (64 + 24, &[0, 0, 0, 0], "segment 0 at 0x0"),
        (24, &[0, 0, 0, 7], "entry 0x7000000 is outside its segments"),
    ];
    for (offset, bytes, part) in cases {
        let guest = Guest::new(&[&stop(0)]);
        let file = OpenOptions::new().write(true).open(guest.file("kernel")).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        guest.run().is(1, part);
    }
}

#[test]
fn a_kernel_cut_short_or_missing_or_a_folder_ends_with_1() {
    let guest = Guest::new(&[&stop(0)]);
    let kernel = guest.file("kernel");
    OpenOptions::new().write(true).open(&kernel).unwrap().set_len(0x1800).unwrap();
    guest.run().is(1, "the kernel is cut short");
    std::fs::remove_file(&kernel).unwrap();
    guest.run().is(1, "cannot open kernel");
    std::fs::create_dir(&kernel).unwrap();
    guest.run().is(1, "kernel");
}

#[test]
fn an_initrd_or_disk_that_cannot_be_used_ends_with_1() {
    let guest = Guest::new(&[&stop(0)]);
    let empty = guest.file("empty");
    std::fs::File::create(&empty).unwrap();
    let empty = empty.to_str().unwrap().to_owned();
    guest.with(&["--initrd", &empty]).run().is(1, "the initrd has 0 bytes");
    let guest = Guest::new(&[&stop(0)]).with(&["--disk", "path=/nonexistent/disk"]);
    guest.run().is(1, "cannot open disk /nonexistent/disk");
    let guest = Guest::new(&[&stop(0)]);
    let small = guest.file("small");
    std::fs::File::create(&small).unwrap().write_all(&[0; 511]).unwrap();
    let disk = format!("path={}", small.display());
    guest.with(&["--disk", &disk]).run().is(1, "cannot use disk 0");
}

#[test]
fn every_file_may_be_an_inherited_descriptor() {
    let guest = Guest::new(&[&mark(3), &stop(0)]);
    for name in ["disk", "initrd"] {
        std::fs::File::create(guest.file(name)).unwrap().write_all(&[0; 512]).unwrap();
    }
    let script = "exec \"$0\" --vcpus 1 --memory-mib 128 --kernel fd:3 --disk path=fd:4,readonly --initrd fd:5 \
                  --marks fd:6 --console fd:7 3<kernel 4<disk 5<initrd 6>marks 7>console";
    let output = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_votive-vmm")])
        .current_dir(guest.file("."))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(std::fs::read_to_string(guest.file("marks")).unwrap().contains("guest-0x03"));
}

#[test]
fn a_descriptor_that_is_not_open_ends_with_1() {
    Guest::new(&[&stop(0)]).with(&["--initrd", "fd:900"]).run().is(1, "cannot open initrd fd:900");
}

#[test]
fn a_fifo_in_any_files_place_is_never_waited_for() {
    let guest = Guest::new(&[&stop(0)]);
    let fifo = guest.file("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let fifo = fifo.to_str().unwrap();
    let path = format!("path={fifo}");
    for (option, value, code) in [
        ("--initrd", fifo, 1),
        ("--marks", fifo, 1),
        ("--console", fifo, 1),
        ("--disk", path.as_str(), 1),
    ] {
        let mut arguments = guest.arguments().to_vec();
        arguments.extend([option, value].map(String::from));
        let output = program(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{option}: {output:?}");
    }
}

#[test]
fn a_signal_leaves_no_socket_behind_though_vcpus_run() {
    let guest = Guest::shaped(&[&mark(1), &IDLE], 2);
    let socket = guest.file("vsock");
    let vsock = format!("cid=3,path={}", socket.display());
    let guest = guest.with(&["--vsock", &vsock]);
    let running = guest.start();
    assert!(socket.exists());
    running.signal("TERM");
    running.wait().is(143, "signal 15");
    assert!(!socket.exists(), "the vsock socket is gone with its process");
}

#[test]
fn every_device_at_once_leaves_no_socket_behind() {
    let guest = Guest::new(&[&stop(0)]);
    let disk = guest.file("disk");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let socket = guest.file("vsock");
    let (disk, vsock) =
        (format!("path={}", disk.display()), format!("cid=3,path={}", socket.display()));
    let disks: Vec<&str> = ["--disk", &disk].repeat(8);
    let guest = guest.with(&disks).with(&["--vsock", &vsock, "--console", "/dev/null"]);
    guest.run().is(0, "guest powered off");
    assert!(!socket.exists(), "the vsock socket is gone with its process");
}

/// Set in a process that is to touch a page that its file has lost.
const LOSE: &str = "VOTIVE_TEST_LOSE_A_PAGE";

#[test]
fn a_device_that_reads_a_page_its_file_has_lost_ends_the_process_with_a_reason() {
    if std::env::var_os(LOSE).is_some() {
        lose_a_page();
    }
    let name = "files::a_device_that_reads_a_page_its_file_has_lost_ends_the_process_with_a_reason";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(LOSE, "1")
        .output()
        .unwrap();
    let reason = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{reason}");
    assert!(reason.contains("votive-vmm: a mapped file was cut short while in use\n"), "{reason}");
}

/// What a device does that a guest points at such a page.
fn lose_a_page() {
    let file = std::sync::Arc::new(tempfile::tempfile().unwrap());
    file.set_len(0x2000).unwrap();
    let ram = GuestRam::map(128 << 20, LowMemory::SmallPages).unwrap();
    ram.place(&file, 0, 16 << 20, 0x2000).unwrap();
    votive_vmm::signals::explain_lost_pages().unwrap();
    file.set_len(0).unwrap();
    let byte = ram.shared().read_obj::<u8>(GuestAddress(16 << 20)).unwrap();
    panic!("a lost page was read as {byte}");
}
