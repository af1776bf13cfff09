//! Every system call that a thread of the VMM may make once there is a tenant's byte to be read, and why.
//!
//! `build.rs` compiles this table into filters; `docs/seccomp.md` is made of it. What is not here kills the process. Arguments
//! are compared as the kernel takes them: 32 bits of each that is checked, for none of these takes more.

use libc::c_long;

/// Kinds of threads, a bit each.
pub type Kinds = u8;
/// A vCPU's thread.
pub const VCPU: Kinds = 1;
/// A disk's thread.
pub const DISK: Kinds = 1 << 1;
/// The main thread while the guest's programs run, if everything was given to it as descriptors.
pub const MAIN: Kinds = 1 << 2;
/// The same with a vsock device that has a path (`--vsock path=`), which no worker uses.
pub const MAIN_WITH_PATH: Kinds = 1 << 3;
/// The main thread before that, while it reads the spec, the kernel and the initrd and fills guest memory.
pub const SETUP: Kinds = 1 << 4;
/// The same with such a vsock device.
pub const SETUP_WITH_PATH: Kinds = 1 << 5;

/// The kinds with their names, in the order of their bits.
pub const KINDS: [(Kinds, &str); 6] = [
    (VCPU, "vCPU"),
    (DISK, "disk"),
    (MAIN, "main"),
    (MAIN_WITH_PATH, "main with a path"),
    (SETUP, "set-up"),
    (SETUP_WITH_PATH, "set-up with a path"),
];

/// The main thread in both its stages.
const MAINS: Kinds = MAIN | MAIN_WITH_PATH | SETUP | SETUP_WITH_PATH;
const SETUPS: Kinds = SETUP | SETUP_WITH_PATH;
const PATHS: Kinds = MAIN_WITH_PATH | SETUP_WITH_PATH;
const ALL: Kinds = VCPU | DISK | MAINS;

/// A system call.
#[derive(Debug)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number on x86-64.
    pub number: c_long,
    /// When it is allowed: as any of these says.
    pub rules: &'static [Rule],
}

/// Who may make a call, and with which arguments.
#[derive(Debug)]
pub struct Rule {
    /// These kinds of threads.
    pub kinds: Kinds,
    /// All of these must hold.
    pub arguments: &'static [Argument],
    /// What for.
    pub why: &'static str,
}

/// What must hold of an argument.
#[derive(Debug)]
pub struct Argument {
    /// Which one, from 0.
    pub index: u8,
    /// Its value.
    pub value: u32,
    /// As people write that.
    pub shown: &'static str,
}

const fn rule(kinds: Kinds, arguments: &'static [Argument], why: &'static str) -> Rule {
    Rule { kinds, arguments, why }
}

const fn is(index: u8, value: u32, shown: &'static str) -> Argument {
    Argument { index, value, shown }
}

// From <linux/kvm.h>, <linux/userfaultfd.h> and <asm-generic/ioctls.h>.
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_SET_REGS: u32 = 0x4090_ae82;
const KVM_SIGNAL_MSI: u32 = 0x4020_aea5;
const KVM_IOEVENTFD: u32 = 0x4040_ae79;
const UFFDIO_REGISTER: u32 = 0xc020_aa00;
const UFFDIO_WAKE: u32 = 0x8010_aa02;
const FIONBIO: u32 = 0x5421;

