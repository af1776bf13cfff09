//! Shells: made before anybody needs them, and then a microVM by one message.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use votive_vmm::deadline::boottime_ns;

use crate::guest::{Control, End, Guest, IDLE, PATIENCE, mark, stop};

/// A shell that waits.
struct Shell {
    child: std::process::Child,
    control: Control,
}

impl Shell {
    fn start(options: &[&str]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script = "exec \"$0\" \"$@\" --shell fd:3 3<&0 </dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_votive-vmm")]);
        command.args(["--vcpus", "2", "--memory-mib", "128"]).args(options);
        let child = command.stdin(OwnedFd::from(theirs)).stderr(Stdio::piped()).spawn().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { child, control: Control(ours) }
    }

    fn assign(&self, options: &[&str], files: &[BorrowedFd<'_>]) {
        let text = options.join("\0");
        let bytes = u32::try_from(text.len()).unwrap().to_le_bytes();
        let message = [b"a", &bytes[..], text.as_bytes()].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        let bytes = [IoSlice::new(&message)];
        let sent = sendmsg(&self.control.0, &bytes, &mut control, SendFlags::empty());
        assert_eq!(sent.unwrap(), message.len());
    }

    /// The byte that comes next.
    fn answer(&self) -> u8 {
        let mut answer = [0];
        (&self.control.0).read_exact(&mut answer).unwrap();
        answer[0]
    }

    fn wait(self) -> End {
        // The other end stays open until then.
        End::of(self.child.wait_with_output().unwrap())
    }
}

/// The kernel's file of a guest, opened, and one for its marks.
fn files(guest: &Guest) -> (File, File) {
    (File::open(guest.file("kernel")).unwrap(), File::create(guest.file("marks")).unwrap())
}

#[test]
fn a_shell_becomes_the_microvm_that_it_is_assigned_and_is_driven_by_the_same_socket() {
    let guest = Guest::new(&[&mark(1), &IDLE]);
    let (kernel, marks) = files(&guest);
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1 << 20).unwrap();
    let shell = Shell::start(&["--disks", "3"]);
    let (port, _peer) = UnixStream::pair().unwrap();
    shell.assign(
        &[
            "--kernel",
            "fd:0",
            "--marks",
            "fd:3",
            "--disk",
            "path=fd:1",
            "--vsock",
            "cid=3,port=1024:fd:2",
            "--no-rng",
            "--cmdline",
            "quiet",
        ],
        &[kernel.as_fd(), disk.as_fd(), port.as_fd(), marks.as_fd()],
    );
    assert_eq!(shell.answer(), b'a');
    shell.control.pause();
    shell.control.resume();
    assert_eq!(shell.control.ask(b'x'), b'?');
    drop(shell.control);
    let end = End::of(shell.child.wait_with_output().unwrap());
    end.is(7, "control channel closed");
    let marks = std::fs::read_to_string(guest.file("marks")).unwrap();
    assert!(marks.starts_with("start "), "{marks}");
}

#[test]
fn opened_devices_are_all_that_a_shell_needs() {
    let guest = Guest::new(&[&mark(1), &stop(9)]);
    let (kernel, _) = files(&guest);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let script = "exec \"$0\" \"$@\" --shell fd:3 --kvm fd:4 3<&0 4<>/dev/kvm </dev/null";
    let child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_votive-vmm")])
        .args(["--vcpus", "1", "--memory-mib", "128", "--kernel-memory", "copied"])
        .stdin(OwnedFd::from(theirs))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let shell = Shell { child, control: Control(ours) };
    shell.assign(&["--kernel", "fd:0"], &[kernel.as_fd()]);
    shell.wait().is(3, "guest stopped with code 9");
}

#[test]
fn a_wrong_assignment_ends_with_2_and_names_what_is_wrong() {
    let guest = Guest::new(&[&stop(0)]);
    let path = guest.file("kernel");
    let path = path.to_str().unwrap();
    let disk = ["--disk", "path=fd:1"].repeat(2);
    let cases: [(Vec<&str>, &str); 9] = [
        (vec!["--kernel", path], "--kernel: \""),
        (vec!["--kernel", "fd:2"], "--kernel: \"fd:2\" is not allowed"),
        (vec!["--kernel", "fd:0", "--initrd", "fd:0"], "fd:0 twice"),
        (vec!["--kernel", "fd:0", "--vcpus", "1"], "--vcpus is given twice"),
        (vec!["--kernel", "fd:0", "--control", "fd:1"], "in an assignment:"),
        (vec!["--kernel", "fd:0", "--vsock", "cid=3,path=/tmp/x"], "--vsock path: \"/tmp/x\""),
        (vec!["--kernel", "fd:0", "--console", "stdout"], "--console: \"stdout\""),
        (vec!["--help"], "in an assignment:"),
        ([vec!["--kernel", "fd:0"], disk].concat(), "--disk: \"2 disks\" is not allowed"),
    ];
    for (options, part) in cases {
        let (kernel, other) = files(&guest);
        let shell = Shell::start(&["--disks", "1"]);
        shell.assign(&options, &[kernel.as_fd(), other.as_fd()]);
        shell.wait().is(2, part);
    }
    let shell = Shell::start(&[]);
    (&shell.control.0).write_all(b"p").unwrap();
    shell.wait().is(2, "cannot take the assignment: the assignment does not begin with `a`");
}

#[test]
fn a_kernel_that_is_none_ends_a_shell_with_1() {
    let guest = Guest::new(&[&stop(0)]);
    let (_, empty) = files(&guest);
    let shell = Shell::start(&[]);
    shell.assign(&["--kernel", "fd:0"], &[empty.as_fd()]);
    shell.wait().is(1, "cannot load the kernel");
}

#[test]
fn a_waiting_shell_ends_with_its_peer_at_a_signal_and_at_its_deadline() {
    let Shell { child, control } = Shell::start(&[]);
    drop(control);
    End::of(child.wait_with_output().unwrap()).is(7, "control channel closed");
    let at = (boottime_ns() + 300_000_000).to_string();
    Shell::start(&["--deadline", &at]).wait().is(6, "deadline passed");
}

#[test]
fn a_deadline_may_come_with_the_assignment() {
    let guest = Guest::new(&[&IDLE]);
    let (kernel, _) = files(&guest);
    let shell = Shell::start(&[]);
    let at = (boottime_ns() + 300_000_000).to_string();
    shell.assign(&["--kernel", "fd:0", "--deadline", &at], &[kernel.as_fd()]);
    shell.wait().is(6, "deadline passed");
}

#[test]
fn a_shell_says_which_options_are_its_own() {
    for (options, part) in [
        (["--kernel", "fd:4"], "with --shell:"),
        (["--disks", "9"], "--disks: \"9\" is not allowed; allowed: 0 to 8"),
        (["--kvm", "fd:3"], "fd:3 twice"),
    ] {
        Shell::start(&options).wait().is(2, part);
    }
}
