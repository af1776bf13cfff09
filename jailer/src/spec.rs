//! The jail's spec: the command line, read and checked whole before anything is done.

use std::ffi::{CString, OsString};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;

#[cfg(test)]
mod tests;

/// What `--help` prints.
pub const HELP: &str = "\
votive-jailer: makes a jail and executes a program in it

votive-jailer --uid N --gid N --program fd:N --cgroup fd:N [options] [-- ARGUMENT...]
votive-jailer --uid N --gid N --check [options]

  --uid N, --gid N     who the program is, in and out of its user namespace: 1 to 4294967294, and not the jailer's own
  --program fd:N       the program, opened; static, for there is no file in the jail
  --check              execute nothing: tell whether such a jail can be made
  --name TEXT          what the program is called, its first argument (default votive-vmm)
  --cgroup fd:N        the opened folder of the control group (version 2) that the program is started in
  --netns fd:N         the network namespace to use, opened; otherwise a new one without any interface
  --keep FIRST-LAST    descriptors that the program has, under the same numbers, beside the standard ones
  --kvm fd:N           open /dev/kvm for the program as descriptor N
  --userfaultfd fd:N   open /dev/userfaultfd for the program as descriptor N
  --socket fd:N        a connected Unix socket, on which the program's pidfd is sent with the byte `p` and its process
                       id, 4 bytes, little-endian
  --parent PID         who started the jailer: it is an error when that process is gone by the end
  --limit NAME=N       a resource limit: nofile (default 1024), nproc (64), fsize in bytes (17179869184)
  --without WHAT       go on without `landlock`, or without `cgroup`, where the kernel has none
  --help, --version

In the jail: own user, mount, pid, net, ipc, uts and cgroup namespaces; an empty read-only root; no capability, no way to any;
Landlock on everything; no core dumps; killed when the parent is gone; no environment. Standard input and output are
/dev/null, standard error is the jailer's, every descriptor that is not named is closed.

Exit codes: 0 the program runs, as a child of the jailer's parent (with --check: the jail can be made);
1 it cannot be made; 2 the arguments are wrong. One line on standard error says why.
";

const ID_ALLOWED: &str = "1 to 4294967294";
const FD_ALLOWED: &str = "fd:N with N from 3 to 1048575";
const KEEP_ALLOWED: &str = "FIRST-LAST, each from 3 to 1048575, 128 at most";
const PARENT_ALLOWED: &str = "a process id, 1 to 4194304";
const LIMIT_ALLOWED: &str = "nofile=N, nproc=N or fsize=N";
const WITHOUT_ALLOWED: &str = "landlock, cgroup";
const NAME_ALLOWED: &str = "1 to 4096 bytes";
const ARGUMENTS_ALLOWED: &str = "256 arguments of 16384 bytes in all at most, without a zero byte";

const MAX_FD: RawFd = (1 << 20) - 1;
/// The kernel's own limit (`PID_MAX_LIMIT`).
const MAX_PID: u32 = 1 << 22;
/// More than a VMM with 8 disks, 16 vsock ports and a tap is given.
const MAX_KEPT: usize = 128;
const MAX_NAME_BYTES: usize = 4096;
const MAX_ARGUMENTS: usize = 256;
const MAX_ARGUMENT_BYTES: usize = 16 << 10;
/// How much of a wrong value an error shows, in characters.
const SHOWN_CHARS: usize = 60;

/// The resource limits that are the jail's maker's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most descriptors.
    pub nofile: u64,
    /// The most threads and processes of the user.
    pub nproc: u64,
    /// The longest file in bytes.
    pub fsize: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nofile: 1024, nproc: 64, fsize: 16 << 30 }
    }
}

