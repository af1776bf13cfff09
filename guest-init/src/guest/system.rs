//! What no library offers: port I/O, the system calls that rustix keeps to itself, and the loopback device.

#![expect(unsafe_code, reason = "port I/O and system calls that no library offers")]

use core::arch::asm;
use core::ffi::CStr;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use linux_raw_sys::general as raw;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::Pid;

/// A byte written here is a mark with a time on the host.
const MARK_PORT: u16 = 0xf4;
/// A byte written here ends the microVM; 0 is a power-off.
const EXIT_PORT: u16 = 0xf5;
/// Capabilities that a kernel may know; asking for the first that it does not ends the loop.
const CAPABILITIES_MAX: usize = 64;

/// One system call.
///
/// # Safety
/// The call with these arguments must not break what Rust relies on: pointers must be valid for what the kernel does with
/// them, and descriptors that it closes or makes must be owned accordingly.
pub(super) unsafe fn call(number: u32, arguments: [usize; 5]) -> Result<usize, Errno> {
    let [first, second, third, fourth, fifth] = arguments;
    let result: isize;
    // SAFETY: the x86-64 calling convention of Linux: arguments in these registers, rcx and r11 clobbered, nothing of the
    // stack touched. What the call does is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match usize::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(i32::MAX))),
    }
}

/// Writes a byte to a port, with the permission for just as long.
fn write_port(port: u16, byte: u8) {
    // SAFETY: ioperm takes no pointers; it lets this thread use one port, which the VMM listens on.
    if unsafe { call(raw::__NR_ioperm, [usize::from(port), 1, 1, 0, 0]) }.is_err() {
        return;
    }
    // SAFETY: the permission was just given; the instruction touches no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) };
    // SAFETY: as above; it takes the permission back, so that no child inherits it.
    let _ = unsafe { call(raw::__NR_ioperm, [usize::from(port), 1, 0, 0, 0]) };
}

/// Makes a mark.
pub(super) fn mark(byte: u8) {
    write_port(MARK_PORT, byte);
}

/// Ends the microVM, if the VMM has an exit port.
pub(super) fn exit_machine() {
    write_port(EXIT_PORT, 0);
}

/// A bit for a signal in the kernel's signal set.
const fn signal_bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

fn set_signal_mask(mask: u64) -> Result<(), Errno> {
    let how = raw::SIG_SETMASK as usize;
    let set = (&raw const mask) as usize;
    // SAFETY: `set` points to eight readable bytes for the time of the call, and the old mask is not asked for.
    unsafe { call(raw::__NR_rt_sigprocmask, [how, set, 0, size_of::<u64>(), 0]) }.map(drop)
}

/// Blocks SIGCHLD and gives a descriptor that is readable when a child has ended.
pub(super) fn child_signals() -> Result<OwnedFd, Errno> {
    let mask = signal_bit(raw::SIGCHLD);
    set_signal_mask(mask)?;
    let flags = (raw::O_NONBLOCK | raw::O_CLOEXEC) as usize;
    let set = (&raw const mask) as usize;
    // SAFETY: `set` points to eight readable bytes for the time of the call; -1 asks for a new descriptor.
    let fd = unsafe { call(raw::__NR_signalfd4, [usize::MAX, set, size_of::<u64>(), flags, 0]) }?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Blocks no signal.
pub(super) fn unblock_signals() -> Result<(), Errno> {
    set_signal_mask(0)
}

/// Which side of a fork this is.
pub(super) enum Forked {
    Parent(Pid),
    Child,
}

/// Forks; the child begins its life in the control group that `cgroup` is the directory of.
pub(super) fn fork_into(cgroup: BorrowedFd<'_>) -> Result<Forked, Errno> {
    // SAFETY: clone_args is plain data for which zeros are a value.
    let mut arguments: raw::clone_args = unsafe { core::mem::zeroed() };
    arguments.flags = raw::CLONE_INTO_CGROUP;
    arguments.exit_signal = u64::from(raw::SIGCHLD);
    arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(0);
    let pointer = (&raw mut arguments) as usize;
    // SAFETY: `pointer` is valid for the size that is given. Without CLONE_VM the child has a copy of the whole address
    // space, stack included, and this process has one thread: both sides go on as if nothing had happened.
    let pid = unsafe { call(raw::__NR_clone3, [pointer, size_of::<raw::clone_args>(), 0, 0, 0]) }?;
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        Some(pid) => Ok(Forked::Parent(pid)),
        None => Ok(Forked::Child),
    }
}

