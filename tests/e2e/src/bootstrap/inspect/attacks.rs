//! What a function tries that it must not be able to do to its own microVM: the error number of each attempt, 0 if it worked.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};
use rustix::system::RebootCommand;

/// `AF_VSOCK` of linux/socket.h.
const AF_VSOCK: u16 = 40;

/// Everything, by name.
pub(super) fn tried() -> BTreeMap<&'static str, i32> {
    let mut tried = BTreeMap::new();
    for path in [
        "/dev/mem",
        "/dev/port",
        "/dev/kmsg",
        "/dev/kvm",
        "/dev/vda",
        "/dev/vdb",
        "/dev/vsock",
        "/proc/kcore",
        "/proc/1/mem",
        "/proc/1/environ",
        "/proc/sysrq-trigger",
        "/proc/self/ns/user",
        "/sys/block",
    ] {
        tried.insert(path, io_errno(read(path)));
    }
    tried.insert("signal PID 1", errno(rustix::process::kill_process(Pid::INIT, Signal::KILL)));
    tried.insert("trace PID 1", errno(take_descriptor_of_init()));
    tried.insert("see PID 1", io_errno(fs::read_dir("/proc/1/fd").map(drop)));
    tried.insert("make a device", errno(make_disk()));
    tried.insert("mount", errno(mount()));
    tried.insert("become root", errno(rustix::thread::set_thread_uid(rustix::fs::Uid::ROOT)));
    tried.insert("change root", errno(rustix::process::chroot("/tmp")));
    tried.insert("reboot", errno(rustix::system::reboot(RebootCommand::PowerOff)));
    tried.insert("set the clock", errno(set_clock()));
    for (name, family) in [
        ("vsock stream", AF_VSOCK),
        ("packet socket", 17),
        ("key socket", 15),
        ("algorithm socket", 38),
    ] {
        tried.insert(name, errno(socket(family, SocketType::STREAM)));
    }
    tried.insert("vsock datagram", errno(socket(AF_VSOCK, SocketType::DGRAM)));
    tried.insert("vsock packet", errno(socket(AF_VSOCK, SocketType::SEQPACKET)));
    for (name, family) in [("local socket", 1), ("IPv4 socket", 2)] {
        tried.insert(name, errno(socket(family, SocketType::STREAM)));
    }
    tried
}

fn read(path: &str) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        return fs::read_dir(path).map(drop);
    }
    OpenOptions::new().read(true).write(true).open(path)?.read(&mut [0; 16]).map(drop)
}

fn take_descriptor_of_init() -> Result<(), Errno> {
    let init = rustix::process::pidfd_open(Pid::INIT, PidfdFlags::empty())?;
    rustix::process::pidfd_getfd(init, 3, PidfdGetfdFlags::empty()).map(drop)
}

/// The first virtio disk, whatever its major number is: none may be made.
fn make_disk() -> Result<(), Errno> {
    let device = rustix::fs::makedev(254, 0);
    rustix::fs::mknodat(CWD, "/tmp/disk", FileType::BlockDevice, Mode::RWXU, device)
}

fn mount() -> Result<(), Errno> {
    rustix::mount::mount("none", "/tmp", "tmpfs", rustix::mount::MountFlags::empty(), None)
}

fn set_clock() -> Result<(), Errno> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)
}

fn socket(family: u16, kind: SocketType) -> Result<(), Errno> {
    rustix::net::socket(AddressFamily::from_raw(family), kind, None).map(drop)
}

fn errno(result: Result<(), Errno>) -> i32 {
    result.err().map_or(0, Errno::raw_os_error)
}

fn io_errno(result: io::Result<()>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}