/// A jail, and what runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JailSpec {
    /// The user, outside as inside.
    pub uid: u32,
    /// The group, outside as inside.
    pub gid: u32,
    /// The opened program; without it, nothing is executed.
    pub program: Option<RawFd>,
    /// The opened folder of the control group.
    pub cgroup: Option<RawFd>,
    /// The opened network namespace.
    pub netns: Option<RawFd>,
    /// The program's descriptors.
    pub keep: Option<RangeInclusive<RawFd>>,
    /// Where `/dev/kvm` goes.
    pub kvm: Option<RawFd>,
    /// Where `/dev/userfaultfd` goes.
    pub userfaultfd: Option<RawFd>,
    /// Where the pidfd is sent.
    pub socket: Option<RawFd>,
    /// The process that the jail must not outlive.
    pub parent: Option<u32>,
    /// Resource limits.
    pub limits: Limits,
    /// Whether the kernel must have Landlock.
    pub landlock: bool,
    /// The program's first argument.
    pub name: CString,
    /// The others.
    pub arguments: Vec<CString>,
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make this jail.
    Make(Box<JailSpec>),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Why a command line was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such option, or no option at all.
    #[error("unknown argument {0}; --help lists what is allowed")]
    Unknown(String),
    /// An option without its value, or a value where none is taken.
    #[error("--{0}: a value is missing, or not taken")]
    Usage(String),
    /// An option that may stand once only.
    #[error("--{0} is given twice; once is allowed")]
    Duplicate(&'static str),
    /// An option that must be there.
    #[error("--{field} is missing; {allowed}")]
    Missing {
        /// The option.
        field: &'static str,
        /// What it is for.
        allowed: &'static str,
    },
    /// A value that is not allowed.
    #[error("--{field}: {value} is not allowed; allowed: {allowed}")]
    Value {
        /// The option.
        field: &'static str,
        /// What was given, cut short.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Two options that name the same descriptor.
    #[error("fd:{0} is named twice; once is allowed")]
    Descriptor(RawFd),
    /// Arguments for a program that is not executed.
    #[error("arguments are given where no program is executed")]
    NoProgram,
    /// The program's arguments.
    #[error("the program's arguments are not allowed; allowed: {ARGUMENTS_ALLOWED}")]
    Arguments,
}

#[derive(Default)]
struct Given {
    uid: Option<u32>,
    gid: Option<u32>,
    program: Option<RawFd>,
    name: Option<CString>,
    check: bool,
    cgroup: Option<RawFd>,
    netns: Option<RawFd>,
    keep: Option<RangeInclusive<RawFd>>,
    kvm: Option<RawFd>,
    userfaultfd: Option<RawFd>,
    socket: Option<RawFd>,
    parent: Option<u32>,
    limits: Limits,
    without_landlock: bool,
    without_cgroup: bool,
    arguments: Vec<CString>,
}

impl JailSpec {
    /// Reads a command line, without the program's name.
    ///
    /// # Errors
    /// [`SpecError`]: the first thing that is wrong.
    pub fn read<I>(arguments: I) -> Result<Request, SpecError>
    where
        I: IntoIterator<Item = OsString>,
    {
        let mut given = Given::default();
        let mut parser = lexopt::Parser::from_args(arguments);
        let usage = |error: lexopt::Error| match error {
            lexopt::Error::UnexpectedValue { option, .. } => {
                SpecError::Usage(shown(option.trim_start_matches('-')))
            }
            other => SpecError::Unknown(shown(&other.to_string())),
        };
        loop {
            // What follows `--` is the program's, options and all.
            if let Some(raw) = parser.try_raw_args()
                && raw.peek() == Some("--".as_ref())
            {
                let rest = parser.raw_args().map_err(usage)?.skip(1);
                given.arguments = program_arguments(rest)?;
                break;
            }
            let name = match parser.next().map_err(usage)? {
                None => break,
                Some(lexopt::Arg::Long("help")) => return Ok(Request::Help),
                Some(lexopt::Arg::Long("version")) => return Ok(Request::Version),
                Some(lexopt::Arg::Long(name)) => name.to_owned(),
                Some(lexopt::Arg::Short(letter)) => {
                    return Err(SpecError::Unknown(format!("-{letter}")));
                }
                Some(lexopt::Arg::Value(value)) => {
                    return Err(SpecError::Unknown(shown(&value.to_string_lossy())));
                }
            };
            if name == "check" {
                given.check = true;
                continue;
            }
            if !OPTIONS.contains(&name.as_str()) {
                return Err(SpecError::Unknown(shown(&format!("--{name}"))));
            }
            let missing = |_| SpecError::Usage(name.clone());
            let value = parser.value().map_err(missing)?.to_string_lossy().into_owned();
            given.take(&name, &value)?;
        }
        given.validate().map(|spec| Request::Make(Box::new(spec)))
    }

    /// Every descriptor that the program is to have beside the standard ones.
    pub fn kept(&self) -> impl Iterator<Item = RawFd> {
        self.keep.clone().into_iter().flatten().chain(self.kvm).chain(self.userfaultfd)
    }

    /// Every descriptor of the jailer's own.
    fn own(&self) -> impl Iterator<Item = RawFd> {
        [self.program, self.cgroup, self.netns, self.socket].into_iter().flatten()
    }
}

const OPTIONS: [&str; 13] = [
    "uid",
    "gid",
    "program",
    "name",
    "cgroup",
    "netns",
    "keep",
    "kvm",
    "userfaultfd",
    "socket",
    "parent",
    "limit",
    "without",
];

impl Given {
    fn take(&mut self, name: &str, value: &str) -> Result<(), SpecError> {
        match name {
            "uid" => once(&mut self.uid, id("uid", value)?, "uid"),
            "gid" => once(&mut self.gid, id("gid", value)?, "gid"),
            "program" => once(&mut self.program, descriptor("program", value)?, "program"),
            "name" => once(&mut self.name, program_name(value)?, "name"),
            "cgroup" => once(&mut self.cgroup, descriptor("cgroup", value)?, "cgroup"),
            "netns" => once(&mut self.netns, descriptor("netns", value)?, "netns"),
            "keep" => once(&mut self.keep, range(value)?, "keep"),
            "kvm" => once(&mut self.kvm, descriptor("kvm", value)?, "kvm"),
            "userfaultfd" => {
                once(&mut self.userfaultfd, descriptor("userfaultfd", value)?, "userfaultfd")
            }
            "socket" => once(&mut self.socket, descriptor("socket", value)?, "socket"),
            "parent" => once(&mut self.parent, parent(value)?, "parent"),
            "limit" => self.limit(value),
            _ => match value {
                "landlock" => {
                    self.without_landlock = true;
                    Ok(())
                }
                "cgroup" => {
                    self.without_cgroup = true;
                    Ok(())
                }
                _ => Err(wrong("without", value, WITHOUT_ALLOWED)),
            },
        }
    }

    fn limit(&mut self, text: &str) -> Result<(), SpecError> {
        let refused = || wrong("limit", text, LIMIT_ALLOWED);
        let (name, value) = text.split_once('=').ok_or_else(refused)?;
        let place = match name {
            "nofile" => &mut self.limits.nofile,
            "nproc" => &mut self.limits.nproc,
            "fsize" => &mut self.limits.fsize,
            _ => return Err(refused()),
        };
        *place = number(value).ok_or_else(refused)?;
        Ok(())
    }

    fn validate(self) -> Result<JailSpec, SpecError> {
        let missing = |field, allowed| SpecError::Missing { field, allowed };
        let uid = self.uid.ok_or_else(|| missing("uid", ID_ALLOWED))?;
        let gid = self.gid.ok_or_else(|| missing("gid", ID_ALLOWED))?;
        if self.program.is_some() == self.check {
            return Err(missing("program", "one of --program and --check is needed"));
        }
        if self.program.is_none() && !self.arguments.is_empty() {
            return Err(SpecError::NoProgram);
        }
        if self.cgroup.is_some() == self.without_cgroup {
            return Err(missing("cgroup", "one of --cgroup and --without cgroup is needed"));
        }
        let spec = JailSpec {
            uid,
            gid,
            program: self.program,
            cgroup: self.cgroup,
            netns: self.netns,
            keep: self.keep,
            kvm: self.kvm,
            userfaultfd: self.userfaultfd,
            socket: self.socket,
            parent: self.parent,
            limits: self.limits,
            landlock: !self.without_landlock,
            name: self.name.unwrap_or_else(|| c"votive-vmm".to_owned()),
            arguments: self.arguments,
        };
        let mut named: Vec<RawFd> = spec.kept().chain(spec.own()).collect();
        named.sort_unstable();
        match named.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(SpecError::Descriptor(pair[0])),
            None => Ok(spec),
        }
    }
}

