//! Facts about the console.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::{Console, open};
use crate::descriptor::{Descriptors, FileRef};
use crate::spec::ConsoleSpec;
use vmm_sys_util::eventfd::EventFd;

fn line() -> EventFd {
    EventFd::new(0).unwrap()
}

#[test]
fn what_the_guest_writes_to_the_data_register_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let console = Console::new(
        open(&ConsoleSpec::File(FileRef::Path(path.clone())), &mut Descriptors::Inherited).unwrap(),
        line(),
    );
    b"hello\n".iter().for_each(|byte| console.write(0, *byte));
    assert_eq!(std::fs::read(path).unwrap(), b"hello\n");
    assert_eq!(console.dropped_bytes(), 0);
    assert_eq!(console.read(5) & 0x60, 0x60, "the transmitter is always ready");
}

#[test]
fn a_reader_that_does_not_read_costs_output_and_no_time() {
    let (mut reader, writer) = io::pipe().unwrap();
    let fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
    let file = OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(fd).unwrap();
    let console = Console::new(file, line());
    drop(writer);
    for _ in 0..100_000 {
        console.write(0, b'x');
    }
    let dropped = console.dropped_bytes();
    assert!(dropped > 0, "a pipe holds less than 100,000 bytes");
    drop(console);
    let mut taken = Vec::new();
    reader.read_to_end(&mut taken).unwrap();
    assert_eq!(taken.len() as u64 + dropped, 100_000);
}

#[test]
fn a_fifo_without_a_reader_is_an_error_and_not_a_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    let error = open(&ConsoleSpec::File(FileRef::Path(path)), &mut Descriptors::Inherited)
        .expect_err("nobody reads it");
    assert!(error.to_string().contains("fifo"), "{error}");
}

#[test]
fn an_output_that_fails_is_counted() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let console = Console::new(Broken, line());
    console.write(0, b'x');
    assert_eq!(console.dropped_bytes(), 1);
}
