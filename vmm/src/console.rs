//! The serial console: a 16550 whose output goes to a file that never makes a vCPU wait.
//!
//! What the file does not take at once is dropped and counted, so a reader that stops reading costs
//! output and nothing else.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::descriptor::{self, Access, Descriptors, FileRef};
use crate::spec::ConsoleSpec;
use crate::virtio::Interrupt;

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Its file.
    #[error("cannot open the console's output {name}")]
    Open {
        /// The file's name.
        name: String,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// Opens where the console's output goes, so that no write to it waits.
///
/// # Errors
/// When the file cannot be opened; a FIFO that nobody reads is one such.
pub fn open(spec: &ConsoleSpec, from: &mut Descriptors) -> Result<File, ConsoleError> {
    let failed = |name: &dyn ToString| {
        let name = name.to_string();
        move |source| ConsoleError::Open { name, source }
    };
    let received = matches!(from, Descriptors::Received(_));
    match spec {
        ConsoleSpec::Stdout => {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            stdout.map(File::from).and_then(unwaiting).map_err(failed(&"stdout"))
        }
        ConsoleSpec::File(file) => file
            .open_from(Access::Append, from)
            .and_then(|opened| match file {
                FileRef::Fd(_) if received => descriptor::without_waiting(opened),
                FileRef::Fd(_) => unwaiting(opened),
                FileRef::Path(_) => Ok(opened),
            })
            .map_err(failed(file)),
    }
}

/// An inherited file with a description of its own: `O_NONBLOCK` on the inherited one would change what its other owners see,
/// a shell's terminal for example. A socket cannot have one, nor a file in a jail without /proc: these are changed, as is what
/// came with an assignment.
fn unwaiting(file: File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .or_else(|_| descriptor::without_waiting(file))
}

/// The serial port's interrupt line.
#[derive(Debug)]
pub struct Line(Box<dyn Interrupt>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

/// Output that is dropped when it cannot be taken.
#[derive(Debug)]
pub struct Output<W> {
    file: W,
    dropped_bytes: u64,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes).unwrap_or(0);
        self.dropped_bytes += (bytes.len() - written) as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The serial port, shared by all vCPUs.
#[derive(Debug)]
pub struct Console<W: Write = File> {
    serial: Mutex<Serial<Line, NoEvents, Output<W>>>,
}

impl<W: Write> Console<W> {
    /// A serial port that writes to `file` and raises `interrupt`.
    #[must_use]
    pub fn new(file: W, interrupt: impl Interrupt + 'static) -> Self {
        let line = Line(Box::new(interrupt));
        Self { serial: Mutex::new(Serial::new(line, Output { file, dropped_bytes: 0 })) }
    }

    /// Bytes that the output did not take.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        let serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        serial.writer().dropped_bytes
    }

    /// The guest reads the register at `offset`.
    pub fn read(&self, offset: u8) -> u8 {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner).read(offset)
    }

    /// The guest writes the register at `offset`.
    pub fn write(&self, offset: u8, value: u8) {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        // The only error is a full loopback buffer, which the guest made.
        let _ = serial.write(offset, value);
    }
}

#[cfg(test)]
mod tests;
