//! Disks whose chunks come when they are first read: what a guest sees of a server that is slow, that fails, or that is silent.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, memfd_create};
use votive_agent::clock::BootTime;

use super::Case;
use crate::harness::{Spinner, images};

pub(super) const CASES: &[(&str, Case)] =
    &[("a_read_waits_for_its_chunk_alone_and_fails_with_it_alone", each_by_itself)];

/// The guest's words: a line for each read, `chunk N` (what the chunk holds) or `error N`. The slow one runs beside the others.
/// All descriptors are where they read before the first does, since Linux lets nobody seek in a disk that is being read.
const SCRIPT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec 3< /dev/vda 4< /dev/vda 5< /dev/vda 6< /dev/vda 7< /dev/vdb 8< /dev/vdb
at() {
  /bin/busybox dd bs=4096 skip=$(($1 * 128)) count=0 of=/dev/null 2> /dev/null
}
get() {
  if /bin/busybox dd bs=4096 count=1 of=/$1 2> /dev/null; then /bin/busybox head -n 1 /$1; else echo \"error $1\"; fi
}
at 3 <&3
at 1 <&4
at 4 <&5
at 2 <&6
at 5 <&8
get 3 <&3 &
get 1 <&4
get 4 <&5
get 2 <&6
get 0 <&7
get 5 <&8
echo others done
wait
get 4 <&5
/bin/busybox reboot -f
";

const CHUNK_BYTES: usize = 512 << 10;
const CHUNKS: u32 = 6;
/// Answered when the others are done.
const SLOW: u32 = 3;
/// The store has it not.
const FAILING: u32 = 4;
/// Longer than this test may take on a crowded host that emulates its processor.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a read of the disk waits whose server is silent.
const SHORT_MS: u32 = 1_000;
/// Lines that the guest's kernel may write.
const LINES_MAX: usize = 2_000;

/// A file in memory.
fn memory(name: &str, bytes: usize) -> Result<File> {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.set_len(bytes as u64)?;
    Ok(file)
}

/// The same file, to be read only, as a VMM gets it.
fn read_only(file: &File) -> Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

/// What a chunk holds: its name, again and again.
fn chunk_bytes(chunk: u32) -> Vec<u8> {
    format!("chunk {chunk}\n").repeat(CHUNK_BYTES / 8).into_bytes()
}

/// A disk's bytes, its table of chunks, and the other end of its socket.
struct Server {
    disk: File,
    presence: File,
    socket: UnixStream,
}

impl Server {
    /// With its two descriptors for the VMM beside the disk's.
    fn new(disk: &File) -> Result<(Self, [OwnedFd; 3])> {
        let presence = memory("presence", CHUNKS as usize)?;
        let (socket, requests) = UnixStream::pair()?;
        let given = [read_only(disk)?, read_only(&presence)?, requests.into()];
        Ok((Self { disk: disk.try_clone()?, presence, socket }, given))
    }

    fn fill(&self, chunk: u32) -> Result<()> {
        self.disk.write_all_at(&chunk_bytes(chunk), u64::from(chunk) * CHUNK_BYTES as u64)?;
        Ok(self.presence.write_all_at(&[1], chunk.into())?)
    }

    fn answer(&self, chunk: u32, status: u32) -> Result<()> {
        let answer = [chunk.to_le_bytes(), status.to_le_bytes()].concat();
        Ok((&self.socket).write_all(&answer)?)
    }

    fn bring(&self, chunk: u32) -> Result<()> {
        self.fill(chunk)?;
        self.answer(chunk, 0)
    }

    /// Serves until the VMM is gone, and tells what it was asked for.
    fn serve(self: Arc<Self>, slow_is_asked_for: Sender<()>) -> JoinHandle<Result<Vec<u32>>> {
        std::thread::spawn(move || {
            let mut asked = Vec::new();
            let mut index = [0; 4];
            while (&self.socket).read_exact(&mut index).is_ok() {
                let chunk = u32::from_le_bytes(index);
                asked.push(chunk);
                match chunk {
                    SLOW => slow_is_asked_for.send(())?,
                    FAILING => self.answer(chunk, 1)?,
                    _ => self.bring(chunk)?,
                }
            }
            Ok(asked)
        })
    }
}

