//! The guest's side of the loop: what only a program that is PID 1 of a microVM may do.

mod cgroup;
mod file_systems;
mod filter;
mod network;
mod process;
mod system;
mod vsock;

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Ipv4Addr, SocketAddrV4, SocketFlags, SocketType};
use rustix::process::Signal;
use rustix::system::RebootCommand;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use votive_protocol::{Configure, Fault, FaultCode, GuestFrame, Hello, VERSION};

use crate::arena::Arena;
use crate::limits::EXTENSIONS_MAX;
use crate::server::Facts;
use crate::worker::{Descriptors, Ending, Exit, ExtensionNames, Output, Platform, Problem, Worker};
use cgroup::Cgroup;
use process::Child;

/// Where the Runtime API listens.
const RUNTIME_API_PORT: u16 = 9001;
/// What PID 1 writes to the mark port when it is entered.
const MARK_ENTERED: u8 = 0x01;
/// How far the clock may be off before it is set again.
const DRIFT_NS: u64 = 2_000_000;
/// The word on the kernel's command line that asks for messages to its log.
const DEBUG_WORD: &[u8] = b"votive.debug";

/// A microVM seen from its PID 1.
#[derive(Debug)]
pub struct Guest {
    cgroup: Option<Cgroup>,
    child: Option<Child>,
    extensions: [Option<Child>; EXTENSIONS_MAX],
    /// Where a child says what it failed at; shared with every child. The first is the runtime's.
    failures: &'static [AtomicU32; 1 + EXTENSIONS_MAX],
    kernel_log: Option<OwnedFd>,
}

/// The link's descriptor, for the panic handler; -1 before there is one.
static LINK: AtomicI32 = AtomicI32::new(-1);

/// Everything that PID 1 does, from its first instruction to the end of the microVM.
pub fn run(memory: &'static mut [u8]) -> ! {
    system::mark(MARK_ENTERED);
    match set_up(memory, now_ns()) {
        Ok(mut worker) => {
            let ending = worker.serve();
            worker.platform().say(match ending {
                Ending::Shutdown => "shutdown",
                Ending::LinkLost => "the agent is gone",
                Ending::Fault(problem) => problem.detail,
            });
            file_systems::leave();
        }
        Err(problem) => {
            // The kernel's log is in /dev, which may not be there yet.
            let _ = file_systems::mount_early();
            system::kernel_message(problem.detail);
            tell(problem);
        }
    }
    power_off()
}

/// Tells the agent of a problem without the loop: when there is none yet, or none any more.
fn tell(Problem { code, errno, detail }: Problem) {
    let mut frame = [0; 256];
    let fault = GuestFrame::Fault(Fault { code, errno, detail });
    if let (Ok(len), Some(link)) = (fault.encode(&mut frame), system::borrow(&LINK)) {
        let _ = rustix::io::write(link, frame.get(..len).unwrap_or(&[]));
    }
}

/// Ends the microVM.
pub fn power_off() -> ! {
    system::exit_machine();
    loop {
        // The port should have ended it; this is the long way round.
        let _ = rustix::system::reboot(RebootCommand::PowerOff);
    }
}

/// What the binary's panic handler does: the microVM ends, with a word to the agent and to the kernel's log.
pub fn panicked() -> ! {
    tell(Problem::without_errno(FaultCode::System, "panic"));
    system::kernel_message("panic");
    power_off()
}

fn now_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

fn system_problem(call: &'static str) -> impl Fn(Errno) -> Problem {
    move |errno| Problem::new(FaultCode::System, errno, call)
}

/// Says hello to the agent, and makes ready what does not depend on its answer while that is on its way.
fn set_up(memory: &'static mut [u8], started_ns: u64) -> Result<Worker<'static, Guest>, Problem> {
    let arena = Arena::cut(memory).ok_or(Problem::without_errno(FaultCode::System, "arena"))?;
    let link = vsock::connect()?;
    LINK.store(link.as_raw_fd(), Ordering::Relaxed);
    let mut hello = [0; 64];
    let len = GuestFrame::Hello(Hello { version: VERSION, started_ns })
        .encode(&mut hello)
        .map_err(|_| Problem::without_errno(FaultCode::Frame, "Hello"))?;
    rustix::io::write(&link, hello.get(..len).unwrap_or(&[])).map_err(system_problem("Hello"))?;
    file_systems::mount_early()?;
    Cgroup::mount()?;
    let mut kernel_log = None;
    if debug_is_wanted() {
        kernel_log = system::open_kernel_log().ok();
    }
    let signals = system::child_signals().map_err(system_problem("signalfd4"))?;
    let failures = system::shared_words().map_err(system_problem("mmap"))?;
    let descriptors = Descriptors { link, listener: listen()?, signals: Some(signals) };
    let extensions = [const { None }; EXTENSIONS_MAX];
    let guest = Guest { cgroup: None, child: None, extensions, failures, kernel_log };
    Worker::new(guest, arena, descriptors)
}

impl Guest {
    /// Writes to the kernel's log if that was asked for.
    fn say(&self, message: &str) {
        if let Some(log) = &self.kernel_log {
            system::write_kernel_log(log.as_fd(), message);
        }
    }
}

/// Sets the time of day.
fn set_clock(nanoseconds: u64) -> Result<(), Errno> {
    let now = Timespec {
        tv_sec: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0),
        tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
    };
    clock_settime(ClockId::Realtime, now)
}

