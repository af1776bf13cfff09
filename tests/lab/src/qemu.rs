//! The QEMU process that is L1's machine.

#![expect(unsafe_code, reason = "a child must be told before it starts to die with its parent")]

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use crate::Images;
use crate::error::Error;
use crate::job::Job;

/// Debian's name of the emulator.
const PROGRAM: &str = "qemu-system-x86_64";

/// What the emulator and L1's console leave in the run's folder.
pub(crate) const STDERR_LOG: &str = "qemu.log";
pub(crate) const CONSOLE_LOG: &str = "console.log";

/// A running machine, ended when dropped.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
}

impl Qemu {
    /// Starts L1. Its frames come out of [`Qemu::frames`].
    pub(crate) fn start(
        images: &Images,
        job: &Job,
        payload: &Path,
        folder: &Path,
    ) -> Result<Self, Error> {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments(images, job, payload, folder))
            // An end of this pipe would tell L1 that nobody reads its frames: it stays open, in `child`.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join(STDERR_LOG))?);
        let die_with_parent = || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into)
        };
        // SAFETY: between fork and exec only calls that are safe in a signal handler are made: this is one system call.
        unsafe { command.pre_exec(die_with_parent) };
        let child =
            command.spawn().map_err(|source| Error::Program { program: PROGRAM, source })?;
        Ok(Self { child })
    }

    /// The stream of frames; there is one.
    pub(crate) fn frames(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(images: &Images, job: &Job, payload: &Path, folder: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |text: &str| words.extend(text.split(' ').map(OsString::from));
    add("-no-user-config -nodefaults -display none -no-reboot -machine q35 -cpu EPYC,+svm");
    if job.exact {
        // One instruction is one nanosecond, and idle time is skipped.
        add("-accel tcg,thread=single -icount shift=0,sleep=off -smp 1");
    } else {
        // One processor and one thread that emulates it. With two, a guest of about every 240th boot ended in a triple
        // fault: QEMU 7.2 runs nested guests on several threads at once without all that their page tables ask for.
        add("-accel tcg,thread=single -smp 1");
    }
    add(&format!("-m {}", job.memory_mib));
    // Frames leave through our pipe, the console through a file.
    add("-chardev stdio,id=frames,signal=off -device virtio-serial-pci");
    add("-device virtserialport,chardev=frames,name=votive.lab");
    let mut path = |option: &str, before: &str, path: &Path| {
        let mut value = OsString::from(before);
        value.push(path);
        words.extend([OsString::from(option), value]);
    };
    path("-serial", "file:", &folder.join(CONSOLE_LOG));
    path("-kernel", "", &images.kernel);
    path("-initrd", "", &images.initrd);
    let disks = std::iter::once(payload).chain(images.layers.iter().map(AsRef::as_ref));
    for (i, disk) in disks.enumerate() {
        path("-drive", &format!("if=none,id=d{i},format=raw,readonly=on,file="), disk);
        path("-device", &format!("virtio-blk-pci,drive=d{i}"), Path::new(""));
    }
    words.extend(["-append".into(), "console=ttyS0 panic=-1 quiet".into()]);
    words
}
