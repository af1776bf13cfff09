//! A read of 4 KiB from a lazy disk whose chunks are all there, in memory that a server shares, against the same from a disk that is
//! a plain file. Both go by the device's rings, register by register, as a guest's do.
//!
//! `cargo bench -p votive-vmm --bench lazy_read`. The last line is the figure: the median of rounds that take turns, so that a
//! machine that is busy is as busy for both. It fails above 1.2, and if the server was asked for anything.

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use votive_vmm::virtio::block::{Block, BlockSpec, CHUNK_BYTES, LazySpec};
use votive_vmm::virtio::driver::{DATA, GuestDriver, HIGH, ram, readable, writable};

/// What the lazy read may cost of the plain one.
const RATIO_MAX: f64 = 1.2;

const CHUNKS: u64 = 64;
const READ_BYTES: usize = 4096;
const ROUNDS: usize = 61;
const READS: u64 = 2000;

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lazy_read: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Box<dyn Error>> {
    // Shared memory, as the server's is; the plain file is on a disk and in the page cache.
    let memory = filled(tempfile::tempfile_in("/dev/shm")?)?;
    let plain = filled(tempfile::tempfile()?)?;
    let presence = tempfile::tempfile_in("/dev/shm")?;
    presence.write_all_at(&[1; CHUNKS as usize], 0)?;
    let (mut server, requests) = UnixStream::pair()?;
    server.set_nonblocking(true)?;
    let lazy = LazySpec { presence, requests, reads: None, timeout: Duration::from_secs(60) };
    let mut disks =
        [Disk::new(plain.try_clone()?, None)?, Disk::new(memory.try_clone()?, Some(lazy))?];
    let mut rounds = [vec![], vec![], vec![]];
    for round in 0..ROUNDS as u64 {
        for (disk, rounds) in disks.iter_mut().zip(&mut rounds) {
            let start = Instant::now();
            for read in 0..READS {
                disk.read(place(round * READS + read))?;
            }
            rounds.push(start.elapsed().as_secs_f64() / READS as f64);
        }
        let start = Instant::now();
        let mut bytes = [0; READ_BYTES];
        for read in 0..READS {
            plain.read_exact_at(&mut bytes, place(round * READS + read) * READ_BYTES as u64)?;
            black_box(&bytes);
        }
        rounds[2].push(start.elapsed().as_secs_f64() / READS as f64);
    }
    let [plain, lazy, call] = rounds.map(|mut rounds| {
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2] * 1e9
    });
    println!("pread of 4 KiB from a plain file      {call:>8.0} ns");
    println!("4 KiB of a disk, a plain file         {plain:>8.0} ns");
    println!("4 KiB of a lazy disk, all there       {lazy:>8.0} ns");
    let asked = server.read(&mut [0]);
    let silent = matches!(&asked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    let ratio = lazy / plain;
    println!("lazy_read ratio {ratio:.3}, at most {RATIO_MAX}; the server was asked: {}", !silent);
    Ok(silent && ratio <= RATIO_MAX)
}

/// Which page is read: scattered over the disk, and the same for both.
fn place(read: u64) -> u64 {
    read.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (CHUNKS * CHUNK_BYTES / READ_BYTES as u64 - 1)
}

/// Every page has its number in it.
fn filled(file: File) -> Result<File, Box<dyn Error>> {
    for page in 0..CHUNKS * CHUNK_BYTES / READ_BYTES as u64 {
        file.write_all_at(&page.to_le_bytes().repeat(READ_BYTES / 8), page * READ_BYTES as u64)?;
    }
    Ok(file)
}

/// A disk and its driver.
struct Disk(GuestDriver);

impl Disk {
    fn new(file: File, lazy: Option<LazySpec>) -> Result<Disk, Box<dyn Error>> {
        let spec = BlockSpec { lazy, ..BlockSpec::new(file, true, "bench") };
        let mut driver = GuestDriver::new(Box::new(Block::new(spec)?), ram()?)?;
        let offered = driver.offered();
        // Without EVENT_IDX, so that each read is told of.
        if !driver.start(offered & !(1 << 29)) {
            return Err("the device does not start".into());
        }
        driver.run(0);
        Ok(Disk(driver))
    }

    fn read(&mut self, page: u64) -> Result<(), Box<dyn Error>> {
        let driver = &mut self.0;
        let sector = page * (READ_BYTES as u64 / 512);
        let mut header = [0; 16];
        header[8..].copy_from_slice(&sector.to_le_bytes());
        driver.write(DATA, &header);
        let chain =
            [readable(DATA, 16), writable(HIGH, READ_BYTES as u32), writable(DATA + 0x40, 1)];
        driver.offer(0, &chain);
        driver.kick(0);
        driver.run(0);
        let used = driver.used(0).map(|(_, bytes)| bytes);
        let right =
            driver.read(HIGH, 8) == page.to_le_bytes() && driver.read(DATA + 0x40, 1) == [0];
        if used == Some(READ_BYTES as u32 + 1) && right {
            return Ok(());
        }
        Err(format!("page {page} was not read: {used:?}").into())
    }
}