/// Becomes another program; only comes back if that failed. Both lists end with a null pointer, the pointers before it are
/// NUL-terminated strings.
pub(super) fn execute<const N: usize>(
    program: &CStr,
    argv: &[*const u8; N],
    envp: &[*const u8; N],
) -> Errno {
    let arguments =
        [program.as_ptr() as usize, argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0];
    // SAFETY: `program` is a C string; the caller ends both lists with a null pointer and fills them with C strings that
    // outlive the call.
    match unsafe { call(raw::__NR_execve, arguments) } {
        Ok(_) => Errno::NOSYS,
        Err(errno) => errno,
    }
}

/// Ends this process.
pub(super) fn exit(code: u8) -> ! {
    loop {
        // SAFETY: exit_group takes no pointers and does not come back.
        let _ = unsafe { call(raw::__NR_exit_group, [usize::from(code), 0, 0, 0, 0]) };
    }
}

/// Bytes that nobody can foresee; never waits.
pub(super) fn random() -> [u8; 16] {
    const GRND_INSECURE: usize = 4;
    let mut bytes = [0; 16];
    let pointer = (&raw mut bytes) as usize;
    // SAFETY: `pointer` is valid for the sixteen bytes that the call may write.
    let _ = unsafe { call(raw::__NR_getrandom, [pointer, bytes.len(), GRND_INSECURE, 0, 0]) };
    bytes
}

