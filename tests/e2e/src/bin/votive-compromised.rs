//! A VMM that somebody has taken over: executed by the jailer in the VMM's place, it tries what its arguments say, one after
//! the other, and writes a line for each on standard error: the argument, a tab, what came of it. `FILTER::TRY` is tried in a
//! process under the filters of one of the VMM's threads, which may be killed for it.
//!
//! It makes system calls without any library in between, as whoever takes over a process would. It is never shipped.
#![expect(unsafe_code, reason = "system calls of every kind")]

use std::ffi::CString;
use std::io::Write;
use std::sync::atomic::{AtomicI64, Ordering};

use votive_vmm::seccomp::{self, Filter};

/// What came of a try: what the system call returned, or its error's number.
type Outcome = Result<i64, i32>;

/// Most children or descriptors that are made; no jail allows so many.
const ENDLESS: usize = 100_000;
/// Memory is taken in pieces of this many bytes.
const PIECE: usize = 1 << 20;

fn main() {
    for argument in std::env::args().skip(1) {
        if argument == "--kvm" || argument.starts_with("fd:") {
            continue;
        }
        let (filter, asked) = argument.split_once("::").unwrap_or(("", &argument));
        let (what, parameter) = asked.split_once('=').unwrap_or((asked, ""));
        let got = match filters(filter) {
            [] => shown(attempt(what, parameter)),
            filters => filtered(filters, what, parameter),
        };
        let _ = std::io::stderr().write_all(format!("{argument}\t{got}\n").as_bytes());
    }
}

fn shown(outcome: Outcome) -> String {
    outcome.map_or_else(name, |value| format!("allowed {value}"))
}

/// What one of the VMM's threads installs.
fn filters(name: &str) -> &'static [Filter] {
    match name {
        "vcpu" => &[Filter::Vcpu],
        "disk" => &[Filter::Disk],
        "set-up" => &[Filter::Setup],
        "main" => &[Filter::Setup, Filter::Main],
        _ => &[],
    }
}

/// Tries in a child under filters; what came of it, or what killed the child.
fn filtered(filters: &[Filter], what: &str, with: &str) -> String {
    /// No system call returns it.
    const NOTHING: i64 = i64::MIN;
    const SHARED: usize = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as usize;
    const READ_WRITE: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    // A child may be allowed no more than to leave its outcome in memory.
    let place = match call(libc::SYS_mmap, [0, 4096, READ_WRITE, SHARED, usize::MAX, 0]) {
        Ok(place) => std::ptr::with_exposed_provenance::<AtomicI64>(place as usize),
        Err(number) => return format!("not tried: {}", name(number)),
    };
    // SAFETY: the page is mapped for as long as the process lives, and nothing else is in it.
    let outcome = unsafe { &*place };
    outcome.store(NOTHING, Ordering::Relaxed);
    let child = match call(libc::SYS_fork, [0; 6]) {
        Ok(0) => {
            if filters.iter().try_for_each(|filter| seccomp::install(*filter)).is_ok() {
                let got = attempt(what, with).unwrap_or_else(|number| -i64::from(number));
                outcome.store(got, Ordering::Relaxed);
            }
            loop {
                let _ = call(libc::SYS_exit_group, [0; 6]);
            }
        }
        Ok(child) => child,
        Err(number) => return format!("not tried: {}", name(number)),
    };
    let mut status = 0_i32;
    let at = (&raw mut status).expose_provenance();
    let _ = call(libc::SYS_wait4, [child as usize, at, 0, 0, 0, 0]);
    match outcome.load(Ordering::Relaxed) {
        NOTHING if libc::WIFSIGNALED(status) => match libc::WTERMSIG(status) {
            libc::SIGSYS => String::from("SIGSYS"),
            signal => format!("signal {signal}"),
        },
        NOTHING => String::from("not tried"),
        error @ -4095..0 => shown(Err(i32::try_from(-error).unwrap_or(0))),
        value => shown(Ok(value)),
    }
}

fn call(number: libc::c_long, arguments: [usize; 6]) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: whatever the call does, nothing here relies on what it may break: at worst this process ends.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(result)
    }
}

/// The address of a text, which lives as long as the process.
fn text(text: &str) -> usize {
    CString::new(text).map_or(0, |text| text.into_raw().expose_provenance())
}

/// The address of bytes, which live as long as the process.
fn bytes(bytes: &[u8]) -> usize {
    Vec::leak(bytes.to_vec()).as_ptr().expose_provenance()
}

fn number(text: &str) -> usize {
    text.parse::<i64>().map_or(0, |number| number.cast_unsigned() as usize)
}

