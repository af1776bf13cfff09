//! The processes of the runtime and of external extensions: what they are given, and how they become unprivileged programs.

#[cfg(test)]
mod tests;

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, FileType, Gid, Mode, OFlags, RawDir, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, WaitStatus};
use votive_protocol::{Configure, ExitStatus, FaultCode};

use super::filter;
use super::system::{self, Forked};
use crate::environment::{self, BOOTSTRAPS, RUNTIME_API, home};
use crate::limits::EXTENSIONS_MAX;
use crate::worker::{Exit, ExtensionNames, Output, Problem, Who};

/// Descriptors of a function (CONTRACT 4.5).
const NOFILE: u64 = 1024;
/// Processes and threads of a function (CONTRACT 4.5); the cgroup says the same, the kernel's own default may be less.
const PROCESSES: u64 = 1024;
/// Variables, and words of a command line, that a process can be started with.
const POINTERS_MAX: usize = 4096;
/// Bytes of all variables: the function's own and its credentials (16 KiB each at most), and PID 1's.
const VARIABLES_MAX: usize = 48 * 1024;
/// Where external extensions are.
const EXTENSIONS: &str = "/opt/extensions";
/// Entries of that directory that are looked at; more than any layer has, and the end of a directory that has no end.
const ENTRIES_MAX: usize = 4096;
/// The longest path of a program, as of any file.
const PATH_MAX: usize = 4096;
/// Where programs are looked for without a `PATH`.
const PATH_DEFAULT: &[u8] = b"/usr/bin:/bin";
/// Children that one signal's worth of reaping takes; more are taken with the next.
const REAP_MAX: usize = 4096;

/// A process. `failure` is memory that parent and child share: what the child was doing when it failed, and the
/// error number, as `stage << 16 | errno`.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    failure: &'static AtomicU32,
}

impl Child {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Why its program could not be executed, if it could not.
    fn launch_error(&self) -> Option<Errno> {
        let failure = self.failure.load(Ordering::Acquire);
        let errno = i32::try_from(failure & 0xffff).unwrap_or(0);
        (failure >> 16 != 0).then(|| Errno::from_raw_os_error(errno))
    }

    fn problem(&self) -> Option<Problem> {
        let failure = self.failure.load(Ordering::Acquire);
        let (code, detail) = match failure >> 16 {
            0 => return None,
            1 => (FaultCode::InvalidWorkingDirectory, "chdir"),
            2 => (FaultCode::InvalidEntrypoint, "execve"),
            _ => (FaultCode::System, "privileges"),
        };
        let errno = u16::try_from(failure & 0xffff).unwrap_or(0);
        // A disk that fails says nothing about what is on it.
        let code =
            if i32::from(errno) == Errno::IO.raw_os_error() { FaultCode::System } else { code };
        Some(Problem { code, errno, detail })
    }
}

/// A step that the child may fail at.
#[derive(Clone, Copy)]
enum Stage {
    Directory = 1,
    Execute = 2,
    Privileges = 3,
}

/// Starts the runtime in the control group that `cgroup` is the directory of.
pub(super) fn start(
    configure: &Configure<'_>,
    cgroup: BorrowedFd<'_>,
    failure: &'static AtomicU32,
) -> Result<(Child, Output), Problem> {
    let problem = |call| move |errno| Problem::new(FaultCode::System, errno, call);
    failure.store(0, Ordering::Release);
    let mut variables = [0_u8; VARIABLES_MAX];
    let too_long = Problem::without_errno(FaultCode::System, "environment");
    let len = environment::write(configure, RUNTIME_API, &mut variables).ok_or(too_long)?;
    let variables = variables.get(..len).unwrap_or(&[]);
    let program = match CStr::from_bytes_until_nul(configure.arguments.as_bytes()) {
        Ok(word) => word,
        Err(_) => find_bootstrap()?,
    };
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(problem("/dev/null"))?;
    let (stdout, child_stdout) = pipe(configure).map_err(problem("pipe2"))?;
    let (stderr, child_stderr) = pipe(configure).map_err(problem("pipe2"))?;
    match system::fork_into(cgroup).map_err(problem("clone3"))? {
        Forked::Parent(pid) => Ok((Child { pid, failure }, Output { stdout, stderr })),
        Forked::Child => {
            let standard = [null.as_fd(), child_stdout.as_fd(), child_stderr.as_fd()];
            let directory = match configure.working_directory {
                "" => home(configure),
                directory => directory,
            };
            let arguments = configure.arguments.as_bytes();
            let image = Image { program, arguments, variables, directory };
            fail(become_program(configure, &image, standard), failure)
        }
    }
}

