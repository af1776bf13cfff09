//! The loop in a thread, and the agent's end of its link.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use votive_init::arena::{ARENA_LEN, Arena};
use votive_init::server::Facts;
use votive_init::worker::{Descriptors, Ending, Output, Platform, Problem, Worker};
use votive_protocol::limits::MOUNTS_MAX;
use votive_protocol::{
    ByteList, Configure, ExitStatus, GuestFrame, HEADER_LEN, Header, HostFrame, InitializationType,
    InvocationId, Invoke, Kind, ResetReason, Shutdown, ShutdownReason,
};

/// How long a frame is waited for. Nothing here takes nearly as long; a test that runs into it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a native runtime's memory peak is said to be.
pub(crate) const MEMORY_PEAK: u64 = 0x0123_4567;

/// A platform of ordinary processes.
struct Native {
    start: Instant,
    api: SocketAddr,
    /// How the runtime is started; nothing is without one.
    command: Option<RuntimeCommand>,
    child: Arc<Mutex<Option<Child>>>,
    group: Option<rustix::process::Pid>,
    /// Written to when a child has ended, in place of SIGCHLD.
    ended: UnixStream,
}

/// What to run as the runtime.
#[derive(Clone, Debug)]
pub(crate) struct RuntimeCommand {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Facts for Native {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }

    fn memory_peak_bytes(&self) -> u64 {
        MEMORY_PEAK
    }
}

impl Platform for Native {
    fn prepare(&mut self, _: &Configure<'_>) -> Result<(), Problem> {
        Ok(())
    }

    fn start(&mut self, configure: &Configure<'_>) -> Result<Option<Output>, Problem> {
        let Some(runtime) = &self.command else { return Ok(None) };
        let mut variables = vec![0; 64 * 1024];
        let api = self.api.to_string();
        let len = votive_init::environment::write(configure, &api, &mut variables).unwrap();
        let (stdout, child_stdout) = std::io::pipe().unwrap();
        let (stderr, child_stderr) = std::io::pipe().unwrap();
        let mut command = Command::new(&runtime.program);
        command.args(&runtime.arguments).stdin(Stdio::null()).env_clear();
        for item in String::from_utf8(variables[..len].to_vec()).unwrap().split_terminator('\0') {
            let (key, value) = item.split_once('=').unwrap();
            // The host's own loader finds the host's libraries.
            if key != "LD_LIBRARY_PATH" {
                command.env(key, value);
            }
        }
        command.envs(runtime.environment.iter().cloned());
        command.process_group(0);
        let child = command.stdout(child_stdout).stderr(child_stderr).spawn().unwrap();
        drop(command);
        self.group = Some(rustix::process::Pid::from_child(&child));
        *self.child.lock().unwrap() = Some(child);
        let (child, mut ended) = (Arc::clone(&self.child), self.ended.try_clone().unwrap());
        let pid = child.lock().unwrap().as_ref().unwrap().id();
        std::thread::spawn(move || {
            // Waits without reaping: the loop does that, as it does for PID 1.
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let options =
                rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
            let _ = rustix::process::waitid(rustix::process::WaitId::Pid(pid), options);
            let _ = ended.write_all(b"x");
        });
        let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
        for pipe in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(pipe, true).unwrap();
        }
        Ok(Some(Output { stdout, stderr }))
    }

    fn terminate(&mut self) {
        if let Some(child) = self.child.lock().unwrap().as_ref() {
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    fn kill(&mut self) {
        // What it started ends with it, as it does with a control group.
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }

    fn reap(&mut self) -> Result<Option<ExitStatus>, Problem> {
        let mut slot = self.child.lock().unwrap();
        let Some(status) = slot.as_mut().and_then(|child| child.try_wait().unwrap()) else {
            return Ok(None);
        };
        *slot = None;
        Ok(Some(match status.signal() {
            Some(signal) => ExitStatus::Signal(u8::try_from(signal).unwrap()),
            None => ExitStatus::Code(u8::try_from(status.code().unwrap()).unwrap()),
        }))
    }

    fn release(&mut self, memory: &mut [u8]) {
        memory.fill(0);
    }

    fn out_of_memory(&mut self) -> bool {
        false
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // In a guest the machine would end here.
        self.kill();
        let _ = self.reap();
    }
}

/// A frame of the guest's, kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn read(&self) -> GuestFrame<'_> {
        GuestFrame::decode(self.kind, &self.body).unwrap()
    }
}

/// The loop, served in a thread.
pub(crate) struct Harness {
    pub(crate) api: SocketAddr,
    link: UnixStream,
    frames: Receiver<Frame>,
    sender: Option<Sender<Frame>>,
    thread: Option<JoinHandle<Ending>>,
    invocations: u8,
}

impl Harness {
    /// A loop whose runtime is the test itself.
    pub(crate) fn new() -> Self {
        Self::build(None, "", true)
    }

    /// A loop that starts `command` as its runtime.
    pub(crate) fn with_runtime(command: RuntimeCommand, handler: &str) -> Self {
        Self::build(Some(command), handler, true)
    }

    /// A loop whose agent reads nothing until [`Harness::read_on`].
    pub(crate) fn stalled(command: RuntimeCommand) -> Self {
        Self::build(Some(command), "", false)
    }

