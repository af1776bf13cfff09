//! The block device (virtio 1.2 section 5.2): one queue over one file or host block device.
//!
//! The guest sees a disk of 512-byte sectors, read-only or with a volatile write cache that FLUSH empties. What it could abuse:
//! sectors past the end, lengths that wrap, requests without room for their status, segments by the hundred. A request is
//! checked whole before the first byte moves; data goes between the file and guest RAM in one vectored call per
//! `io::SEGMENTS_MAX` segments, without a copy and without memory sized by the guest. It has a thread of its own, because
//! storage may be slow. What a read-only disk holds may also come on demand, in chunks (`lazy`). A disk over its limits leaves
//! its queue as it is, until it has a turn again. A disk for scratch data is encrypted (`encrypted`), and nothing of it needs a flush.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::GuestMemoryMmap;

use super::{Answer, Chain, DeviceTraits, LetGo, Nonsense, Rings, VirtioDevice, Wake, Watch, log};
use crate::limiter::{Limiter, Limits};

mod encrypted;
mod io;
mod lazy;
#[cfg(test)]
mod tests;
mod xts;

use self::encrypted::Encrypted;
pub use self::encrypted::EncryptedSpec;
use self::lazy::Lazy;
pub use self::lazy::{CHUNK_BYTES, IN_FLIGHT_MAX, LazySpec, PAGE_BYTES};

/// Bytes in a sector, the unit of everything in the protocol whatever BLK_SIZE says (section 5.2.4).
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of the device's identity.
pub const SERIAL_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

const QUEUE_SIZE: u16 = 128;
/// Data segments of a request: the queue less the header's and the status' descriptors.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of one segment that drivers are told to keep to; Linux makes requests of at most a few of these.
const SIZE_MAX: u32 = 1 << 20;
const HEADER_BYTES: usize = 16;

/// What a disk is made of.
#[derive(Debug)]
pub struct BlockSpec {
    /// The backing file or host block device; readable, and writable unless `read_only`.
    pub file: File,
    /// Refuse writes.
    pub read_only: bool,
    /// What GET_ID answers, up to [`SERIAL_BYTES`] bytes.
    pub serial: String,
    /// Where chunks come from that are not in the file yet; for a disk that is `read_only`.
    pub lazy: Option<LazySpec>,
    /// Keep what is written so that nobody else can read it; for a disk that is neither lazy nor `read_only`.
    pub encrypted: Option<EncryptedSpec>,
    /// How much it may move.
    pub limits: Limits,
}

