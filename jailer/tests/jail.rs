//! The jailer as a process, with programs of a few instructions in its jails. Where nobody may make one, it must say so.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};

const JAILER: &str = env!("CARGO_BIN_EXE_votive-jailer");
/// Above the ids that hosts give out; its lowest byte is 0x2c.
const UID: u32 = 2_000_000_300;
const NOT_ALLOWED: &str = "votive-jailer: neither root nor CAP_SETUID and CAP_SETGID: a process cannot be given a user of its own\n";

/// A static program of these instructions, with `text` behind them.
fn program(instructions: &[u8], text: &[u8]) -> File {
    const BASE: u64 = 0x40_0000;
    const START: u64 = 64 + 56;
    let length = START + (instructions.len() + text.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2_u16, 62].iter().flat_map(|it| it.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    elf.extend([BASE + START, 64, 0].iter().flat_map(|it| it.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|it| it.to_le_bytes()));
    // One segment, to be read and executed.
    elf.extend([1_u32, 5].iter().flat_map(|it| it.to_le_bytes()));
    elf.extend([0, BASE, BASE, length, length, 4096].iter().flat_map(|it: &u64| it.to_le_bytes()));
    elf.extend(instructions);
    elf.extend(text);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(&elf).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // A file that is open for writing is not executed.
    File::open(file.into_temp_path()).unwrap()
}

/// Ends with the low byte of what system call `number` returns for `first`, negated if it failed.
fn ends_with(number: u32, first: u32) -> File {
    let mut code = vec![0xbf];
    code.extend(first.to_le_bytes());
    code.push(0xb8);
    code.extend(number.to_le_bytes());
    // xor esi, esi; syscall; test eax, eax; jns +2; neg eax; mov edi, eax; mov eax, 60 (exit); syscall
    code.extend(b"\x31\xf6\x0f\x05\x85\xc0\x79\x02\xf7\xd8\x89\xc7\xb8\x3c\0\0\0\x0f\x05");
    program(&code, b"")
}

/// Ends with the number of the error that opening `path` gives.
fn opens(path: &str) -> File {
    // lea rdi, [rip + 22]; xor esi, esi; mov eax, 2 (open); syscall; neg eax; mov edi, eax; mov eax, 60 (exit); syscall
    let code = b"\x48\x8d\x3d\x14\0\0\0\x31\xf6\xb8\x02\0\0\0\x0f\x05\xf7\xd8\x89\xc7\xb8\x3c\0\0\0\x0f\x05";
    program(code, format!("{path}\0").as_bytes())
}

/// Whether jails can be made here, for the tests that follow: if not, the jailer says why, and there is nothing more to see.
fn is_allowed() -> bool {
    let output = jailer("--check --without cgroup", &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(1) && said == NOT_ALLOWED {
        return false;
    }
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    true
}

/// Starts the jailer with these descriptors from 3 on, and waits for its end.
fn jailer(options: &str, inherited: &[&dyn AsFd]) -> Output {
    command(options, inherited, |command| command.output().unwrap())
}

/// Has `run` start the jailer.
fn command<T>(options: &str, inherited: &[&dyn AsFd], run: impl Fn(&mut Command) -> T) -> T {
    // The shell puts the descriptors where they are wanted.
    let mut script = String::from("exec \"$0\" \"$@\"");
    let mut copies = Vec::new();
    for (number, file) in (3..).zip(inherited) {
        // Above those that are set, so that none is overwritten before it is copied.
        let copy = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 100).unwrap();
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
        script.push_str(&format!(" {number}<&{0} {0}<&-", copy.as_raw_fd()));
        copies.push(copy);
    }
    let mut command = Command::new("bash");
    command.args(["-c", &script, JAILER, "--uid", &UID.to_string(), "--gid", &UID.to_string()]);
    command.args(options.split_whitespace()).stdin(Stdio::null());
    run(&mut command)
}

/// The pidfd that was sent.
fn received(socket: &UnixStream) -> OwnedFd {
    let mut message = [0; 5];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut rights, flags);
    assert_eq!((got.unwrap().bytes, message[0]), (5, b'p'));
    let mut files = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    files.next().and_then(|mut files| files.next()).unwrap()
}

fn end(pidfd: &OwnedFd) -> WaitIdStatus {
    let waited = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    waited.unwrap().unwrap()
}

/// Executes `program` as descriptor 3 in a jail, with a socket as 4 and `more` from 5 on, and gives its end.
fn jailed(program: &File, options: &str, more: &[&dyn AsFd]) -> WaitIdStatus {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut inherited: Vec<&dyn AsFd> = vec![program, &theirs];
    inherited.extend(more);
    let options = format!("--program fd:3 --socket fd:4 --without cgroup {options}");
    let output = jailer(&options, &inherited);
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (Some(0), "")
    );
    end(&received(&ours))
}

#[test]
fn a_program_runs_as_somebody_else_and_first_in_its_namespace() {
    if !is_allowed() {
        return;
    }
    let (getuid, getgid, getpid, getppid) = (102, 104, 39, 110);
    for (number, expected) in [(getuid, 0x2c), (getgid, 0x2c), (getpid, 1), (getppid, 0)] {
        let status = jailed(&ends_with(number, 0), "", &[]);
        assert_eq!(status.exit_status(), Some(expected), "system call {number}");
    }
}