    /// Waits until the link holds all that it can: PID 1 can write no more.
    pub(crate) fn wait_until_blocked(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let (mut before, mut same) = (0, 0);
        while same < 20 {
            assert!(Instant::now() < deadline, "the link never filled");
            let held = rustix::io::ioctl_fionread(&self.link).unwrap();
            same = if held > 0 && held == before { same + 1 } else { 0 };
            before = held;
            // Wakes up when there is more, and otherwise looks again.
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Reads from now on.
    pub(crate) fn read_on(&mut self) {
        let sender = self.sender.take().expect("stalled");
        let mut reader = self.link.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok(frame) = read_frame(&mut reader) {
                if sender.send(frame).is_err() {
                    break;
                }
            }
        });
    }

    /// The agent goes away.
    pub(crate) fn hang_up(&mut self) {
        self.link.shutdown(std::net::Shutdown::Both).unwrap();
    }

    fn build(command: Option<RuntimeCommand>, handler: &str, reads: bool) -> Self {
        let (link, guest_link) = UnixStream::pair().unwrap();
        guest_link.set_nonblocking(true).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        rustix::net::sockopt::set_tcp_nodelay(&listener, true).unwrap();
        let api = listener.local_addr().unwrap();
        let (signals, ended) = UnixStream::pair().unwrap();
        signals.set_nonblocking(true).unwrap();
        let descriptors = Descriptors {
            link: guest_link.into(),
            listener: listener.into(),
            signals: Some(signals.into()),
        };
        let child = Arc::default();
        let platform = Native { start: Instant::now(), api, command, child, group: None, ended };
        let thread = std::thread::spawn(move || {
            let mut memory = vec![0; ARENA_LEN];
            let arena = Arena::cut(&mut memory).unwrap();
            Worker::new(platform, arena, descriptors).unwrap().serve()
        });
        let (sender, frames) = mpsc::channel();
        let sender = Some(sender);
        let thread = Some(thread);
        let mut harness = Self { api, link, frames, sender, thread, invocations: 0 };
        if reads {
            harness.read_on();
        }
        harness.send(&HostFrame::Configure(Configure {
            realtime_ns: 1,
            memory_bytes: 128 << 20,
            uid: 993,
            gid: 990,
            mounts: [None; MOUNTS_MAX],
            initialization: InitializationType::OnDemand,
            account_id: "012345678912",
            function_name: "test_function",
            function_version: "$LATEST",
            handler,
            runtime: "",
            region: "us-east-1",
            log_group: "/aws/lambda/Functions",
            log_stream: "$LATEST",
            working_directory: "",
            arguments: ByteList::default(),
            environment: ByteList::default(),
            credentials: ByteList::default(),
        }));
        harness
    }

    pub(crate) fn send(&mut self, frame: &HostFrame<'_>) {
        let mut buffer = vec![0; 64 * 1024];
        let len = frame.encode(&mut buffer).unwrap();
        self.link.write_all(&buffer[..len]).unwrap();
    }

    /// Sends an invocation with this payload.
    pub(crate) fn invoke(&mut self, payload: &[u8]) -> InvocationId {
        self.invocations += 1;
        let id = InvocationId([0xa0 | self.invocations; 16]);
        self.send(&HostFrame::Invoke(Invoke {
            id,
            realtime_ns: 0,
            deadline_ms: 1_700_000_000_000,
            payload_len: payload.len() as u64,
            function_arn: "arn:aws:lambda:us-east-1:012345678912:function:test_function",
            trace_id: "",
            client_context: "",
            cognito_identity: "",
            tenant_id: "",
            content_type: "",
        }));
        for piece in payload.chunks(votive_protocol::BODY_MAX) {
            self.send(&HostFrame::Payload(piece));
        }
        id
    }

    pub(crate) fn has_invoked(&self) -> bool {
        self.invocations > 0
    }

    pub(crate) fn reset(&mut self) {
        self.send(&HostFrame::Reset(ResetReason::Timeout));
    }

    pub(crate) fn frame(&mut self) -> Frame {
        self.frames.recv_timeout(PATIENCE).expect("a frame")
    }

    /// Frames up to the first of this kind, that one last.
    pub(crate) fn frames_until(&mut self, kind: Kind) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.frame());
            if frames.last().unwrap().kind == kind {
                return frames;
            }
        }
    }

    /// Ends the loop and says how it ended.
    pub(crate) fn shut_down(mut self, grace_ms: u32) -> Ending {
        self.send(&HostFrame::Shutdown(Shutdown { reason: ShutdownReason::Spindown, grace_ms }));
        self.thread.take().unwrap().join().unwrap()
    }

    /// Writes bytes to the link as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.link.write_all(bytes).unwrap();
    }

    /// Waits until the loop has ended by itself.
    pub(crate) fn ending(mut self) -> Ending {
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Reads one frame of the guest's.
pub(crate) fn read_frame(link: &mut UnixStream) -> std::io::Result<Frame> {
    let mut header = [0; HEADER_LEN];
    link.read_exact(&mut header)?;
    let header = Header::parse(header).unwrap();
    let mut body = vec![0; header.body_len];
    link.read_exact(&mut body)?;
    Ok(Frame { kind: header.kind, body })
}

impl Drop for Harness {
    fn drop(&mut self) {
        // The loop ends with its link.
        let _ = self.link.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