/// A VMM that does not outlive its test.
struct Guest {
    vmm: Child,
    console: BufReader<PipeReader>,
    _initrd: Spinner,
}

impl Guest {
    fn start(disks: [(&str, [OwnedFd; 3]); 2]) -> Result<Self> {
        let (images, initrd) = (images()?, Spinner::running(SCRIPT)?);
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(images.join("bin/votive-vmm"));
        command.arg("--kernel").arg(images.join("vmlinux"));
        command.arg("--initrd").arg(initrd.initrd());
        command.args(["--vcpus", "1", "--memory-mib", "128"]);
        command.args(["--console", "fd:3", "--deadline"]);
        command.arg((BootTime::now() + LIMIT).nanoseconds().to_string());
        let mut given = vec![OwnedFd::from(writer)];
        for (more, disk) in disks {
            let [path, presence, requests] = [0, 1, 2].map(|at| given.len() + 3 + at);
            command.arg("--disk").arg(format!(
                "path=fd:{path},readonly,presence=fd:{presence},requests=fd:{requests}{more}"
            ));
            given.extend(disk);
        }
        let mappings = (3..).zip(given);
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect())?;
        let vmm = command.stdin(Stdio::null()).spawn()?;
        Ok(Self { vmm, console: BufReader::new(reader), _initrd: initrd })
    }

    /// The next line that is the script's.
    fn line(&mut self) -> Result<String> {
        let mut kernel = Vec::new();
        for _ in 0..LINES_MAX {
            let mut line = Vec::new();
            if self.console.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if ["chunk ", "error ", "others "].iter().any(|word| line.starts_with(word)) {
                return Ok(line);
            }
            kernel.push(line);
        }
        bail!("the guest is gone; it said {kernel:#?}")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It is gone already, unless the test failed.
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
    }
}

/// One disk of two has a server that is slow with one chunk and fails with another; the other disk's server says nothing. Both
/// are the same image in memory.
fn each_by_itself() -> Result<()> {
    let image = memory("image", CHUNKS as usize * CHUNK_BYTES)?;
    let (server, first) = Server::new(&image)?;
    let (silent, second) = Server::new(&image)?;
    silent.fill(0)?;
    let (sender, slow_is_asked_for): (_, Receiver<()>) = channel();
    let server = Arc::new(server);
    let serving = Arc::clone(&server).serve(sender);
    let short = format!(",timeout-ms={SHORT_MS}");
    let mut guest = Guest::start([(",timeout-ms=600000", first), (&short, second)])?;

    for expect in ["chunk 1", "error 4", "chunk 2", "chunk 0", "error 5", "others done"] {
        let line = guest.line()?;
        ensure!(line == expect, "{line:?} where {expect:?} was to come");
    }
    slow_is_asked_for.recv_timeout(LIMIT).context("nobody asked for the slow chunk")?;
    server.bring(SLOW)?;
    for expect in ["chunk 3", "error 4"] {
        let line = guest.line()?;
        ensure!(line == expect, "{line:?} where {expect:?} was to come");
    }
    let status = guest.vmm.wait()?;
    ensure!(status.code() == Some(3), "the guest did not reboot: {status}");

    // One question for each chunk that came, however many requests Linux made of a read; failures are asked for anew.
    drop(guest);
    let mut asked = serving.join().ok().context("the server panicked")??;
    let failures = asked.iter().filter(|chunk| **chunk == FAILING).count();
    asked.retain(|chunk| *chunk != FAILING && *chunk != 0);
    asked.sort_unstable();
    ensure!(asked == [1, 2, 3] && failures >= 2, "{asked:?}, {failures} times the failing one");
    let mut questions = Vec::new();
    (&silent.socket).read_to_end(&mut questions)?;
    ensure!(questions == 5u32.to_le_bytes(), "{questions:?} of the silent server");
    Ok(())
}
