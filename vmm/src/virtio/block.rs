//! The block device (virtio 1.2 section 5.2): one queue over one file or host block device.
//!
//! The guest sees a disk of 512-byte sectors, read-only or with a volatile write cache that FLUSH empties. What it could abuse:
//! sectors past the end, lengths that wrap, requests without room for their status, segments by the hundred. A request is
//! checked whole before the first byte moves; data goes between the file and guest RAM in one vectored call per
//! `io::SEGMENTS_MAX` segments, without a copy and without memory sized by the guest. It has a thread of its own, because
//! storage may be slow.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::GuestMemoryMmap;

use super::{Answer, Chain, DeviceTraits, LetGo, Nonsense, Rings, VirtioDevice, Wake, log};

mod io;
#[cfg(test)]
mod tests;

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
}

/// The device model.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    chain: Chain,
}

impl Block {
    /// A disk over `spec.file`. A size that is not a whole number of sectors is rounded down, which is said on stderr.
    ///
    /// # Errors
    /// The file is too small, its size is unknown, or the serial is too long.
    pub fn new(spec: BlockSpec) -> Result<Self, BlockError> {
        let BlockSpec { mut file, read_only, serial } = spec;
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
        let disk = Disk { file, sectors, read_only, id };
        Ok(Block { disk, chain: Chain::with_capacity(QUEUE_SIZE) })
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
        features |= match self.disk.read_only {
            true => 1 << VIRTIO_BLK_F_RO,
            false => 1 << VIRTIO_BLK_F_FLUSH,
        };
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
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, rings: &mut Rings, _wake: Wake) {
        let Block { disk, chain } = self;
        let let_go = rings.let_go();
        rings.drain(0, chain, |ram, chain| disk.serve(ram, chain, &let_go));
    }

    fn reset(&mut self) {}
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

#[derive(Debug)]
struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    id: [u8; SERIAL_BYTES],
}

impl Disk {
    fn serve(&self, ram: &GuestMemoryMmap<()>, chain: &Chain, let_go: &LetGo) -> Answer {
        let (status, written) = match self.parse(ram, chain) {
            Ok(request) => match self.execute(request, ram, chain, let_go) {
                Some(written) => (VIRTIO_BLK_S_OK, written),
                None => (VIRTIO_BLK_S_IOERR, 0),
            },
            Err(BadRequest::Unanswerable) => return Answer::Failed(0, Nonsense::Length),
            Err(bad) => {
                let status = match bad {
                    BadRequest::Unsupported => VIRTIO_BLK_S_UNSUPP,
                    _ => VIRTIO_BLK_S_IOERR,
                };
                let used = self.finish(ram, chain, status, 0);
                return Answer::Failed(used, Nonsense::Request);
            }
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
            VIRTIO_BLK_T_FLUSH if self.read_only => Err(BadRequest::Unsupported),
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
        &self,
        request: Request,
        ram: &GuestMemoryMmap<()>,
        chain: &Chain,
        let_go: &LetGo,
    ) -> Option<u64> {
        match request {
            Request::Read { offset, bytes } => {
                let transfer = io::Transfer { file: &self.file, offset, ram, let_go };
                transfer.read(chain.writable(), 0, bytes).ok().map(|()| bytes)
            }
            Request::Write { offset, bytes } => {
                let transfer = io::Transfer { file: &self.file, offset, ram, let_go };
                transfer.write(chain.readable(), HEADER_BYTES as u64, bytes).ok().map(|()| 0)
            }
            Request::Flush => self.file.sync_data().ok().map(|()| 0),
            Request::GetId => chain.write_at(ram, 0, &self.id).then_some(SERIAL_BYTES as u64),
        }
    }
}
