//! The spec of a microVM: its command line, read whole and validated whole before anything is opened.
//!
//! [`VmSpec`] holds the texts as they were given; [`ValidSpec`] holds what they mean, and nothing
//! looks at the texts again. Every wrong value is refused with its field, itself and what is allowed.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use crate::descriptor::FileRef;
use crate::limits::{
    MAX_CMDLINE_BYTES, MAX_DISKS, MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB, SHOWN_VALUE_CHARS,
};

mod assigned;
mod disk;
mod limit;
mod net;
mod vsock;

pub use self::assigned::{Ahead, ValidShell};
pub use self::disk::{DiskSpec, EncryptedDiskSpec, LazyDiskSpec};
pub use self::net::NetSpec;
pub use self::vsock::VsockSpec;

/// What `--help` prints.
pub const HELP: &str = "\
votive-vmm: one process, one microVM, on KVM

votive-vmm --kernel FILE --vcpus N --memory-mib N [options]

  --kernel FILE        an uncompressed x86-64 vmlinux
  --initrd FILE        the initial file system
  --vcpus N            1 to 32
  --memory-mib N       128 to 10752
  --kernel-memory demand|mapped|copied
                       mapped: the kernel's pages are the host's page cache until written, so the guest
                       starts soonest and microVMs share most; copied: what Linux writes early is copied
                       to huge pages, so PID 1 starts sooner; demand (the default): as copied, while the
                       guest runs already; without the right to userfaultfd, mapped
  --cmdline TEXT       added to the kernel's command line; may hold ` -- args` for PID 1
  --disk path=FILE[,readonly][,presence=fd:N,requests=fd:M[,reads=fd:K][,timeout-ms=T]]
         [,encrypted[,template=FILE]][,bandwidth=L][,operations=L]
                       /dev/vda, /dev/vdb, ... in the order given; at most 8; with presence and requests
                       a chunk is there once the table N says so, and asked for on the Unix socket M
                       (docs/vmm.md); a read that has waited T milliseconds, or 30000, is an I/O error;
                       pages that were read are noted in the table K;
                       encrypted: under a key that ends with this process; what was never written reads as the
                       template, which is only read, or as zeros
                       L is RATE[/BURST]: so much a second, in bytes or requests (docs/devices.md)
  --vsock cid=N[,path=SOCKET][,port=P:fd:M]...
                       guest address N; host clients connect to SOCKET and write `CONNECT <port>`;
                       port P of the host is the connected stream socket M, else the socket SOCKET_P
  --net tap=fd:N,mac=XX:XX:XX:XX:XX:XX[,mtu=M][,rx-bandwidth=L][,rx-operations=L][,tx-bandwidth=L]...
                       a network card on the tap N (docs/devices.md); packets of M bytes at most, or 1500
  --rng, --no-rng      an entropy device (the default), or none
  --console FILE       a serial port whose output goes to FILE, or to `stdout`
  --marks FILE         where marks are added, one line each: `NAME MONOTONIC_NS`
  --control fd:N       a connected stream socket: `p` pauses all vCPUs, `r` resumes them, `l` and a record sets
                       limits (docs/devices.md), each answered with the same byte once done; the microVM ends
                       when the other end is gone
  --deadline NS        end at NS nanoseconds of CLOCK_BOOTTIME, running or paused
  --cgroup FILE        join the control group of this cgroup.procs before anything else
  --parent PID         be killed when process PID, the parent, is gone
  --kvm fd:N           an opened /dev/kvm, where this process may open none
  --userfaultfd fd:N   an opened /dev/userfaultfd, likewise
  --shell fd:N         make all that --vcpus, --memory-mib and --kernel-memory ask for, and wait on this connected
                       stream socket for an assignment: the other options (docs/vmm.md)
  --disks N            a shell's disks at most; 0 to 8, or 8
  --probe-kvm          run no microVM; say in one line of key=value words which kind of KVM there is
  --help, --version

FILE may be `fd:N`, an inherited descriptor (N at least 3, each named once).

Exit codes: 0 the guest powered off; 1 set-up failed; 2 the spec is wrong; 3 the guest was reset or
stopped with a code; 4 a vCPU failed; 5 a device worker died; 6 the deadline passed; 7 the control
channel was closed; 128+N ended by signal N.
";