const READ_WRITE: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;
const OVER_MEMORY: u32 = (libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE) as u32;
const NEW_MEMORY: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u32;
const WAIT: u32 = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u32;
const WAIT_BITSET: u32 = (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u32;
const WAKE: u32 = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32;
const STREAM: u32 = (libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u32;
const UNWAITING: u32 = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u32;

/// The signal that has a vCPU's thread leave the guest: the C library's `SIGRTMIN`.
pub const KICK: u32 = 34;

/// The table, in the order of the calls' numbers.
pub const TABLE: &[Call] = &[
    Call {
        name: "read",
        number: libc::SYS_read,
        rules: &[rule(
            DISK | MAINS,
            &[],
            "events, timers, signals, accesses to missing memory, sockets",
        )],
    },
    Call {
        name: "write",
        number: libc::SYS_write,
        rules: &[rule(ALL, &[], "events, sockets, console, marks, standard error")],
    },
    Call {
        name: "close",
        number: libc::SYS_close,
        rules: &[rule(DISK | MAINS, &[], "sockets, files")],
    },
    Call {
        name: "lseek",
        number: libc::SYS_lseek,
        rules: &[rule(
            SETUPS,
            &[is(2, libc::SEEK_END as u32, "whence = SEEK_END")],
            "a file's size",
        )],
    },
    Call {
        name: "mmap",
        number: libc::SYS_mmap,
        rules: &[
            rule(
                SETUPS,
                &[
                    is(2, READ_WRITE, "prot = READ, WRITE"),
                    is(3, OVER_MEMORY, "flags = PRIVATE, FIXED, NORESERVE"),
                ],
                "the kernel's file over guest memory",
            ),
            rule(
                SETUPS,
                &[
                    is(2, READ_WRITE, "prot = READ, WRITE"),
                    is(3, NEW_MEMORY, "flags = PRIVATE, ANONYMOUS, NORESERVE"),
                ],
                "memory to fill huge pages in",
            ),
            rule(
                SETUPS,
                &[
                    is(2, libc::PROT_READ as u32, "prot = READ"),
                    is(3, libc::MAP_SHARED as u32, "flags = SHARED"),
                ],
                "a lazy disk's table of chunks",
            ),
            rule(
                SETUPS,
                &[
                    is(2, READ_WRITE, "prot = READ, WRITE"),
                    is(3, libc::MAP_SHARED as u32, "flags = SHARED"),
                ],
                "a lazy disk's table of pages that were read",
            ),
        ],
    },
    Call {
        name: "brk",
        number: libc::SYS_brk,
        rules: &[rule(ALL, &[], "the heap, which is nowhere else")],
    },
    Call {
        name: "rt_sigreturn",
        number: libc::SYS_rt_sigreturn,
        rules: &[rule(VCPU, &[], "the end of a kick's handler")],
    },
    Call {
        name: "ioctl",
        number: libc::SYS_ioctl,
        rules: &[
            rule(VCPU, &[is(1, KVM_RUN, "KVM_RUN")], "the guest"),
            rule(
                VCPU,
                &[is(1, KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL")],
                "the guest hears of a pause",
            ),
            rule(VCPU, &[is(1, KVM_GET_REGS, "KVM_GET_REGS")], "where KVM had an error of its own"),
            rule(VCPU | DISK | MAINS, &[is(1, KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI")], "an interrupt"),
            rule(SETUPS, &[is(1, KVM_IOEVENTFD, "KVM_IOEVENTFD")], "a device's notifications"),
            rule(SETUPS, &[is(1, KVM_SET_REGS, "KVM_SET_REGS")], "the guest's first instruction"),
            rule(
                SETUPS,
                &[is(1, UFFDIO_REGISTER, "UFFDIO_REGISTER")],
                "memory that is filled on demand",
            ),
            rule(SETUPS, &[is(1, UFFDIO_WAKE, "UFFDIO_WAKE")], "memory that has been filled"),
            rule(SETUPS, &[is(1, FIONBIO, "FIONBIO")], "files and sockets that nobody waits for"),
        ],
    },
    Call {
        name: "mremap",
        number: libc::SYS_mremap,
        rules: &[rule(
            SETUPS,
            &[is(3, (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u32, "flags = MAYMOVE, FIXED")],
            "a filled huge page into guest memory",
        )],
    },
    Call {
        name: "madvise",
        number: libc::SYS_madvise,
        rules: &[
            rule(
                SETUPS,
                &[is(2, libc::MADV_HUGEPAGE as u32, "advice = HUGEPAGE")],
                "memory to fill huge pages in",
            ),
            rule(
                SETUPS,
                &[is(2, libc::MADV_NOHUGEPAGE as u32, "advice = NOHUGEPAGE")],
                "memory that is filled on demand",
            ),
            rule(
                SETUPS,
                &[is(2, libc::MADV_DONTDUMP as u32, "advice = DONTDUMP")],
                "guest memory is in no core file",
            ),
        ],
    },
    Call {
        name: "socket",
        number: libc::SYS_socket,
        rules: &[rule(
            PATHS,
            &[
                is(0, libc::AF_UNIX as u32, "domain = UNIX"),
                is(1, STREAM, "type = STREAM, NONBLOCK, CLOEXEC"),
            ],
            "a guest reaches a socket of the host",
        )],
    },
    Call {
        name: "connect",
        number: libc::SYS_connect,
        rules: &[rule(PATHS, &[], "a guest reaches a socket of the host")],
    },
    Call {
        name: "recvmsg",
        number: libc::SYS_recvmsg,
        rules: &[rule(
            SETUPS,
            &[is(
                2,
                (libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) as u32,
                "flags = DONTWAIT, CMSG_CLOEXEC",
            )],
            "a shell's assignment",
        )],
    },
    Call {
        name: "shutdown",
        number: libc::SYS_shutdown,
        rules: &[rule(MAINS, &[], "the end of one direction of a guest's stream")],
    },
    Call { name: "fdatasync", number: libc::SYS_fdatasync, rules: &[rule(DISK, &[], "a flush")] },
    Call {
        name: "unlink",
        number: libc::SYS_unlink,
        rules: &[rule(PATHS, &[], "the vsock device's socket goes with the process")],
    },
    Call {
        name: "futex",
        number: libc::SYS_futex,
        rules: &[
            rule(ALL, &[is(1, WAIT, "WAIT, PRIVATE")], "the heap's lock"),
            rule(ALL, &[is(1, WAKE, "WAKE, PRIVATE")], "locks, work, pauses"),
            rule(
                ALL,
                &[is(1, WAIT_BITSET, "WAIT_BITSET, PRIVATE")],
                "locks, work, pauses, and rest at the end",
            ),
        ],
    },
    Call {
        name: "timer_settime",
        number: libc::SYS_timer_settime,
        rules: &[rule(MAINS, &[], "the process's end by force")],
    },
    Call {
        name: "clock_gettime",
        number: libc::SYS_clock_gettime,
        rules: &[
            rule(
                ALL,
                &[is(0, libc::CLOCK_MONOTONIC as u32, "clock = MONOTONIC")],
                "marks and timers, where user space cannot read the clock",
            ),
            rule(
                SETUPS,
                &[is(0, libc::CLOCK_BOOTTIME as u32, "clock = BOOTTIME")],
                "the deadline, likewise",
            ),
        ],
    },
    Call {
        name: "exit_group",
        number: libc::SYS_exit_group,
        rules: &[rule(ALL, &[], "the end, on any thread when it is by force or for a lost page")],
    },
    Call {
        name: "epoll_wait",
        number: libc::SYS_epoll_wait,
        rules: &[rule(DISK | MAINS, &[], "events")],
    },
    Call {
        name: "epoll_ctl",
        number: libc::SYS_epoll_ctl,
        rules: &[rule(DISK | MAINS, &[], "which events")],
    },
    Call {
        name: "tgkill",
        number: libc::SYS_tgkill,
        rules: &[rule(
            MAINS,
            &[is(2, KICK, "signal = SIGRTMIN")],
            "a vCPU's thread leaves the guest",
        )],
    },
    Call {
        name: "timerfd_settime",
        number: libc::SYS_timerfd_settime,
        rules: &[
            rule(DISK | MAINS, &[is(1, 0, "flags = 0")], "what a device waits for"),
            rule(
                SETUPS,
                &[is(1, libc::TFD_TIMER_ABSTIME as u32, "flags = ABSTIME")],
                "the deadline",
            ),
        ],
    },
    Call {
        name: "accept4",
        number: libc::SYS_accept4,
        rules: &[rule(
            PATHS,
            &[is(3, UNWAITING, "flags = NONBLOCK, CLOEXEC")],
            "a program of the host reaches the guest",
        )],
    },
    Call {
        name: "seccomp",
        number: libc::SYS_seccomp,
        rules: &[rule(
            SETUPS,
            &[
                is(0, libc::SECCOMP_SET_MODE_FILTER, "operation = SET_MODE_FILTER"),
                is(1, 0, "flags = 0"),
            ],
            "the filter of the main thread's second stage",
        )],
    },
    Call {
        name: "getrandom",
        number: libc::SYS_getrandom,
        rules: &[rule(MAINS, &[is(2, 0, "flags = 0")], "the entropy device, a scratch disk's key")],
    },
    Call {
        name: "preadv2",
        number: libc::SYS_preadv2,
        rules: &[rule(
            DISK | MAINS,
            &[is(5, 0, "flags = 0")],
            "disks, taps, the kernel and the initrd",
        )],
    },
    Call {
        name: "pwritev2",
        number: libc::SYS_pwritev2,
        rules: &[rule(DISK | MAINS, &[is(5, 0, "flags = 0")], "disks and taps")],
    },
];

/// What the standard library calls besides in builds with debug assertions: is a descriptor that it closes open?
pub const IN_DEBUG_BUILDS: Call = Call {
    name: "fcntl",
    number: libc::SYS_fcntl,
    rules: &[rule(DISK | MAINS, &[is(1, libc::F_GETFD as u32, "F_GETFD")], "a descriptor is open")],
};