/// Starts an external extension, its standard output and error in one pipe.
pub(super) fn start_extension(
    configure: &Configure<'_>,
    name: &str,
    cgroup: BorrowedFd<'_>,
    failure: &'static AtomicU32,
) -> Result<(Child, OwnedFd), Problem> {
    let problem = |call| move |errno| Problem::new(FaultCode::System, errno, call);
    failure.store(0, Ordering::Release);
    let mut program = [0_u8; PATH_MAX];
    let path = [EXTENSIONS.as_bytes(), b"/", name.as_bytes()];
    let too_long = Problem::without_errno(FaultCode::System, "extension");
    let program = put(&mut program, &path).ok_or(too_long)?;
    let mut variables = [0_u8; VARIABLES_MAX];
    let too_long = Problem::without_errno(FaultCode::System, "environment");
    let len =
        environment::write_for_extension(configure, RUNTIME_API, &mut variables).ok_or(too_long)?;
    let variables = variables.get(..len).unwrap_or(&[]);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(problem("/dev/null"))?;
    let (output, child_output) = pipe(configure).map_err(problem("pipe2"))?;
    match system::fork_into(cgroup).map_err(problem("clone3"))? {
        Forked::Parent(pid) => Ok((Child { pid, failure }, output)),
        Forked::Child => {
            let standard = [null.as_fd(), child_output.as_fd(), child_output.as_fd()];
            let image = Image { program, arguments: &[], variables, directory: home(configure) };
            fail(become_program(configure, &image, standard), failure)
        }
    }
}

/// Lists external extensions; gives how many there are. A folder that cannot be read is not one without extensions.
pub(super) fn list_extensions(names: &mut ExtensionNames) -> Result<usize, Problem> {
    let problem = |errno| Problem::new(FaultCode::System, errno, EXTENSIONS);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(EXTENSIONS, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(0),
        opened => opened.map_err(problem)?,
    };
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut count = 0;
    for _ in 0..ENTRIES_MAX {
        let Some(entry) = entries.next() else { break };
        let entry = entry.map_err(problem)?;
        if entry.file_type() != FileType::Directory {
            names.insert(entry.file_name().to_bytes());
            count += 1;
        }
    }
    Ok(count)
}

/// Says what a child failed at, and ends it.
fn fail((stage, errno): (Stage, Errno), failure: &AtomicU32) -> ! {
    let errno = u32::try_from(errno.raw_os_error()).unwrap_or(0);
    failure.store(((stage as u32) << 16) | (errno & 0xffff), Ordering::Release);
    system::exit(127)
}

/// What a child becomes.
struct Image<'a> {
    /// A path; or a name without one, to be looked for in `PATH`.
    program: &'a CStr,
    /// Each ended by a NUL; empty for the program's path alone.
    arguments: &'a [u8],
    variables: &'a [u8],
    directory: &'a str,
}

/// A pipe whose reading end does not block, and whose writing end the runtime may open again by its name in `/proc`.
fn pipe(configure: &Configure<'_>) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    let (uid, gid) = ids(configure);
    rustix::fs::fchown(&writer, Some(uid), Some(gid))?;
    Ok((reader, writer))
}

fn ids(configure: &Configure<'_>) -> (Uid, Gid) {
    (Uid::from_raw(configure.uid), Gid::from_raw(configure.gid))
}

/// The first `bootstrap` that is there.
fn find_bootstrap() -> Result<&'static CStr, Problem> {
    let mut bootstraps = BOOTSTRAPS.into_iter();
    bootstraps.find(|path| rustix::fs::access(*path, Access::EXISTS).is_ok()).ok_or(Problem::new(
        FaultCode::InvalidEntrypoint,
        Errno::NOENT,
        "bootstrap",
    ))
}