/// A microVM's spec as it was given: texts, nothing opened, nothing checked but their number.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// `--kernel`.
    pub kernel: Option<String>,
    /// `--initrd`.
    pub initrd: Option<String>,
    /// `--kernel-memory`.
    pub kernel_memory: Option<String>,
    /// `--vcpus`.
    pub vcpus: Option<String>,
    /// `--memory-mib`.
    pub memory_mib: Option<String>,
    /// `--cmdline`.
    pub cmdline: Option<String>,
    /// `--disk`, each.
    pub disks: Vec<String>,
    /// `--vsock`.
    pub vsock: Option<String>,
    /// `--net`.
    pub net: Option<String>,
    /// `--rng` or `--no-rng`.
    pub rng: Option<bool>,
    /// `--console`.
    pub console: Option<String>,
    /// `--marks`.
    pub marks: Option<String>,
    /// `--control`.
    pub control: Option<String>,
    /// `--deadline`.
    pub deadline: Option<String>,
    /// `--cgroup`.
    pub cgroup: Option<String>,
    /// `--parent`.
    pub parent: Option<String>,
    /// `--kvm`.
    pub kvm: Option<String>,
    /// `--userfaultfd`.
    pub userfaultfd: Option<String>,
    /// `--shell`.
    pub shell: Option<String>,
    /// `--disks`.
    pub disk_threads: Option<String>,
}

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run this microVM.
    Run(Box<VmSpec>),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Print what kind of KVM there is.
    ProbeKvm,
}

/// A spec in which every value has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidSpec {
    /// The kernel, an uncompressed vmlinux.
    pub kernel: FileRef,
    /// How the kernel gets into guest memory.
    pub kernel_memory: Option<KernelMemory>,
    /// The initial file system.
    pub initrd: Option<FileRef>,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in bytes, a multiple of 1 MiB.
    pub memory_bytes: u64,
    /// What follows the VMM's own part of the kernel command line.
    pub cmdline: String,
    /// The disks in the guest's order.
    pub disks: Vec<DiskSpec>,
    /// The vsock device.
    pub vsock: Option<VsockSpec>,
    /// The network device.
    pub net: Option<NetSpec>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// Where the serial console's output goes; without it there is no serial port.
    pub console: Option<ConsoleSpec>,
    /// Where marks go.
    pub marks: Option<FileRef>,
    /// The descriptor of the socket that commands come from.
    pub control: Option<RawFd>,
    /// When the microVM ends at the latest, in nanoseconds of `CLOCK_BOOTTIME`.
    pub deadline_ns: Option<u64>,
    /// The `cgroup.procs` of the control group to join.
    pub cgroup: Option<FileRef>,
    /// The parent process, whose end is this one's.
    pub parent: Option<u32>,
    /// An opened /dev/kvm.
    pub kvm: Option<RawFd>,
    /// An opened /dev/userfaultfd.
    pub userfaultfd: Option<RawFd>,
}

/// How the kernel gets into guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelMemory {
    /// As `Copied`, each huge page when the guest first needs it.
    Demand,
    /// Every whole page is mapped from the file.
    Mapped,
    /// Read-only blocks that fill huge pages are mapped, the rest is copied to huge pages.
    Copied,
}

/// Where console output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleSpec {
    /// This process's standard output.
    Stdout,
    /// A file.
    File(FileRef),
}