/// Leaves no capability that a later program could ever have.
pub(super) fn drop_bounding_set() -> Result<(), Errno> {
    const PR_CAPBSET_DROP: usize = 24;
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: this prctl takes no pointers.
        match unsafe { call(raw::__NR_prctl, [PR_CAPBSET_DROP, capability, 0, 0, 0]) } {
            Ok(_) => {}
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A descriptor whose number was stored; nothing before that.
pub(super) fn borrow(stored: &'static AtomicI32) -> Option<BorrowedFd<'static>> {
    let number = stored.load(Ordering::Relaxed);
    // SAFETY: the number is that of the link, which stays open until the machine ends, and it is not -1.
    (number >= 0).then(|| unsafe { BorrowedFd::borrow_raw(number) })
}

/// Gives the whole pages of `memory` back to the kernel; they are zero afterwards.
pub(super) fn release(memory: &mut [u8]) {
    const PAGE: usize = 4096;
    let skipped = memory.as_ptr().align_offset(PAGE);
    let Some(pages) = memory.get_mut(skipped..) else { return };
    let len = pages.len() & !(PAGE - 1);
    // SAFETY: the range is whole pages of a slice that is ours alone, private and not backed by a file: every byte becomes
    // zero, which is a value of u8.
    let _ = unsafe {
        rustix::mm::madvise(pages.as_mut_ptr().cast(), len, rustix::mm::Advice::LinuxDontNeed)
    };
}

/// Words of memory that a fork shares.
pub(super) fn shared_words<const N: usize>() -> Result<&'static [AtomicU32; N], Errno> {
    const { assert!(N * size_of::<AtomicU32>() <= 4096) };
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that Rust knows of.
    let page = unsafe {
        rustix::mm::mmap_anonymous(core::ptr::null_mut(), 4096, protection, MapFlags::SHARED)
    }?;
    // SAFETY: the page is readable, writable, aligned, zero and long enough, never unmapped, and only used as these words.
    Ok(unsafe { &*page.cast() })
}

/// A network device's name, padded.
pub(super) type DeviceName = [u8; 16];
/// The loopback device.
pub(super) const LOOPBACK: DeviceName = *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// The device of a function that has a network.
pub(super) const NETWORK_DEVICE: DeviceName = *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0";

/// `struct ifreq` of linux/if.h, as SIOCSIFFLAGS reads it.
#[repr(C)]
struct FlagsRequest {
    name: DeviceName,
    flags: u16,
    rest: [u8; 22],
}

/// `struct ifreq` of linux/if.h, as the calls read it that set an address.
#[repr(C)]
struct AddressRequest {
    name: DeviceName,
    address: SocketAddress,
    rest: [u8; 8],
}

/// `struct sockaddr_in` of linux/in.h.
#[repr(C)]
struct SocketAddress {
    family: u16,
    port: u16,
    address: [u8; 4],
    rest: [u8; 8],
}

/// `struct rtentry` of linux/route.h, with the numbers that nobody asks for as zeros.
#[repr(C)]
struct RouteRequest {
    hash: u64,
    destination: SocketAddress,
    gateway: SocketAddress,
    mask: SocketAddress,
    flags: u16,
    rest: [u16; 31],
}

const _: () = assert!(size_of::<FlagsRequest>() == 40);
const _: () = assert!(size_of::<AddressRequest>() == 40);
const _: () = assert!(size_of::<RouteRequest>() == 120);

impl SocketAddress {
    fn of(address: [u8; 4]) -> Self {
        const AF_INET: u16 = 2;
        Self { family: AF_INET, port: 0, address, rest: [0; 8] }
    }
}

/// Brings a network device up.
pub(super) fn bring_up(socket: BorrowedFd<'_>, name: DeviceName) -> Result<(), Errno> {
    const SIOCSIFFLAGS: usize = 0x8914;
    const IFF_UP: u16 = 1;
    let request = FlagsRequest { name, flags: IFF_UP, rest: [0; 22] };
    let pointer = (&raw const request) as usize;
    // SAFETY: `pointer` is valid for an `ifreq`, which is all that this ioctl reads.
    unsafe { call(raw::__NR_ioctl, [number_of(socket), SIOCSIFFLAGS, pointer, 0, 0]) }.map(drop)
}

/// Gives [`NETWORK_DEVICE`] its address.
pub(super) fn set_address(socket: BorrowedFd<'_>, address: [u8; 4]) -> Result<(), Errno> {
    const SIOCSIFADDR: usize = 0x8916;
    let address = SocketAddress::of(address);
    let request = AddressRequest { name: NETWORK_DEVICE, address, rest: [0; 8] };
    let pointer = (&raw const request) as usize;
    // SAFETY: `pointer` is valid for an `ifreq`, which is all that this ioctl reads.
    unsafe { call(raw::__NR_ioctl, [number_of(socket), SIOCSIFADDR, pointer, 0, 0]) }.map(drop)
}

/// Tells [`NETWORK_DEVICE`] which bits of its address its neighbours share.
pub(super) fn set_mask(socket: BorrowedFd<'_>, mask: [u8; 4]) -> Result<(), Errno> {
    const SIOCSIFNETMASK: usize = 0x891c;
    let address = SocketAddress::of(mask);
    let request = AddressRequest { name: NETWORK_DEVICE, address, rest: [0; 8] };
    let pointer = (&raw const request) as usize;
    // SAFETY: `pointer` is valid for an `ifreq`, which is all that this ioctl reads.
    unsafe { call(raw::__NR_ioctl, [number_of(socket), SIOCSIFNETMASK, pointer, 0, 0]) }.map(drop)
}

/// Sends everything that has no other way to `gateway`.
pub(super) fn add_default_route(socket: BorrowedFd<'_>, gateway: [u8; 4]) -> Result<(), Errno> {
    const SIOCADDRT: usize = 0x890b;
    const RTF_UP_AND_GATEWAY: u16 = 3;
    let request = RouteRequest {
        hash: 0,
        destination: SocketAddress::of([0; 4]),
        gateway: SocketAddress::of(gateway),
        mask: SocketAddress::of([0; 4]),
        flags: RTF_UP_AND_GATEWAY,
        rest: [0; 31],
    };
    let pointer = (&raw const request) as usize;
    // SAFETY: `pointer` is valid for an `rtentry`, which is all that this ioctl reads: the pointer in it is null.
    unsafe { call(raw::__NR_ioctl, [number_of(socket), SIOCADDRT, pointer, 0, 0]) }.map(drop)
}

/// A descriptor as an argument.
fn number_of(descriptor: BorrowedFd<'_>) -> usize {
    usize::try_from(descriptor.as_raw_fd()).unwrap_or(usize::MAX)
}

/// Opens the kernel's log.
pub(super) fn open_kernel_log() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/kmsg", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Adds a line to the kernel's log.
pub(super) fn write_kernel_log(log: BorrowedFd<'_>, message: &str) {
    let mut line = [0_u8; 128];
    let mut writer = crate::http::Writer::new(&mut line);
    writer.push(b"<6>votive-init: ");
    writer.push(message.as_bytes().get(..96).unwrap_or(message.as_bytes()));
    writer.push(b"\n");
    let len = writer.finish().unwrap_or(0);
    let _ = rustix::io::write(log, line.get(..len).unwrap_or(&[]));
}

/// Adds a line to the kernel's log, if it can be opened.
pub(super) fn kernel_message(message: &str) {
    if let Ok(log) = open_kernel_log() {
        use rustix::fd::AsFd;
        write_kernel_log(log.as_fd(), message);
    }
}