fn program_name(text: &str) -> Result<CString, SpecError> {
    let name = CString::new(text).ok();
    let name = name.filter(|name| (1..=MAX_NAME_BYTES).contains(&name.count_bytes()));
    name.ok_or_else(|| wrong("name", text, NAME_ALLOWED))
}

fn program_arguments(rest: impl Iterator<Item = OsString>) -> Result<Vec<CString>, SpecError> {
    let mut arguments = Vec::new();
    let mut bytes = 0_usize;
    for argument in rest {
        bytes = bytes.saturating_add(argument.len() + 1);
        if arguments.len() == MAX_ARGUMENTS || bytes > MAX_ARGUMENT_BYTES {
            return Err(SpecError::Arguments);
        }
        arguments.push(CString::new(argument.into_vec()).map_err(|_| SpecError::Arguments)?);
    }
    Ok(arguments)
}

fn once<T>(place: &mut Option<T>, value: T, field: &'static str) -> Result<(), SpecError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(SpecError::Duplicate(field)),
    }
}

/// A number in digits alone: no sign, no white space.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn id(field: &'static str, text: &str) -> Result<u32, SpecError> {
    // The last one stands for none.
    let id = number(text).filter(|id| (1..u32::MAX).contains(id));
    id.ok_or_else(|| wrong(field, text, ID_ALLOWED))
}

fn descriptor(field: &'static str, text: &str) -> Result<RawFd, SpecError> {
    let fd = text.strip_prefix("fd:").and_then(number).filter(|fd| (3..=MAX_FD).contains(fd));
    fd.ok_or_else(|| wrong(field, text, FD_ALLOWED))
}

fn range(text: &str) -> Result<RangeInclusive<RawFd>, SpecError> {
    let parsed = text.split_once('-').and_then(|(first, last)| {
        let range: RangeInclusive<RawFd> = number(first)?..=number(last)?;
        let few = range.clone().take(MAX_KEPT + 1).count();
        let fits = *range.start() >= 3 && *range.end() <= MAX_FD;
        (fits && (1..=MAX_KEPT).contains(&few)).then_some(range)
    });
    parsed.ok_or_else(|| wrong("keep", text, KEEP_ALLOWED))
}

fn parent(text: &str) -> Result<u32, SpecError> {
    let pid = number(text).filter(|pid| (1..=MAX_PID).contains(pid));
    pid.ok_or_else(|| wrong("parent", text, PARENT_ALLOWED))
}

fn wrong(field: &'static str, value: &str, allowed: &'static str) -> SpecError {
    SpecError::Value { field, value: shown(value), allowed }
}

fn shown(text: &str) -> String {
    text.chars().flat_map(char::escape_default).take(SHOWN_CHARS).collect()
}