/// Why a spec was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such option.
    #[error("unknown option {option}; --help lists what is allowed")]
    UnknownOption {
        /// What was given.
        option: String,
    },
    /// An argument that belongs to no option.
    #[error("unexpected argument {value}; only options are allowed")]
    UnexpectedArgument {
        /// What was given.
        value: String,
    },
    /// An option without its value, or a value where none is taken.
    #[error("--{field}: {problem}")]
    Usage {
        /// The option.
        field: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// An option that may stand once only.
    #[error("--{field} is given twice; once is allowed")]
    Duplicate {
        /// The option.
        field: &'static str,
    },
    /// An option that must be there.
    #[error("--{field} is missing; allowed: {allowed}")]
    Missing {
        /// The option.
        field: &'static str,
        /// What it takes.
        allowed: &'static str,
    },
    /// A value that is not allowed.
    #[error("--{field}: {value} is not allowed; allowed: {allowed}")]
    Value {
        /// The option, with its part if it has parts.
        field: &'static str,
        /// What was given, escaped and cut short.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

const FILE_ALLOWED: &str = "a path, or fd:N with N from 3 to 1048575";
const KERNEL_MEMORY_ALLOWED: &str = "demand, mapped, copied";
const VCPUS_ALLOWED: &str = "1 to 32";
const MEMORY_ALLOWED: &str = "128 to 10752";
const CMDLINE_ALLOWED: &str = "printable ASCII, 1500 bytes at most";
const DISKS_ALLOWED: &str = "at most 8 disks";
const CONSOLE_ALLOWED: &str = "stdout, a path, or fd:N with N from 3 to 1048575";
const FD_ALLOWED: &str = "each descriptor once";
const PASSED_ALLOWED: &str = "fd:N with N from 3 to 1048575";
const DEADLINE_ALLOWED: &str = "nanoseconds of CLOCK_BOOTTIME, 1 to 9223372036854775807";
const PARENT_ALLOWED: &str = "a process id, 1 to 4194304";

/// Longest `--cmdline` in bytes: what the VMM's own part leaves of the kernel's limit.
const MAX_CMDLINE_TEXT_BYTES: usize = 1500;
const MAX_FD: RawFd = (1 << 20) - 1;
/// The kernel's own limit on times (`KTIME_MAX`).
const MAX_DEADLINE_NS: u64 = i64::MAX as u64;
/// The kernel's own limit (`PID_MAX_LIMIT`).
const MAX_PID: u32 = 1 << 22;

// The texts above name these numbers.
const _: () = assert!(MAX_VCPUS == 32 && MIN_MEMORY_MIB == 128 && MAX_MEMORY_MIB == 10_752);
const _: () = assert!(MAX_DISKS == 8);
const _: () = assert!(MAX_CMDLINE_TEXT_BYTES < MAX_CMDLINE_BYTES - 500);

impl VmSpec {
    /// Reads a command line, without the program's name.
    ///
    /// # Errors
    /// Options that are unknown, twice there, or lack a value.
    pub fn read<I>(arguments: I) -> Result<Request, SpecError>
    where
        I: IntoIterator<Item = OsString>,
    {
        let mut spec = Self::default();
        match spec.add(arguments)? {
            Some(request) => Ok(request),
            None => Ok(Request::Run(Box::new(spec))),
        }
    }

    /// Reads more of a command line; what it asks for, should that be no microVM.
    fn add<I>(&mut self, arguments: I) -> Result<Option<Request>, SpecError>
    where
        I: IntoIterator<Item = OsString>,
    {
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next().map_err(refused)? {
            let option = match argument {
                lexopt::Arg::Long(name) => known(name)?,
                lexopt::Arg::Short(letter) => {
                    return Err(SpecError::UnknownOption { option: shown(&format!("-{letter}")) });
                }
                lexopt::Arg::Value(value) => {
                    let value = shown(&value.to_string_lossy());
                    return Err(SpecError::UnexpectedArgument { value });
                }
            };
            match option {
                "help" => return Ok(Some(Request::Help)),
                "version" => return Ok(Some(Request::Version)),
                "probe-kvm" => return Ok(Some(Request::ProbeKvm)),
                "rng" => once(&mut self.rng, true, "rng")?,
                "no-rng" => once(&mut self.rng, false, "no-rng")?,
                "disk" => self.disks.push(text(&mut parser, option)?),
                _ => once(self.slot(option), text(&mut parser, option)?, option)?,
            }
        }
        Ok(None)
    }

    /// The place of an option that takes one text.
    fn slot(&mut self, option: &str) -> &mut Option<String> {
        match option {
            "kernel" => &mut self.kernel,
            "kernel-memory" => &mut self.kernel_memory,
            "initrd" => &mut self.initrd,
            "vcpus" => &mut self.vcpus,
            "memory-mib" => &mut self.memory_mib,
            "cmdline" => &mut self.cmdline,
            "vsock" => &mut self.vsock,
            "net" => &mut self.net,
            "console" => &mut self.console,
            "control" => &mut self.control,
            "deadline" => &mut self.deadline,
            "cgroup" => &mut self.cgroup,
            "parent" => &mut self.parent,
            "kvm" => &mut self.kvm,
            "userfaultfd" => &mut self.userfaultfd,
            "shell" => &mut self.shell,
            "disks" => &mut self.disk_threads,
            _ => &mut self.marks,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first wrong value with its field and what is allowed.
    pub fn validate(self) -> Result<ValidSpec, SpecError> {
        let spec = self.checked()?;
        spec.names_inherited_descriptors()?;
        Ok(spec)
    }

    /// Checks every value, but for which descriptors there are.
    fn checked(self) -> Result<ValidSpec, SpecError> {
        if let Some(text) = self.disk_threads {
            return Err(wrong("disks", &text, "only with --shell"));
        }
        let kernel = self
            .kernel
            .ok_or(SpecError::Missing { field: "kernel", allowed: FILE_ALLOWED })
            .and_then(|text| file("kernel", &text, FILE_ALLOWED))?;
        let initrd = self.initrd.map(|text| file("initrd", &text, FILE_ALLOWED)).transpose()?;
        let vcpus = vcpus(self.vcpus)?;
        let memory_bytes = memory_bytes(self.memory_mib)?;
        if self.disks.len() > MAX_DISKS {
            return Err(wrong("disk", &format!("{} disks", self.disks.len()), DISKS_ALLOWED));
        }
        Ok(ValidSpec {
            kernel,
            kernel_memory: kernel_memory(self.kernel_memory.as_deref())?,
            initrd,
            vcpus,
            memory_bytes,
            cmdline: cmdline(self.cmdline.unwrap_or_default())?,
            disks: self.disks.iter().map(|text| disk::read(text)).collect::<Result<_, _>>()?,
            vsock: self.vsock.as_deref().map(vsock::read).transpose()?,
            net: self.net.as_deref().map(net::read).transpose()?,
            rng: self.rng.unwrap_or(true),
            console: self.console.as_deref().map(console).transpose()?,
            marks: self.marks.map(|text| file("marks", &text, FILE_ALLOWED)).transpose()?,
            control: self.control.as_deref().map(|text| passed("control", text)).transpose()?,
            deadline_ns: self.deadline.as_deref().map(deadline).transpose()?,
            cgroup: self.cgroup.map(|text| file("cgroup", &text, FILE_ALLOWED)).transpose()?,
            parent: self.parent.map(parent).transpose()?,
            kvm: self.kvm.map(|text| passed("kvm", &text)).transpose()?,
            userfaultfd: self.userfaultfd.map(|text| passed("userfaultfd", &text)).transpose()?,
        })
    }
}

/// The option of that name, as a text that outlives the parser's borrow.
fn known(name: &str) -> Result<&'static str, SpecError> {
    const OPTIONS: [&str; 24] = [
        "kernel",
        "kernel-memory",
        "initrd",
        "vcpus",
        "memory-mib",
        "cmdline",
        "disk",
        "vsock",
        "net",
        "rng",
        "no-rng",
        "console",
        "marks",
        "control",
        "deadline",
        "cgroup",
        "parent",
        "kvm",
        "userfaultfd",
        "shell",
        "disks",
        "probe-kvm",
        "help",
        "version",
    ];
    OPTIONS
        .into_iter()
        .find(|option| *option == name)
        .ok_or_else(|| SpecError::UnknownOption { option: shown(&format!("--{name}")) })
}

fn once<T>(slot: &mut Option<T>, value: T, field: &'static str) -> Result<(), SpecError> {
    if slot.replace(value).is_some() {
        return Err(SpecError::Duplicate { field });
    }
    Ok(())
}

fn text(parser: &mut lexopt::Parser, option: &'static str) -> Result<String, SpecError> {
    let value = parser.value().map_err(refused)?;
    value.into_string().map_err(|value| wrong(option, &value.to_string_lossy(), "UTF-8 text"))
}

/// What the parser itself refuses.
fn refused(error: lexopt::Error) -> SpecError {
    let usage = |option: String, problem| SpecError::Usage {
        field: cut(option.trim_start_matches('-')),
        problem,
    };
    match error {
        lexopt::Error::MissingValue { option } => {
            usage(option.unwrap_or_default(), "its value is missing")
        }
        lexopt::Error::UnexpectedValue { option, .. } => usage(option, "it takes no value"),
        other => SpecError::UnexpectedArgument { value: shown(&other.to_string()) },
    }
}

fn wrong(field: &'static str, value: &str, allowed: &'static str) -> SpecError {
    SpecError::Value { field, value: shown(value), allowed }
}

/// A value as errors repeat it: escaped, and cut short.
fn shown(value: &str) -> String {
    format!("{:?}", cut(value))
}

fn cut(value: &str) -> String {
    value.chars().take(SHOWN_VALUE_CHARS).collect()
}

/// A decimal number without sign, space or leading zero.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn number(
    field: &'static str,
    text: &str,
    least: u32,
    most: u32,
    allowed: &'static str,
) -> Result<u32, SpecError> {
    decimal::<u32>(text)
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| wrong(field, text, allowed))
}

fn descriptor(text: &str) -> Option<RawFd> {
    let fd = RawFd::try_from(decimal::<u32>(text)?).ok()?;
    (fd <= MAX_FD).then_some(fd)
}

fn file(field: &'static str, text: &str, allowed: &'static str) -> Result<FileRef, SpecError> {
    if let Some(digits) = text.strip_prefix("fd:") {
        return descriptor(digits).map(FileRef::Fd).ok_or_else(|| wrong(field, text, allowed));
    }
    if text.is_empty() || text.contains('\0') {
        return Err(wrong(field, text, allowed));
    }
    Ok(FileRef::Path(PathBuf::from(text)))
}

fn cmdline(text: String) -> Result<String, SpecError> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if printable && text.len() <= MAX_CMDLINE_TEXT_BYTES {
        Ok(text)
    } else {
        Err(wrong("cmdline", &text, CMDLINE_ALLOWED))
    }
}

