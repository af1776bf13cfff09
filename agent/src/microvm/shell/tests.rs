//! Assignments, taken by a VMM that is played; its process is a script.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::super::options::Part;
use super::super::tests::spec;
use super::super::{KernelMemory, Microvm, MicrovmSpec};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
/// It writes down its arguments, says something and goes on until it is killed.
const VMM: &str = "#!/bin/sh
printf '%s\\n' \"$@\" > \"${0%/*}/arguments.new\"
echo 'votive-vmm: so it is' >&2
/bin/mv \"${0%/*}/arguments.new\" \"${0%/*}/arguments\"
exec /bin/sleep 600
";

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vmm"), VMM).unwrap();
        fs::set_permissions(folder.path().join("vmm"), fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    fn vmm(&self) -> PathBuf {
        self.0.path().join("vmm")
    }

    async fn arguments(&self) -> Vec<String> {
        let read = async {
            loop {
                if let Ok(text) = fs::read_to_string(self.0.path().join("arguments")) {
                    return text.lines().map(str::to_owned).collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, read).await.unwrap()
    }

    /// A shell, and the other end of its socket, which the test has in the script's place.
    async fn shell(&self) -> (Shell, UnixStream) {
        let spec = ProcessSpec {
            vmm: self.vmm(),
            vcpus: 2,
            memory_mib: 200,
            disks: 4,
            kernel_memory: KernelMemory::Demand,
            cgroup: None,
            jail: None,
        };
        let shell = Shell::start(spec).await.unwrap();
        self.arguments().await;
        let (control, theirs) = UnixStream::pair().unwrap();
        (Shell { control, ..shell }, theirs)
    }
}

/// What came first.
async fn receive(socket: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
    let received = socket.async_io(Interest::READABLE, || {
        let mut bytes = vec![0; 1 << 16];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let count = rustix::net::recvmsg(socket, parts, &mut rights, flags)?.bytes;
        let descriptors = rights.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors = descriptors.flatten().collect();
        bytes.truncate(count);
        Ok((bytes, descriptors))
    });
    timeout(PATIENCE, received).await.unwrap().unwrap()
}

fn file(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn options() -> Options {
    let mut options = Options::default();
    options.descriptor("--kernel", file("kernel"));
    let disk = vec![Part::from("path="), Part::Descriptor(file("disk").into())];
    options.parts("--disk", disk);
    options.text("--deadline", 7);
    options
}

#[tokio::test]
async fn a_shell_is_told_its_size_and_then_the_rest_in_one_message() {
    let host = Host::new();
    let (shell, vmm) = host.shell().await;
    let parent = std::process::id().to_string();
    assert_eq!(
        host.arguments().await,
        [
            ["--vcpus", "2"],
            ["--memory-mib", "200"],
            ["--kernel-memory", "demand"],
            ["--parent", &parent],
            ["--disks", "4"],
            ["--shell", "fd:3"]
        ]
        .concat()
    );
    let options = options();
    let play = async {
        let (bytes, descriptors) = receive(&vmm).await;
        let text = b"--kernel\0fd:0\0--disk\0path=fd:1\0--deadline\x007\0";
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        assert_eq!(bytes, [&b"a"[..], &length, text].concat());
        let read = descriptors.into_iter().map(|descriptor| {
            let mut text = String::new();
            File::from(descriptor).read_to_string(&mut text).unwrap();
            text
        });
        assert!(read.eq(["kernel", "disk"]));
        vmm.writable().await.unwrap();
        vmm.try_write(b"a").unwrap();
    };
    let (assigned, ()) = tokio::join!(shell.assign(&options), play);
    let (mut running, _control) = assigned.unwrap();
    // The same process goes on.
    assert!(timeout(Duration::ZERO, running.process.ended()).await.is_err());
    running.process.kill();
    timeout(PATIENCE, running.process.ended()).await.unwrap();
}

#[tokio::test]
async fn a_shell_that_does_not_take_its_assignment_is_gone_with_its_reason() {
    for answer in [None, Some(b'x')] {
        let host = Host::new();
        let (shell, vmm) = host.shell().await;
        let id = shell.process_id().unwrap();
        let options = options();
        let play = async {
            receive(&vmm).await;
            if let Some(byte) = answer {
                vmm.try_write(&[byte]).unwrap();
            }
            drop(vmm);
        };
        let (assigned, ()) = tokio::join!(shell.assign(&options), play);
        let Err(NotAssigned::Failed(error)) = assigned else { panic!("it was taken") };
        assert_eq!(error.to_string(), "a shell did not take its assignment: so it is");
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "the process is left");
    }
}

#[tokio::test]
async fn more_than_a_shell_takes_is_not_sent() {
    let host = Host::new();
    let (shell, vmm) = host.shell().await;
    let mut options = options();
    options.text("--cmdline", "x".repeat(OPTIONS_BYTES_MAX));
    let assigned = shell.assign(&options).await;
    assert!(matches!(assigned, Err(NotAssigned::Failed(_))));
    let mut byte = [0];
    vmm.readable().await.unwrap();
    assert_eq!(vmm.try_read(&mut byte).unwrap(), 0);
}

#[tokio::test]
async fn a_microvm_whose_shell_has_ended_is_started_without() {
    let host = Host::new();
    let (shell, vmm) = host.shell().await;
    drop(vmm);
    fs::remove_file(host.0.path().join("arguments")).unwrap();
    let spec = MicrovmSpec { shell: Some(shell), ..spec(host.vmm()) };
    let spawned = Microvm::spawn(spec).await.unwrap();
    let arguments = host.arguments().await;
    assert!(arguments.iter().any(|argument| argument == "--control"), "{arguments:?}");
    assert!(arguments.iter().all(|argument| argument != "--shell"), "{arguments:?}");
    drop(spawned);
}