impl BlockSpec {
    /// A disk that is all there, without limits.
    pub fn new(file: File, read_only: bool, serial: &str) -> Self {
        let (serial, limits) = (serial.to_owned(), Limits::default());
        BlockSpec { file, read_only, serial, lazy: None, encrypted: None, limits }
    }
}

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The size of the backing file is unknown.
    #[error("find the size of disk {serial}")]
    Size {
        /// Which disk.
        serial: String,
        /// Why.
        source: std::io::Error,
    },
    /// The backing file does not hold one sector.
    #[error("disk {serial} holds {bytes} bytes, allowed are {SECTOR_BYTES} and more")]
    TooSmall {
        /// Which disk.
        serial: String,
        /// What it holds.
        bytes: u64,
    },
    /// The identity is too long.
    #[error("serial {serial} is longer than {SERIAL_BYTES} bytes")]
    Serial {
        /// The identity asked for.
        serial: String,
    },
    /// The table of chunks or of reads has a wrong length.
    #[error(
        "--disk {table}: the table of {serial} holds {bytes} bytes, needed are {entries}: one for each chunk ({CHUNK_BYTES} \
         bytes) or page ({PAGE_BYTES} bytes) of the disk"
    )]
    Table {
        /// Which disk.
        serial: String,
        /// Which table.
        table: &'static str,
        /// What the table holds.
        bytes: u64,
        /// What it should.
        entries: u64,
    },
    /// The table of chunks or of reads cannot be used.
    #[error("--disk {table}: map the table of {serial}")]
    TableMap {
        /// Which disk.
        serial: String,
        /// Which table.
        table: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// There is no key, or its template is of no use.
    #[error("encrypt disk {serial}")]
    Encrypted {
        /// Which disk.
        serial: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Nothing can be waited for.
    #[error("wait for what disk {serial} waits for")]
    Watch {
        /// Which disk.
        serial: String,
        /// Why.
        source: std::io::Error,
    },
    /// The socket for chunks cannot be used.
    #[error("--disk requests: talk to the server of {serial}")]
    Requests {
        /// Which disk.
        serial: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The device model.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    chain: Chain,
    lazy: Option<Lazy>,
    limiter: Limiter,
    /// A lazy disk's server, and when what waits may wait no longer.
    watch: Watch,
}

impl Block {
    /// As [`Block::with_watch`], with a watch of its own.
    ///
    /// # Errors
    /// As there, and when there is no watch.
    pub fn new(spec: BlockSpec) -> Result<Self, BlockError> {
        match Watch::new() {
            Ok(watch) => Self::with_watch(spec, watch),
            Err(source) => Err(BlockError::Watch { serial: spec.serial, source }),
        }
    }

    /// A disk over `spec.file`. A size that is not a whole number of sectors is rounded down, which is said on stderr.
    ///
    /// # Errors
    /// The file is too small, its size is unknown, the serial is too long, or what a lazy disk needs is of no use.
    pub fn with_watch(spec: BlockSpec, watch: Watch) -> Result<Self, BlockError> {
        let BlockSpec { mut file, read_only, serial, lazy, encrypted, limits } = spec;
        let mut id = [0; SERIAL_BYTES];
        match id.get_mut(..serial.len()) {
            Some(start) => start.copy_from_slice(serial.as_bytes()),
            None => return Err(BlockError::Serial { serial }),
        }
        // Unlike the file's metadata this also knows the size of a block device.
        let bytes = match file.seek(SeekFrom::End(0)) {
            Ok(bytes) => bytes,
            Err(source) => return Err(BlockError::Size { serial, source }),
        };
        let sectors = bytes / SECTOR_BYTES;
        if sectors == 0 {
            return Err(BlockError::TooSmall { serial, bytes });
        }
        let rest = bytes % SECTOR_BYTES;
        if rest != 0 {
            log(format_args!("disk {serial}: the last {rest} of its {bytes} bytes are left out"));
        }
        let lazy = lazy.map(|lazy| Lazy::new(&serial, bytes, lazy, &watch)).transpose()?;
        let encrypted = encrypted.map(|spec| Encrypted::new(sectors, spec));
        let encrypted = match encrypted.transpose() {
            Ok(encrypted) => encrypted,
            Err(source) => return Err(BlockError::Encrypted { serial, source }),
        };
        let disk = Disk { file, sectors, read_only, id, encrypted };
        let limiter = Limiter::new(limits, Instant::now());
        Ok(Block { disk, chain: Chain::with_capacity(QUEUE_SIZE), lazy, limiter, watch })
    }

    /// Sectors the guest sees.
    pub fn sectors(&self) -> u64 {
        self.disk.sectors
    }
}

impl VirtioDevice for Block {
    fn traits(&self) -> DeviceTraits {
        let mut features =
            1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_SIZE_MAX;
        if self.disk.read_only {
            features |= 1 << VIRTIO_BLK_F_RO;
        }
        if self.disk.flushes() {
            features |= 1 << VIRTIO_BLK_F_FLUSH;
        }
        // struct virtio_blk_config (section 5.2.4): capacity, size_max, seg_max, geometry, blk_size.
        let mut config = Vec::with_capacity(24);
        config.extend(self.disk.sectors.to_le_bytes());
        config.extend(SIZE_MAX.to_le_bytes());
        config.extend(SEG_MAX.to_le_bytes());
        config.extend([0; 4]);
        config.extend(512u32.to_le_bytes());
        DeviceTraits {
            name: "block",
            device_id: VIRTIO_ID_BLOCK,
            features,
            queue_sizes: &[QUEUE_SIZE],
            config,
            dials: vec![self.limiter.dial()],
        }
    }

    fn activate(&mut self, _features: u64) {
        if let Some(lazy) = &self.lazy {
            lazy.start(&self.watch);
        }
    }

    fn process(&mut self, rings: &mut Rings, wake: Wake) {
        let Block { disk, chain, lazy, limiter, watch } = self;
        let let_go = rings.let_go();
        limiter.heed();
        if let (Some(lazy), Wake::Host) = (lazy.as_mut(), wake) {
            lazy.listen(watch);
        }
        let mut turn = None;
        rings.drain(0, chain, |ram, chain| {
            disk.serve(ram, chain, &let_go, |request| {
                if let Err(at) = limiter.take_now(request.bytes()) {
                    turn = Some(at);
                    return Pass::Wait;
                }
                lazy.as_mut().map_or(Pass::Now, |lazy| lazy.admit(chain.head(), request))
            })
        });
        let deadline = lazy.as_mut().and_then(|lazy| {
            lazy.ask(watch);
            lazy.settle(|presence, head, there| {
                // The guest may have written another request in its place, which has had its wait.
                let pass = |request: &Request| match presence.lacks(request) {
                    None => Pass::Now,
                    Some(_) if there => Pass::Refused(Nonsense::Request),
                    Some(_) => Pass::Never,
                };
                let serve = |ram: &_, chain: &_| disk.serve(ram, chain, &let_go, pass);
                rings.revisit(0, head, chain, serve);
            })
        });
        watch.until([turn, deadline].into_iter().flatten().min());
    }

    fn reset(&mut self) {
        self.watch.disarm();
        if let Some(lazy) = &mut self.lazy {
            lazy.stop(&self.watch);
        }
    }

    fn end(&mut self) {
        if let Some(encrypted) = &mut self.disk.encrypted {
            encrypted.forget();
        }
    }

    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watch.as_fd())
    }
}

