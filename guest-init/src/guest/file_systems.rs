//! What is mounted where (CONTRACT 4.5), and how the image becomes the root.

#[cfg(test)]
mod tests;

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, makedev, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use votive_protocol::{Configure, FaultCode, FileSystem, Mount, MountTarget};

use super::network::RESOLVER;
use crate::worker::Problem;

/// What PID 1 needs itself, in the initramfs. The first is seen by the runtime later, the second never is.
const EARLY: [(&str, &CStr, Option<&CStr>); 2] =
    [("/proc", c"proc", Some(c"hidepid=2")), ("/dev", c"devtmpfs", None)];
/// Where the image is mounted before it becomes the root.
const NEW_ROOT: &str = "/root";
/// The device nodes that a runtime finds: name, major and minor number. No disk, no memory, no vsock.
const NODES: [(&str, u32, u32); 5] = [
    ("/root/dev/null", 1, 3),
    ("/root/dev/zero", 1, 5),
    ("/root/dev/full", 1, 7),
    ("/root/dev/random", 1, 8),
    ("/root/dev/urandom", 1, 9),
];
/// Names that programs expect beside them.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/root/dev/fd"),
    ("/proc/self/fd/0", "/root/dev/stdin"),
    ("/proc/self/fd/1", "/root/dev/stdout"),
    ("/proc/self/fd/2", "/root/dev/stderr"),
];
/// `/dev` holds these nodes and what a function puts into `/dev/shm`, which counts as its memory.
const DEV_OPTIONS: &CStr = c"mode=755";
/// `/tmp` where no disk was given: 512 MiB (CONTRACT 4.5), which count as the function's memory.
const TMP_OPTIONS: &CStr = c"mode=1777,size=512m";

fn problem(errno: Errno, detail: &'static str) -> Problem {
    Problem::new(FaultCode::Mount, errno, detail)
}

/// `mount(2)`
pub(super) fn mount(
    source: &CStr,
    target: &str,
    file_system: &CStr,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), Errno> {
    rustix::mount::mount(source, target, file_system, flags, options)
}

/// Mounts what PID 1 needs itself.
pub(super) fn mount_early() -> Result<(), Problem> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (target, file_system, options) in EARLY {
        mount(file_system, target, file_system, flags, options)
            .map_err(|errno| problem(errno, target))?;
    }
    Ok(())
}

/// Mounts the image and what the configuration adds to it, and makes it the root.
pub(super) fn mount_root(configure: &Configure<'_>) -> Result<(), Problem> {
    let mut has_root = false;
    let mut has_tmp = false;
    for disk in configure.mounts.iter().flatten() {
        has_root |= disk.target == MountTarget::Root;
        has_tmp |= disk.target == MountTarget::Tmp;
        if !has_root {
            break;
        }
        mount_disk(disk)?;
    }
    if !has_root {
        return Err(Problem::without_errno(FaultCode::Mount, "no root"));
    }
    if !has_tmp {
        check_mount_point("/root/tmp").map_err(|errno| problem(errno, "/tmp"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(c"tmpfs", "/root/tmp", c"tmpfs", flags, Some(TMP_OPTIONS))
            .map_err(|errno| problem(errno, "/tmp"))?;
    }
    make_devices()?;
    if configure.network.is_some() {
        show_resolver().map_err(|errno| problem(errno, "/etc/resolv.conf"))?;
    }
    check_mount_point("/root/proc").map_err(|errno| problem(errno, "/proc"))?;
    rustix::mount::mount_move("/proc", "/root/proc").map_err(|errno| problem(errno, "/proc"))?;
    rustix::process::chdir(NEW_ROOT).map_err(|errno| problem(errno, NEW_ROOT))?;
    rustix::mount::mount_move(".", "/").map_err(|errno| problem(errno, "/"))?;
    rustix::process::chroot(".").map_err(|errno| problem(errno, "/"))?;
    rustix::process::chdir("/").map_err(|errno| problem(errno, "/"))
}

/// Mounts one disk.
fn mount_disk(disk: &Mount) -> Result<(), Problem> {
    let (target, shown) = match disk.target {
        MountTarget::Root => (NEW_ROOT, "/"),
        MountTarget::Task => ("/root/var/task", "/var/task"),
        MountTarget::Opt => ("/root/opt", "/opt"),
        MountTarget::Tmp => ("/root/tmp", "/tmp"),
    };
    let mut source = *b"/dev/vda\0";
    if disk.device >= 26 {
        return Err(Problem::without_errno(FaultCode::Mount, shown));
    }
    source[7] = b'a' + disk.device;
    let source = CStr::from_bytes_with_nul(&source).unwrap_or(c"");
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    let (file_system, flags) = match disk.file_system {
        FileSystem::Erofs => (c"erofs", safe | MountFlags::RDONLY),
        FileSystem::Ext4 => (c"ext4", safe),
    };
    check_mount_point(target).map_err(|errno| problem(errno, shown))?;
    mount(source, target, file_system, flags, None).map_err(|errno| problem(errno, shown))?;
    if disk.target == MountTarget::Tmp {
        rustix::fs::chmod(target, Mode::from_raw_mode(0o1777))
            .map_err(|errno| problem(errno, shown))?;
    }
    Ok(())
}

/// A mount goes onto a folder of the image's, and nowhere that a link of the image's leads to: behind an absolute one are PID
/// 1's own folders.
fn check_mount_point(path: &str) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map(drop)
}

/// Puts the name servers' file in its place, read-only. An image that has no file there goes without.
fn show_resolver() -> Result<(), Errno> {
    const PLACE: &str = "/root/etc/resolv.conf";
    if !is_plain_file(PLACE)? {
        return Ok(());
    }
    rustix::mount::mount_bind(RESOLVER, PLACE)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let flags = MountFlags::BIND | MountFlags::RDONLY | safe;
    rustix::mount::mount_remount(PLACE, flags, "")
}

/// Whether there is a file that no link leads to.
fn is_plain_file(path: &str) -> Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(file) => {
            let stat = rustix::fs::fstat(&file)?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        }
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Makes the runtime's `/dev`.
fn make_devices() -> Result<(), Problem> {
    let dev = |errno| problem(errno, "/dev");
    check_mount_point("/root/dev").map_err(dev)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(c"tmpfs", "/root/dev", c"tmpfs", flags, Some(DEV_OPTIONS)).map_err(dev)?;
    for (path, major, minor) in NODES {
        let device = makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, device).map_err(dev)?;
    }
    for (to, path) in LINKS {
        rustix::fs::symlink(to, path).map_err(dev)?;
    }
    rustix::fs::mkdir("/root/dev/shm", Mode::from_raw_mode(0o777)).map_err(dev)?;
    rustix::fs::chmod("/root/dev/shm", Mode::from_raw_mode(0o1777)).map_err(dev)
}

/// Leaves the scratch disk whole: the microVM ends behind this.
pub(super) fn leave() {
    rustix::fs::sync();
    let _ = rustix::mount::unmount("/tmp", UnmountFlags::DETACH);
    rustix::fs::sync();
}

/// Reads the start of a small file; gives the bytes that are there, none if it cannot be read.
pub(super) fn read_small(path: &str, buffer: &mut [u8]) -> usize {
    let Ok(file) = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return 0;
    };
    read_at_start(file.as_fd(), buffer).len()
}

/// Reads the start of an open file.
pub(super) fn read_at_start<'a>(file: BorrowedFd<'_>, buffer: &'a mut [u8]) -> &'a [u8] {
    let len = rustix::io::pread(file, &mut *buffer, 0).unwrap_or(0);
    buffer.get(..len).unwrap_or(&[])
}
