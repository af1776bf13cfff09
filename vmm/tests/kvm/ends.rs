//! How guests end: each in its own exit code and one line that says why.

use std::io::Read;

use crate::guest::{Guest, IDLE, LOAD, full_pipe, mark, start_second_vcpu, stop};

/// `jmp` to an absolute address: `mov rax, imm64; jmp rax`.
fn jump(to: u64) -> Vec<u8> {
    [&[0x48, 0xb8][..], &to.to_le_bytes(), &[0xff, 0xe0]].concat()
}

#[test]
fn a_guest_that_powers_off_ends_with_0() {
    Guest::new(&[&stop(0)]).run().is(0, "guest powered off");
}

#[test]
fn a_guest_that_stops_with_another_code_ends_with_3() {
    Guest::new(&[&stop(7)]).run().is(3, "guest stopped with code 7");
}

#[test]
fn a_triple_fault_ends_with_3() {
    // An undefined instruction, and an interrupt table of zeroes.
    Guest::new(&[&[0x0f, 0x0b]]).run().is(3, "triple fault on vcpu 0");
}

#[test]
fn a_vcpu_that_runs_where_there_is_no_memory_ends_with_4_every_time() {
    // The first GiB is mapped, the last 896 MiB of it have no memory.
    let guest = Guest::new(&[&jump(0x3000_0000)]);
    for _ in 0..20 {
        guest.run().is(4, "vcpu 0 failed: KVM internal error");
    }
}

#[test]
fn a_kernel_file_cut_under_a_running_guest_ends_with_4() {
    // A mark, then a load from the segment's last page for ever.
    let page = u32::try_from(LOAD).unwrap() + 0x2000;
    let load = [&[0x8a, 0x04, 0x25][..], &page.to_le_bytes(), &[0xeb, 0xf7]].concat();
    let guest = Guest::new(&[&mark(1), &load]).mapped();
    let running = guest.start();
    let kernel = std::fs::OpenOptions::new().write(true).open(guest.file("kernel")).unwrap();
    kernel.set_len(0x1000).unwrap();
    // Hardware's KVM says EFAULT, one that emulates the load says that it cannot.
    running.wait().is(4, "vcpu 0 failed: ");
}

#[test]
fn a_signal_ends_an_idle_guest_and_a_busy_one() {
    let busy = [0xeb, 0xfe];
    for code in [&IDLE[..], &busy] {
        let guest = Guest::new(&[&mark(1), code]);
        let running = guest.start();
        running.signal("TERM");
        running.wait().is(143, "ended by signal 15");
    }
    let running = Guest::new(&[&mark(1), &IDLE]).start();
    running.signal("INT");
    running.wait().is(130, "ended by signal 2");
}

#[test]
fn a_second_vcpu_runs_once_the_guest_starts_it() {
    // A mark, then the end with code 9.
    let start = start_second_vcpu([0xb0, 0x22, 0xe6, 0xf4, 0xb0, 0x09, 0xe6, 0xf5]);
    let guest = Guest::shaped(&[&start, &IDLE], 2);
    let marks = guest.file("marks");
    let guest = guest.with(&["--marks", marks.to_str().unwrap()]);
    guest.run().is(3, "guest stopped with code 9");
    assert!(std::fs::read_to_string(marks).unwrap().contains("guest-0x22"));
}

#[test]
fn accesses_that_nobody_answers_read_ones_and_end_nothing() {
    // in al, 0x80; out 0xf5, al: the code is what was read.
    Guest::new(&[&[0xe6, 0x80, 0xe4, 0x80, 0xe6, 0xf5]]).run().is(3, "code 255");
}

#[test]
fn the_console_prints_when_asked_for_and_is_not_there_otherwise() {
    let put = |byte: u8| [0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee];
    let code = [&put(b'h')[..], &put(b'i'), &put(b'\n'), &stop(0)];
    let guest = Guest::new(&code);
    let console = guest.file("console");
    let guest = guest.with(&["--console", console.to_str().unwrap()]);
    guest.run().is(0, "guest powered off");
    let mut printed = String::new();
    std::fs::File::open(&console).unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "hi\n");
    // The line status register of a port that is not there.
    Guest::new(&[&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xe6, 0xf5]]).run().is(3, "code 255");
}

#[test]
fn a_console_that_nobody_reads_does_not_hold_the_guest_up() {
    // 300,000 bytes to the serial port, far more than a pipe holds.
    let flood = [
        &[0x66, 0xba, 0xf8, 0x03, 0xb9][..],
        &300_u32.to_le_bytes(),
        &[0xb0, b'x', 0xee, 0xe2, 0xfd],
    ]
    .concat();
    let guest = Guest::new(&[&flood, &stop(0)]).with(&["--console", "stdout"]);
    let mut child = crate::guest::program(guest.arguments())
        .stdout(full_pipe())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_console_may_be_a_socket_that_is_full() {
    let flood = [
        &[0x66, 0xba, 0xf8, 0x03, 0xb9][..],
        &300_u32.to_le_bytes(),
        &[0xb0, b'x', 0xee, 0xe2, 0xfd],
    ]
    .concat();
    let guest = Guest::new(&[&flood, &stop(0)]).with(&["--console", "stdout"]);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &theirs, &[b'.'; 4096]).is_ok() {}
    theirs.set_nonblocking(false).unwrap();
    let output = crate::guest::program(guest.arguments())
        .stdout(std::os::fd::OwnedFd::from(theirs))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let reason = String::from_utf8(output.stderr).unwrap();
    assert!(reason.contains("bytes of console output were dropped"), "{reason}");
    drop(ours);
}