fn console(text: &str) -> Result<ConsoleSpec, SpecError> {
    if text == "stdout" {
        return Ok(ConsoleSpec::Stdout);
    }
    file("console", text, CONSOLE_ALLOWED).map(ConsoleSpec::File)
}

fn vcpus(text: Option<String>) -> Result<u8, SpecError> {
    let text = text.ok_or(SpecError::Missing { field: "vcpus", allowed: VCPUS_ALLOWED })?;
    let vcpus = number("vcpus", &text, 1, u32::from(MAX_VCPUS), VCPUS_ALLOWED)?;
    // Its range has been checked against MAX_VCPUS.
    Ok(vcpus as u8)
}

fn memory_bytes(text: Option<String>) -> Result<u64, SpecError> {
    let text = text.ok_or(SpecError::Missing { field: "memory-mib", allowed: MEMORY_ALLOWED })?;
    let mib = number("memory-mib", &text, MIN_MEMORY_MIB, MAX_MEMORY_MIB, MEMORY_ALLOWED)?;
    Ok(u64::from(mib) << 20)
}

fn kernel_memory(text: Option<&str>) -> Result<Option<KernelMemory>, SpecError> {
    Ok(Some(match text {
        None => return Ok(None),
        Some("demand") => KernelMemory::Demand,
        Some("mapped") => KernelMemory::Mapped,
        Some("copied") => KernelMemory::Copied,
        Some(other) => return Err(wrong("kernel-memory", other, KERNEL_MEMORY_ALLOWED)),
    }))
}

fn parent(text: String) -> Result<u32, SpecError> {
    number("parent", &text, 1, MAX_PID, PARENT_ALLOWED)
}

/// What may only be a descriptor.
fn passed(field: &'static str, text: &str) -> Result<RawFd, SpecError> {
    let fd = text.strip_prefix("fd:").and_then(descriptor);
    fd.ok_or_else(|| wrong(field, text, PASSED_ALLOWED))
}

fn deadline(text: &str) -> Result<u64, SpecError> {
    decimal::<u64>(text)
        .filter(|nanoseconds| (1..=MAX_DEADLINE_NS).contains(nanoseconds))
        .ok_or_else(|| wrong("deadline", text, DEADLINE_ALLOWED))
}

#[cfg(test)]
mod tests;