fn attempt(what: &str, with: &str) -> Outcome {
    const AT_FDCWD: usize = libc::AT_FDCWD as usize;
    match what {
        "open" => call(libc::SYS_openat, [AT_FDCWD, text(with), libc::O_RDONLY as usize, 0, 0, 0]),
        "create" => {
            let flags = (libc::O_CREAT | libc::O_RDWR) as usize;
            call(libc::SYS_openat, [AT_FDCWD, text(with), flags, 0o666, 0, 0])
        }
        "mkdir" => call(libc::SYS_mkdirat, [AT_FDCWD, text(with), 0o777, 0, 0, 0]),
        "mknod" => call(libc::SYS_mknodat, [AT_FDCWD, text(with), 0o020_666, 0x0ae8, 0, 0]),
        "chroot" => call(libc::SYS_chroot, [text(with), 0, 0, 0, 0, 0]),
        "connect-path" => connect_unix(with.as_bytes()),
        "connect-abstract" => connect_unix(&[b"\0", with.as_bytes()].concat()),
        "connect-tcp" => connect_tcp(number(with)),
        "socket" => {
            let [family, kind, protocol] =
                [0, 1, 2].map(|i| number(with.split(',').nth(i).unwrap_or_default()));
            call(libc::SYS_socket, [family, kind, protocol, 0, 0, 0])
        }
        "add-link" => add_link(),
        "kill" => call(libc::SYS_kill, [number(with), libc::SIGKILL as usize, 0, 0, 0, 0]),
        "pidfd" => call(libc::SYS_pidfd_open, [number(with), 0, 0, 0, 0, 0]),
        "ptrace" => call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, number(with), 0, 0, 0, 0]),
        "read-memory" => {
            let buffer = bytes(&[0; 16]);
            let vector = bytes(&[buffer.to_le_bytes(), 16_usize.to_le_bytes()].concat());
            call(libc::SYS_process_vm_readv, [number(with), vector, 1, vector, 1, 0])
        }
        "priority" => call(libc::SYS_setpriority, [0, 0, (-20_isize).cast_unsigned(), 0, 0, 0]),
        "limit" => {
            let limit = bytes(&[1_u64 << 20, 1 << 20].map(u64::to_le_bytes).concat());
            call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, limit, 0, 0, 0])
        }
        "mount" => call(libc::SYS_mount, [text(with), text("/"), text(with), 0, 0, 0]),
        "remount" => {
            let flags = (libc::MS_REMOUNT | libc::MS_BIND) as usize;
            call(libc::SYS_mount, [0, text("/"), 0, flags, 0, 0])
        }
        "umount" => call(libc::SYS_umount2, [text(with), libc::MNT_DETACH as usize, 0, 0, 0, 0]),
        "fsopen" => call(libc::SYS_fsopen, [text(with), 0, 0, 0, 0, 0]),
        "pivot" => call(libc::SYS_pivot_root, [text(with), text(with), 0, 0, 0, 0]),
        "setuid" => call(libc::SYS_setresuid, [number(with), number(with), number(with), 0, 0, 0]),
        "setgid" => call(libc::SYS_setresgid, [number(with), number(with), number(with), 0, 0, 0]),
        "setgroups" => call(libc::SYS_setgroups, [1, bytes(&[0; 4]), 0, 0, 0, 0]),
        "capset" => {
            // Version 3, this process; everything in every set.
            let header = bytes(&[0x22, 0x05, 0x08, 0x20, 0, 0, 0, 0]);
            call(libc::SYS_capset, [header, bytes(&[0xff; 24]), 0, 0, 0, 0])
        }
        "new-privileges" => {
            call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 0, 0, 0, 0, 0])
        }
        "hostname" => call(libc::SYS_sethostname, [text(with), with.len(), 0, 0, 0, 0]),
        "unshare" => call(libc::SYS_unshare, [number(with), 0, 0, 0, 0, 0]),
        "clone-user" => clone_user(),
        "bpf" => call(
            libc::SYS_bpf,
            [0, bytes(&[1, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]), 16, 0, 0, 0],
        ),
        "perf" => {
            let attributes = bytes(&[[0, 0, 0, 0, 112, 0, 0, 0].as_slice(), &[0; 104]].concat());
            call(libc::SYS_perf_event_open, [attributes, 0, usize::MAX, usize::MAX, 0, 0])
        }
        "userfaultfd" => call(libc::SYS_userfaultfd, [0, 0, 0, 0, 0, 0]),
        "module" => call(libc::SYS_init_module, [bytes(&[0; 64]), 64, text(""), 0, 0, 0]),
        "kexec" => call(libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0]),
        "reboot" => call(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0x0123_4567, 0, 0, 0]),
        "syslog" => call(libc::SYS_syslog, [3, bytes(&[0; 64]), 64, 0, 0, 0]),
        "clock" => call(libc::SYS_settimeofday, [bytes(&[0; 16]), 0, 0, 0, 0, 0]),
        "swap" => call(libc::SYS_swapon, [text(with), 0, 0, 0, 0, 0]),
        "execute" => call(libc::SYS_execve, [text(with), 0, 0, 0, 0, 0]),
        "thread" => {
            call(libc::SYS_clone, [libc::CLONE_VM as usize | libc::SIGCHLD as usize, 0, 0, 0, 0, 0])
        }
        "code" => {
            let (all, new) = (7, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize);
            call(libc::SYS_mmap, [0, 4096, all, new, usize::MAX, 0])
        }
        "protect" => call(libc::SYS_mprotect, [bytes(&[0; 8192]) & !4095, 4096, 7, 0, 0, 0]),
        // Another virtual machine, of the opened /dev/kvm.
        "machine" => {
            let kvm = std::env::args().skip_while(|argument| argument != "--kvm").nth(1);
            let kvm = number(kvm.unwrap_or_default().trim_start_matches("fd:"));
            call(libc::SYS_ioctl, [kvm, 0xae01, 0, 0, 0, 0])
        }
        "type-ahead" => call(libc::SYS_ioctl, [2, libc::TIOCSTI as usize, text("x"), 0, 0, 0]),
        "io-uring" => call(libc::SYS_io_uring_setup, [1, bytes(&[0; 120]), 0, 0, 0, 0]),
        "memory-file" => call(libc::SYS_memfd_create, [text("x"), 0, 0, 0, 0, 0]),
        // What everybody may, with all that a try takes of the heap.
        "heap" => {
            let _ = (text(with), bytes(&[0; 4096]));
            call(libc::SYS_brk, [0; 6])
        }
        "lock-memory" => call(libc::SYS_mlockall, [libc::MCL_CURRENT as usize, 0, 0, 0, 0, 0]),
        "descriptors" => repeat(|| call(libc::SYS_dup, [2, 0, 0, 0, 0, 0])),
        "processes" => processes(),
        "memory" => memory(number(with)),
        "wait" => loop {
            let _ = call(libc::SYS_pause, [0; 6]);
        },
        _ => Err(libc::ENOSYS),
    }
}