/// What a request asks for, every number in it checked.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// Read `bytes` at `offset` of the disk into the first writable bytes.
    Read { offset: u64, bytes: u64 },
    /// Write `bytes` at `offset` of the disk from the readable bytes after the header.
    Write { offset: u64, bytes: u64 },
    /// Make written data durable.
    Flush,
    /// Tell the serial.
    GetId,
}

impl Request {
    /// Bytes of the disk that it reads or writes.
    fn bytes(&self) -> u64 {
        match *self {
            Request::Read { bytes, .. } | Request::Write { bytes, .. } => bytes,
            Request::Flush | Request::GetId => 0,
        }
    }
}

/// How a request fails.
#[derive(Debug, PartialEq, Eq)]
enum BadRequest {
    /// There is no header or no room for a status: it cannot be answered at all.
    Unanswerable,
    /// Its type is not known or not offered.
    Unsupported,
    /// Sectors, lengths or direction do not fit the disk.
    Invalid,
}

/// Whether a request that makes sense may be served.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// It may.
    Now,
    /// Not yet; the device comes back to it.
    Later,
    /// Not yet, and nothing behind it either.
    Wait,
    /// What it asks for cannot be had.
    Never,
    /// It breaks a rule.
    Refused(Nonsense),
}

#[derive(Debug)]
struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    id: [u8; SERIAL_BYTES],
    encrypted: Option<Encrypted>,
}

impl Disk {
    /// Whether there is anything to flush: no encrypted disk outlives its key, so none of its data needs to outlive this host.
    fn flushes(&self) -> bool {
        !self.read_only && self.encrypted.is_none()
    }

