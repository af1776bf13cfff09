//! The loop in a thread, and the agent's end of its link.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use votive_init::arena::{ARENA_LEN, Arena};
use votive_init::server::Facts;
use votive_init::worker::{
    Descriptors, Ending, Exit, ExtensionNames, Output, Platform, Problem, Who, Worker,
};
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
    children: Vec<(Who, Child)>,
    /// The external extensions that there are.
    extensions: Vec<(String, Option<RuntimeCommand>)>,
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

    fn realtime_ns(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(now.as_nanos()).unwrap()
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        bytes
    }
}

impl Native {
    /// Starts a program in a process group of its own, and says when it has ended.
    fn spawn(&mut self, who: Who, command: &mut Command) {
        let child = command.process_group(0).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let mut ended = self.ended.try_clone().unwrap();
        std::thread::spawn(move || {
            // Waits without reaping: the loop does that, as it does for PID 1.
            let options =
                rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
            let _ = rustix::process::waitid(rustix::process::WaitId::Pid(pid), options);
            let _ = ended.write_all(b"x");
        });
        self.children.push((who, child));
    }

    fn signal(&self, who: impl Fn(Who) -> bool, signal: rustix::process::Signal, group: bool) {
        for (_, child) in self.children.iter().filter(|(one, _)| who(*one)) {
            let pid = rustix::process::Pid::from_child(child);
            let _ = if group {
                // What it started ends with it, as it does with a control group.
                rustix::process::kill_process_group(pid, signal)
            } else {
                rustix::process::kill_process(pid, signal)
            };
        }
    }

    fn command(&self, program: &RuntimeCommand, variables: &[u8]) -> Command {
        let mut command = Command::new(&program.program);
        command.args(&program.arguments).stdin(Stdio::null()).env_clear();
        for item in String::from_utf8(variables.to_vec()).unwrap().split_terminator('\0') {
            let (key, value) = item.split_once('=').unwrap();
            // The host's own loader finds the host's libraries.
            if key != "LD_LIBRARY_PATH" {
                command.env(key, value);
            }
        }
        command.envs(program.environment.iter().cloned());
        command
    }
}

impl Platform for Native {
    fn prepare(&mut self, _: &Configure<'_>) -> Result<(), Problem> {
        Ok(())
    }

    fn list_extensions(&mut self, names: &mut ExtensionNames) -> Result<usize, Problem> {
        for (name, _) in &self.extensions {
            names.insert(name.as_bytes());
        }
        Ok(self.extensions.len())
    }

    fn start_extension(
        &mut self,
        configure: &Configure<'_>,
        slot: usize,
        name: &str,
    ) -> Result<Option<OwnedFd>, Problem> {
        let (_, command) = self.extensions.iter().find(|(one, _)| one == name).unwrap();
        let Some(program) = command else { return Ok(None) };
        let mut variables = vec![0; 64 * 1024];
        let api = self.api.to_string();
        let len = votive_init::environment::write_for_extension(configure, &api, &mut variables);
        let mut command = self.command(program, &variables[..len.unwrap()]);
        let (output, child_output) = std::io::pipe().unwrap();
        command.stdout(child_output.try_clone().unwrap()).stderr(child_output);
        self.spawn(Who::Extension(slot), &mut command);
        let output = OwnedFd::from(output);
        rustix::io::ioctl_fionbio(&output, true).unwrap();
        Ok(Some(output))
    }

    fn start(&mut self, configure: &Configure<'_>) -> Result<Option<Output>, Problem> {
        let Some(runtime) = &self.command else { return Ok(None) };
        let mut variables = vec![0; 64 * 1024];
        let api = self.api.to_string();
        let len = votive_init::environment::write(configure, &api, &mut variables).unwrap();
        let (stdout, child_stdout) = std::io::pipe().unwrap();
        let (stderr, child_stderr) = std::io::pipe().unwrap();
        let mut command = self.command(runtime, &variables[..len]);
        command.stdout(child_stdout).stderr(child_stderr);
        self.spawn(Who::Runtime, &mut command);
        let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
        for pipe in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(pipe, true).unwrap();
        }
        Ok(Some(Output { stdout, stderr }))
    }

    fn terminate(&mut self) {
        self.signal(|who| who == Who::Runtime, rustix::process::Signal::TERM, false);
    }

    fn kill_runtime(&mut self) {
        self.signal(|who| who == Who::Runtime, rustix::process::Signal::KILL, true);
    }

    fn is_runtime_gone(&mut self) -> bool {
        true
    }

    fn kill_extension(&mut self, slot: usize) {
        self.signal(|who| who == Who::Extension(slot), rustix::process::Signal::KILL, true);
    }

    fn kill(&mut self) {
        self.signal(|_| true, rustix::process::Signal::KILL, true);
    }

    fn reap(&mut self) -> Result<Option<Exit>, Problem> {
        let ended = |(_, child): &mut (Who, Child)| child.try_wait().unwrap();
        let found = self.children.iter_mut().enumerate();
        let found = found.filter_map(|(at, child)| Some((at, ended(child)?))).next();
        let Some((at, status)) = found else { return Ok(None) };
        let (who, child) = self.children.swap_remove(at);
        // What is left of its group ends with it.
        let group = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let status = match status.signal() {
            Some(signal) => ExitStatus::Signal(u8::try_from(signal).unwrap()),
            None => ExitStatus::Code(u8::try_from(status.code().unwrap()).unwrap()),
        };
        let launch_error = (status == ExitStatus::Code(126)).then_some(rustix::io::Errno::ACCESS);
        let launch_error = launch_error.filter(|_| who != Who::Runtime);
        Ok(Some(Exit { who, status, launch_error }))
    }

    fn set_realtime(&mut self, _: u64) {}

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
        for (_, child) in &mut self.children {
            let _ = child.wait();
        }
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
        Self::build(None, "", true, Vec::new())
    }

    /// A loop whose runtime is the test itself, with these external extensions.
    pub(crate) fn with_extensions(extensions: Vec<(String, Option<RuntimeCommand>)>) -> Self {
        Self::build(None, "app.handler", true, extensions)
    }

    /// A loop that starts both.
    pub(crate) fn with_both(
        command: RuntimeCommand,
        handler: &str,
        extensions: Vec<(String, Option<RuntimeCommand>)>,
    ) -> Self {
        Self::build(Some(command), handler, true, extensions)
    }

    /// A loop that starts `command` as its runtime.
    pub(crate) fn with_runtime(command: RuntimeCommand, handler: &str) -> Self {
        Self::build(Some(command), handler, true, Vec::new())
    }

    /// A loop whose agent reads nothing until [`Harness::read_on`].
    pub(crate) fn stalled(command: RuntimeCommand) -> Self {
        Self::build(Some(command), "", false, Vec::new())
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

    fn build(
        command: Option<RuntimeCommand>,
        handler: &str,
        reads: bool,
        extensions: Vec<(String, Option<RuntimeCommand>)>,
    ) -> Self {
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
        let children = Vec::new();
        let platform = Native { start: Instant::now(), api, command, children, extensions, ended };
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
            network: None,
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

    /// A frame that has come by now.
    pub(crate) fn frame_now(&mut self) -> Option<Frame> {
        self.frames.try_recv().ok()
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