#[test]
fn there_is_no_file_in_a_jail() {
    if !is_allowed() {
        return;
    }
    for path in ["/proc/self/status", "/dev/null", "/etc/passwd", "/tmp", "/..//etc", "/x"] {
        let status = jailed(&opens(path), "", &[]);
        assert_eq!(status.exit_status(), Some(libc::ENOENT), "{path}");
    }
    // Landlock: the folder itself is there.
    assert_eq!(jailed(&opens("/"), "", &[]).exit_status(), Some(libc::EACCES));
}

#[test]
fn no_user_namespace_can_be_made_in_a_jail_nor_any_other() {
    if !is_allowed() {
        return;
    }
    let unshare = 272;
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
        let status = jailed(&ends_with(unshare, flag.cast_unsigned()), "", &[]);
        assert_eq!(status.exit_status(), Some(libc::EPERM), "{flag:#x}");
    }
}

#[test]
fn only_descriptors_that_are_named_are_open() {
    if !is_allowed() {
        return;
    }
    let (fcntl, first, second) = (72, tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    for (fd, expected) in [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, libc::EBADF),
        (4, libc::EBADF),
        (5, libc::EBADF),
        (6, 1),
        (7, 1),
        (8, libc::EBADF),
    ] {
        // F_DUPFD, whose argument 0 makes it the lowest that is free: 3 for any that is open.
        let status =
            jailed(&ends_with(fcntl, fd), "--keep 6-7", &[&first, &first, &second, &second]);
        let expected = if expected == libc::EBADF { libc::EBADF } else { 3 };
        assert_eq!(status.exit_status(), Some(expected), "descriptor {fd}");
    }
}

#[test]
fn what_cannot_be_made_is_said_in_a_line() {
    if !is_allowed() {
        return;
    }
    let (null, ours) = (File::open("/dev/null").unwrap(), UnixStream::pair().unwrap());
    let program = ends_with(39, 0);
    let own = rustix::process::geteuid().as_raw();
    let folder = File::open("/").unwrap();
    for (options, inherited, expected) in [
        (
            "--program fd:3 --without cgroup",
            vec![&null as &dyn AsFd],
            "cannot execute the program: Permission denied (os error 13)",
        ),
        ("--program fd:3 --without cgroup", vec![], "fd:3 is not open"),
        ("--program fd:3 --keep 4-5 --without cgroup", vec![&program, &null], "fd:5 is not open"),
        (
            "--program fd:3 --kvm fd:4 --without cgroup",
            vec![&program, &null],
            "fd:4 is open already",
        ),
        (
            "--program fd:3 --parent 1 --without cgroup",
            vec![&program],
            "process 1 is not the parent",
        ),
        (
            "--program fd:3 --cgroup fd:4",
            vec![&program, &folder],
            "cannot make the namespaces: Bad file descriptor (os error 9)",
        ),
        (
            "--program fd:3 --netns fd:4 --without cgroup",
            vec![&program, &null],
            "cannot enter the network namespace: Invalid argument (os error 22)",
        ),
        (
            "--program fd:3 --socket fd:4 --without cgroup",
            vec![&program, &null],
            "cannot send the pidfd: Socket operation on non-socket (os error 88)",
        ),
    ] {
        let output = jailer(options, &inherited);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), said),
            (Some(1), format!("votive-jailer: {expected}\n")),
            "{options}"
        );
    }
    drop(ours);
    let (uid, gid) = (own.to_string(), rustix::process::getegid().as_raw().to_string());
    if own > 0 {
        let output = Command::new(JAILER)
            .args(["--uid", &uid, "--gid", &gid, "--check", "--without", "cgroup"])
            .output();
        assert_eq!(output.unwrap().status.code(), Some(1));
    }
}

#[test]
fn a_dynamic_program_finds_no_loader() {
    if !is_allowed() {
        return;
    }
    let shell = File::open("/bin/bash").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let output = jailer("--program fd:3 --socket fd:4 --without cgroup", &[&shell, &theirs]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("votive-jailer: cannot execute the program: "), "{said}");
    // It was begun, and is reaped by whoever it was begun for.
    assert_eq!(end(&received(&ours)).exit_status(), Some(1));
}

#[test]
fn a_program_is_killed_through_its_pidfd() {
    if !is_allowed() {
        return;
    }
    let pause = ends_with(34, 0);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = "--program fd:3 --socket fd:4 --without cgroup";
    // Without a pipe, which the program would keep open.
    let status = command(options, &[&pause, &theirs], |it| it.stderr(Stdio::null()).status());
    assert_eq!(status.unwrap().code(), Some(0));
    let pidfd = received(&ours);
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    assert_eq!(end(&pidfd).terminating_signal(), Some(libc::SIGKILL));
}

#[test]
fn wrong_arguments_have_a_code_of_their_own() {
    let output = Command::new(JAILER).arg("--uid").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let help = Command::new(JAILER).arg("--help").output().unwrap();
    assert_eq!((help.status.code(), help.stderr.len()), (Some(0), 0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit codes: 0 the program runs"));
}
