//! Every cap of the VMM with its reason.

/// Most vCPUs of one microVM: what the 1 KiB of the extended BIOS data area can describe in an MP
/// table, and more than the six that the largest function gets.
pub const MAX_VCPUS: u8 = 32;

/// Least guest memory in MiB: a kernel, an initial file system and the smallest function.
pub const MIN_MEMORY_MIB: u32 = 128;

/// Most guest memory in MiB: 10,240 for the function and up to 512 for the guest's kernel.
pub const MAX_MEMORY_MIB: u32 = 10_240 + 512;

/// Most disks: runtime image, code, five layers and scratch space.
pub const MAX_DISKS: usize = 8;

/// How long a read of a lazy disk waits for its chunks, in milliseconds, unless told otherwise: as long as Linux gives a disk.
pub const DEFAULT_DISK_TIMEOUT_MS: u32 = 30_000;

/// Longest such wait in milliseconds: beyond any store's own retries, and short of a guest that seems to hang for ever.
pub const MAX_DISK_TIMEOUT_MS: u32 = 600_000;

/// Most host descriptors that answer vsock ports.
pub const MAX_VSOCK_PORTS: usize = 16;

/// Least MTU of a network device in bytes: what IPv6 asks of every link.
pub const MIN_MTU: u16 = 1280;

/// Most MTU of a network device in bytes: a tap's own limit, 65,535 less an Ethernet header.
pub const MAX_MTU: u16 = 65_521;

/// Longest text of an assignment in bytes: every option at its longest, and as much again.
pub const MAX_ASSIGNMENT_BYTES: usize = 16 << 10;

/// Most descriptors of an assignment: three for each disk, one for each port, and some.
pub const MAX_ASSIGNMENT_DESCRIPTORS: usize = 64;

/// Longest kernel command line in bytes with its closing NUL: Linux's `COMMAND_LINE_SIZE` on x86.
pub const MAX_CMDLINE_BYTES: usize = 2048;

/// Longest path of the vsock socket: `sun_path` less `_`, ten digits and a NUL.
pub const MAX_SOCKET_PATH_BYTES: usize = 108 - 12;

/// Most program headers of a kernel: Linux has five; the table must fit on the reader's stack.
pub const MAX_PROGRAM_HEADERS: u16 = 32;

/// Largest initial file system in bytes; it must leave most of the smallest guest free.
pub const MAX_INITRD_BYTES: u64 = 64 << 20;

/// Marks of the guest that are kept; the rest are ignored, so that a guest cannot fill a disk.
pub const MAX_GUEST_MARKS: u32 = 64;

/// Stack of one vCPU thread in bytes. Only touched pages cost memory.
pub const VCPU_STACK_BYTES: usize = 128 << 10;

/// Events taken from epoll in one turn of the main loop.
pub const EVENTS_PER_TURN: usize = 16;

/// Longest piece of a wrong value that an error repeats, in characters.
pub const SHOWN_VALUE_CHARS: usize = 80;

const _: () = assert!(crate::mptable::bytes(MAX_VCPUS) <= crate::layout::EBDA_BYTES);
const _: () = assert!(MAX_DISKS + 3 <= crate::layout::MAX_DEVICES);