    fn serve(
        &mut self,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
        let_go: &LetGo,
        pass: impl FnOnce(&Request) -> Pass,
    ) -> Answer {
        let failed =
            |status, nonsense| Answer::Failed(self.finish(ram, chain, status, 0), nonsense);
        let request = match self.parse(ram, chain) {
            Ok(request) => request,
            Err(BadRequest::Unanswerable) => return Answer::Failed(0, Nonsense::Length),
            Err(BadRequest::Unsupported) => return failed(VIRTIO_BLK_S_UNSUPP, Nonsense::Request),
            Err(BadRequest::Invalid) => return failed(VIRTIO_BLK_S_IOERR, Nonsense::Request),
        };
        let written = match pass(&request) {
            Pass::Now => self.execute(request, ram, chain, let_go),
            Pass::Never => None,
            Pass::Later => return Answer::Later,
            Pass::Wait => return Answer::Wait,
            Pass::Refused(nonsense) => return failed(VIRTIO_BLK_S_IOERR, nonsense),
        };
        let (status, written) = match written {
            Some(written) => (VIRTIO_BLK_S_OK, written),
            None => (VIRTIO_BLK_S_IOERR, 0),
        };
        Answer::Used(self.finish(ram, chain, status, written))
    }

    /// Writes the status into the last writable byte; the number of bytes written in all.
    fn finish(&self, ram: &GuestMemoryMmap<()>, chain: &Chain, status: u32, written: u64) -> u32 {
        let [status, ..] = status.to_le_bytes();
        let at = chain.writable_bytes().saturating_sub(1);
        let told = chain.write_at(ram, at, &[status]);
        u32::try_from(written.saturating_add(u64::from(told))).unwrap_or(0)
    }

    /// Reads and checks a request; nothing has moved yet.
    fn parse(&self, ram: &GuestMemoryMmap<()>, chain: &Chain) -> Result<Request, BadRequest> {
        let mut header = [0; HEADER_BYTES];
        let room = chain.writable_bytes().checked_sub(1).ok_or(BadRequest::Unanswerable)?;
        if !chain.read_at(ram, 0, &mut header) {
            return Err(BadRequest::Unanswerable);
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let payload = chain.readable_bytes().saturating_sub(HEADER_BYTES as u64);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN if payload == 0 => {
                let offset = self.range(sector, room)?;
                Ok(Request::Read { offset, bytes: room })
            }
            VIRTIO_BLK_T_OUT if room == 0 && !self.read_only => {
                let offset = self.range(sector, payload)?;
                Ok(Request::Write { offset, bytes: payload })
            }
            VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => Err(BadRequest::Invalid),
            VIRTIO_BLK_T_FLUSH if !self.flushes() => Err(BadRequest::Unsupported),
            VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
            VIRTIO_BLK_T_GET_ID if room >= SERIAL_BYTES as u64 => Ok(Request::GetId),
            VIRTIO_BLK_T_GET_ID => Err(BadRequest::Invalid),
            _ => Err(BadRequest::Unsupported),
        }
    }

    /// Byte offset of `sector` if `bytes` from there on are whole sectors of the disk.
    fn range(&self, sector: u64, bytes: u64) -> Result<u64, BadRequest> {
        let end = sector.checked_add(bytes / SECTOR_BYTES).ok_or(BadRequest::Invalid)?;
        if !bytes.is_multiple_of(SECTOR_BYTES) || end > self.sectors {
            return Err(BadRequest::Invalid);
        }
        sector.checked_mul(SECTOR_BYTES).ok_or(BadRequest::Invalid)
    }

    /// Bytes written into guest memory; `None` when the storage failed.
    fn execute(
        &mut self,
        request: Request,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
        let_go: &LetGo,
    ) -> Option<u64> {
        let transfer = |offset| io::Transfer { file: &self.file, offset, ram, let_go };
        match request {
            Request::Read { offset, bytes } => match &mut self.encrypted {
                Some(encrypted) => encrypted.read(&transfer(offset), chain, bytes),
                None => transfer(offset).read(chain.writable(), 0, bytes),
            }
            .ok()
            .map(|()| bytes),
            Request::Write { offset, bytes } => match &mut self.encrypted {
                Some(encrypted) => {
                    encrypted.write(&transfer(offset), chain, HEADER_BYTES as u64, bytes)
                }
                None => transfer(offset).write(chain.readable(), HEADER_BYTES as u64, bytes),
            }
            .ok()
            .map(|()| 0),
            Request::Flush => self.file.sync_data().ok().map(|()| 0),
            Request::GetId => chain.write_at(ram, 0, &self.id).then_some(SERIAL_BYTES as u64),
        }
    }
}