/// Looks for `program` as a shell does, and has `execute` execute each path that it may have. Gives why none was.
///
/// A name with a slash is a path. Any other is looked for in the folders of `PATH`, of which an empty one is the working
/// directory: what is not there, or is there and may not be executed, lets the look-up go on.
fn look_up(program: &CStr, variables: &[u8], mut execute: impl FnMut(&CStr) -> Errno) -> Errno {
    let name = program.to_bytes();
    if name.is_empty() || name.contains(&b'/') {
        return execute(program);
    }
    let mut path = [0_u8; PATH_MAX];
    let mut why = Errno::NOENT;
    let folders = environment::value_of(variables, "PATH").unwrap_or(PATH_DEFAULT);
    for folder in folders.split(|byte| *byte == b':') {
        let folder = if folder.is_empty() { b"." } else { folder };
        let Some(path) = put(&mut path, &[folder, b"/", name]) else { continue };
        match execute(path) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => why = Errno::ACCESS,
            errno => return errno,
        }
    }
    why
}

/// Puts a path together.
fn put<'a>(path: &'a mut [u8], parts: &[&[u8]]) -> Option<&'a CStr> {
    let mut len = 0;
    for part in parts {
        path.get_mut(len..len + part.len())?.copy_from_slice(part);
        len += part.len();
    }
    *path.get_mut(len)? = 0;
    CStr::from_bytes_with_nul(path.get(..=len)?).ok()
}

/// Everything between `fork` and the program's first instruction. Only comes back if something failed.
fn become_program(
    configure: &Configure<'_>,
    image: &Image<'_>,
    standard: [BorrowedFd<'_>; 3],
) -> (Stage, Errno) {
    let Image { program, arguments, variables, directory } = *image;
    if let Err(errno) = give_up_privileges(configure, standard) {
        return (Stage::Privileges, errno);
    }
    if let Err(errno) = rustix::process::chdir(directory) {
        return (Stage::Directory, errno);
    }
    let mut argv = [ptr::null(); POINTERS_MAX];
    let mut envp = [ptr::null(); POINTERS_MAX];
    let fits = if arguments.is_empty() {
        argv[0] = program.as_ptr().cast();
        true
    } else {
        point_at(arguments, &mut argv)
    };
    if !fits || !point_at(variables, &mut envp) {
        return (Stage::Execute, Errno::TOOBIG);
    }
    (Stage::Execute, look_up(program, variables, |path| system::execute(path, &argv, &envp)))
}

/// Fills `pointers` with the starts of the strings in `list`, each ended by a NUL; a null pointer stays behind the last.
fn point_at(list: &[u8], pointers: &mut [*const u8; POINTERS_MAX]) -> bool {
    let mut rest = list;
    let mut places = pointers.iter_mut();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        match places.next() {
            Some(place) if places.len() > 0 => *place = rest.as_ptr(),
            _ => return false,
        }
        rest = rest.get(end + 1..).unwrap_or(&[]);
    }
    true
}

fn give_up_privileges(
    configure: &Configure<'_>,
    standard: [BorrowedFd<'_>; 3],
) -> Result<(), Errno> {
    rustix::process::setsid()?;
    system::unblock_signals()?;
    let [stdin, stdout, stderr] = standard;
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(Resource::Nofile, limit(NOFILE))?;
    rustix::process::setrlimit(Resource::Nproc, limit(PROCESSES))?;
    rustix::process::setrlimit(Resource::Core, limit(0))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    system::drop_bounding_set()?;
    let (uid, gid) = ids(configure);
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_no_new_privs(true)?;
    filter::install()
}

/// Takes the status of children that ended, up to the first that is the runtime or an extension.
pub(super) fn reap(
    runtime: &mut Option<Child>,
    extensions: &mut [Option<Child>; EXTENSIONS_MAX],
) -> Result<Option<Exit>, Problem> {
    for _ in 0..REAP_MAX {
        let Ok(Some((pid, ended))) = rustix::process::wait(WaitOptions::NOHANG) else { break };
        let status = exit_status(ended);
        if runtime.as_ref().is_some_and(|child| child.pid == pid) {
            if let Some(problem) = runtime.take().and_then(|child| child.problem()) {
                return Err(problem);
            }
            return Ok(Some(Exit { who: Who::Runtime, status, launch_error: None }));
        }
        for (slot, place) in extensions.iter_mut().enumerate() {
            if let Some(child) = place.take_if(|child| child.pid == pid) {
                let launch_error = child.launch_error();
                return Ok(Some(Exit { who: Who::Extension(slot), status, launch_error }));
            }
        }
    }
    Ok(None)
}

fn exit_status(ended: WaitStatus) -> ExitStatus {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (ended.exit_status(), ended.terminating_signal()) {
        (_, Some(signal)) => ExitStatus::Signal(byte(signal)),
        (code, None) => ExitStatus::Code(byte(code.unwrap_or(0))),
    }
}