/// Does something until it is refused; that it once is, and after how many times, is the outcome.
fn repeat(mut once: impl FnMut() -> Outcome) -> Outcome {
    for _ in 0..ENDLESS {
        once()?;
    }
    Ok(ENDLESS as i64)
}

fn processes() -> Outcome {
    repeat(|| match call(libc::SYS_fork, [0; 6])? {
        0 => loop {
            let _ = call(libc::SYS_pause, [0; 6]);
        },
        child => Ok(child),
    })
}

/// Takes and touches so many MiB.
fn memory(mib: usize) -> Outcome {
    let mut pieces = Vec::new();
    for _ in 0..mib {
        pieces.push(vec![0x5a_u8; PIECE]);
        // Seen by nobody, and so not left out.
        std::hint::black_box(&pieces);
    }
    Ok(mib as i64)
}

fn clone_user() -> Outcome {
    match call(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD) as usize, 0, 0, 0, 0, 0])? {
        // SAFETY: the child of a process of one thread ends at once.
        0 => unsafe { libc::_exit(0) },
        child => Ok(child),
    }
}

fn connect_unix(path: &[u8]) -> Outcome {
    let socket =
        call(libc::SYS_socket, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0])?;
    let address = [&[1, 0], path].concat();
    call(libc::SYS_connect, [socket as usize, bytes(&address), address.len(), 0, 0, 0])
}

fn connect_tcp(port: usize) -> Outcome {
    let socket =
        call(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0])?;
    let [.., high, low] = port.to_be_bytes();
    let address = [2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    call(libc::SYS_connect, [socket as usize, bytes(&address), 16, 0, 0, 0])
}

/// Asks the kernel for a network interface (rtnetlink(7)); its answer is an error message, whose number is read.
fn add_link() -> Outcome {
    let socket =
        call(libc::SYS_socket, [libc::AF_NETLINK as usize, libc::SOCK_RAW as usize, 0, 0, 0, 0])?
            as usize;
    // A header (32 bytes in all, RTM_NEWLINK, request with an answer, create), and an interface of no kind.
    let header = [32, 0, 0, 0, 16, 0, 5, 4, 1, 0, 0, 0, 0, 0, 0, 0];
    let request = [header, [0; 16]].concat();
    call(libc::SYS_sendto, [socket, bytes(&request), request.len(), 0, 0, 0])?;
    let mut answer = [0_u8; 64];
    call(
        libc::SYS_recvfrom,
        [socket, answer.as_mut_ptr().expose_provenance(), answer.len(), 0, 0, 0],
    )?;
    match i32::from_le_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(0),
        error => Err(-error),
    }
}

/// The name of an error's number, or the number.
fn name(number: i32) -> String {
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ENODEV, "ENODEV"),
        (libc::EBUSY, "EBUSY"),
        (libc::EFAULT, "EFAULT"),
    ];
    let known = names.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("error {number}"), |(_, name)| (*name).to_owned())
}
