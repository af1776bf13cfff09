//! Numbers that guest and host agree on, and where things lie in guest memory.

/// Guest memory in bytes.
pub const MEMORY_BYTES: u64 = 128 << 20;
/// Longest command line that is read.
pub const COMMAND_LINE_BYTES: usize = 2048;

/// Host port whose peer sends back what it gets.
pub const PORT_ECHO: u32 = 7;
/// Host port that takes the counts, and answers with a byte once it has looked at the VMM.
pub const PORT_REPORT: u32 = 9;
/// Host port whose peer accepts and never reads.
pub const PORT_SINK: u32 = 10;
/// Host port that nobody listens on.
pub const PORT_NOBODY: u32 = 11;
/// Host port that an innocent guest takes its orders from.
pub const PORT_ORDERS: u32 = 12;

/// Sectors of the first disk, each of which begins with its number and [`SECTOR_MARK`].
pub const DISK_SECTORS: u64 = 2048;
/// Bytes 8 to 16 of each sector.
pub const SECTOR_MARK: u64 = u64::from_le_bytes(*b"HOSTILE\n");

/// Bytes of a chunk of a lazy disk.
pub const CHUNK_BYTES: u64 = 512 << 10;

/// Device operations that an innocent guest does for each order.
pub const ORDER_OPERATIONS: u32 = 40;

/// Codes for the exit port.
pub const CODE_FAILED: u8 = 1;
/// The command line named no case that this guest has.
pub const CODE_UNKNOWN_CASE: u8 = 2;
/// An exception that no case asked for.
pub const CODE_EXCEPTION: u8 = 0xee;
/// The guest's own panic.
pub const CODE_PANIC: u8 = 0xef;

/// Each device's own memory: rings, then buffers.
pub(crate) const AREAS: u64 = 0x200_0000;
/// Bytes of one device's area.
pub(crate) const AREA_BYTES: u64 = 0x40_0000;
/// Bytes of a queue's rings in it.
pub(crate) const QUEUE_BYTES: u64 = 0x1_0000;
/// Where an area's buffers begin.
pub(crate) const BUFFERS: u64 = 0x10_0000;