/// Whether the kernel's command line asks for messages.
fn debug_is_wanted() -> bool {
    let mut line = [0_u8; 4096];
    let len = file_systems::read_small("/proc/cmdline", &mut line);
    let words = line.get(..len).unwrap_or(&[]);
    words.split(u8::is_ascii_whitespace).any(|word| word == DEBUG_WORD)
}

/// The Runtime API's socket, on a loopback device that is up.
fn listen() -> Result<OwnedFd, Problem> {
    let problem = |errno| Problem::new(FaultCode::RuntimeApi, errno, "127.0.0.1:9001");
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(problem)?;
    system::bring_up(socket.as_fd(), system::LOOPBACK).map_err(problem)?;
    // Connections inherit this: an answer leaves at once, and is not held back until an earlier one is acknowledged.
    rustix::net::sockopt::set_tcp_nodelay(&socket, true).map_err(problem)?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, RUNTIME_API_PORT);
    rustix::net::bind(&socket, &address).map_err(problem)?;
    rustix::net::listen(&socket, 16).map_err(problem)?;
    Ok(socket)
}

impl Facts for Guest {
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    fn realtime_ns(&self) -> u64 {
        clock_ns(ClockId::Realtime)
    }

    fn random(&self) -> [u8; 16] {
        system::random()
    }

    fn memory_peak_bytes(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::memory_peak_bytes)
    }
}

impl Platform for Guest {
    fn prepare(&mut self, configure: &Configure<'_>) -> Result<(), Problem> {
        self.say("configured");
        set_clock(configure.realtime_ns).map_err(system_problem("clock_settime"))?;
        self.cgroup = Some(Cgroup::make(configure.memory_bytes)?);
        if let Some(network) = &configure.network {
            network::set_up(network)?;
        }
        file_systems::mount_root(configure)?;
        self.say("mounted");
        Ok(())
    }

    fn list_extensions(&mut self, names: &mut ExtensionNames) -> Result<usize, Problem> {
        process::list_extensions(names)
    }

    fn start_extension(
        &mut self,
        configure: &Configure<'_>,
        slot: usize,
        name: &str,
    ) -> Result<Option<OwnedFd>, Problem> {
        let missing = Problem::without_errno(FaultCode::Cgroup, "extension");
        let cgroup = self.cgroup.as_mut().ok_or(missing)?;
        cgroup.divide()?;
        cgroup.begin_life();
        let failure = self.failures.get(slot + 1).ok_or(missing)?;
        let place = self.extensions.get_mut(slot).ok_or(missing)?;
        let directory = cgroup.extensions_directory();
        let (child, output) = process::start_extension(configure, name, directory, failure)?;
        *place = Some(child);
        Ok(Some(output))
    }

    fn start(&mut self, configure: &Configure<'_>) -> Result<Option<Output>, Problem> {
        let cgroup =
            self.cgroup.as_mut().ok_or(Problem::without_errno(FaultCode::Cgroup, "runtime"))?;
        cgroup.begin_life();
        let [failure, ..] = self.failures;
        let (child, output) = process::start(configure, cgroup.directory(), failure)?;
        self.child = Some(child);
        self.say("runtime started");
        Ok(Some(output))
    }

    fn terminate(&mut self) {
        if let Some(child) = &self.child {
            let _ = rustix::process::kill_process(child.pid(), Signal::TERM);
        }
    }

    fn kill_runtime(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill_runtime();
        }
    }

    fn is_runtime_gone(&mut self) -> bool {
        self.cgroup.as_ref().is_none_or(Cgroup::is_runtime_gone)
    }

    fn kill_extension(&mut self, slot: usize) {
        if let Some(Some(child)) = self.extensions.get(slot) {
            let _ = rustix::process::kill_process_group(child.pid(), Signal::KILL);
        }
    }

    fn kill(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    fn reap(&mut self) -> Result<Option<Exit>, Problem> {
        process::reap(&mut self.child, &mut self.extensions)
    }

    fn set_realtime(&mut self, realtime_ns: u64) {
        let drift_ns = self.realtime_ns().abs_diff(realtime_ns);
        if realtime_ns != 0 && drift_ns > DRIFT_NS {
            // A clock that cannot be set stays as wrong as it is.
            let _ = set_clock(realtime_ns);
        }
    }

    fn release(&mut self, memory: &mut [u8]) {
        system::release(memory);
    }

    fn out_of_memory(&mut self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::out_of_memory)
    }
}
