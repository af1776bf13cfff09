//! The other side of everything: takes a VMM's command line and speaks PID 1's part on the link. The function's handler says
//! how it behaves.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Signal, getpid, kill_process, pidfd_getfd, pidfd_open,
};
use votive_protocol::{
    BODY_MAX, Done, Down, ExitStatus, Fault, FaultCode, GuestFrame, HEADER_LEN, Header, Hello,
    HostFrame, InvocationId, LogStream, Phase, PhaseName, ResponseEnd, ResponseMode,
    ResponseOutcome, ResponseStart, RuntimeError, RuntimeErrorScope, RuntimeExited, VERSION,
};

/// Plays a VMM with its guest until one of them ends.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name).unwrap();
        arguments[place + 1].clone()
    };
    let mut marks = std::fs::File::from(inherited(&after("--marks")));
    for name in ["start", "machine", "run", "guest-0x01"] {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let nanoseconds = now.tv_sec * 1_000_000_000 + now.tv_nsec;
        writeln!(marks, "{name} {nanoseconds}").unwrap();
    }
    let vsock = after("--vsock");
    let fd = vsock.rsplit_once("1024:").unwrap().1;
    let stream = UnixStream::from(inherited(fd));
    stream.set_nonblocking(false).unwrap();
    Guest { stream, handler: String::new(), body: vec![0; BODY_MAX] }.serve()
}

/// Takes the descriptor `fd:N` that the agent handed on.
fn inherited(name: &str) -> OwnedFd {
    let number = name.strip_prefix("fd:").unwrap().parse().unwrap();
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(own, number, PidfdGetfdFlags::empty()).unwrap()
}

struct Guest {
    stream: UnixStream,
    handler: String,
    body: Vec<u8>,
}

impl Guest {
    fn serve(mut self) -> ExitCode {
        self.send(&GuestFrame::Hello(Hello { version: VERSION, started_ns: 0 }));
        loop {
            let mut header = [0; HEADER_LEN];
            if self.stream.read_exact(&mut header).is_err() {
                return ExitCode::SUCCESS;
            }
            let header = Header::parse(header).unwrap();
            let mut body = std::mem::take(&mut self.body);
            self.stream.read_exact(&mut body[..header.body_len]).unwrap();
            let end = match HostFrame::decode(header.kind, &body[..header.body_len]).unwrap() {
                HostFrame::Configure(configure) => {
                    self.handler = configure.handler.to_owned();
                    self.init()
                }
                HostFrame::Invoke(invoke) => {
                    let mut payload = vec![0; usize::try_from(invoke.payload_len).unwrap()];
                    self.read_payload(&mut payload);
                    self.invoke(invoke.id, &payload)
                }
                HostFrame::Reset(_) => match self.handler.as_str() {
                    "hang-hard" => None,
                    _ => {
                        self.exit(ExitStatus::Signal(9), false, None);
                        None
                    }
                },
                HostFrame::Shutdown(_) => Some(ExitCode::SUCCESS),
                HostFrame::Payload(_) => panic!("a payload without an invocation"),
            };
            self.body = body;
            if let Some(code) = end {
                return code;
            }
        }
    }

    fn read_payload(&mut self, payload: &mut [u8]) {
        let mut filled = 0;
        while filled < payload.len() {
            let mut header = [0; HEADER_LEN];
            self.stream.read_exact(&mut header).unwrap();
            let len = Header::parse(header).unwrap().body_len;
            self.stream.read_exact(&mut payload[filled..filled + len]).unwrap();
            filled += len;
        }
    }

    fn init(&mut self) -> Option<ExitCode> {
        match self.handler.as_str() {
            "fault" => {
                let code = FaultCode::InvalidEntrypoint;
                self.send(&GuestFrame::Fault(Fault { code, errno: 2, detail: "bootstrap" }));
                return Some(ExitCode::SUCCESS);
            }
            "garbage" => {
                self.stream.write_all(&[0x7f; 64]).unwrap();
                return None;
            }
            "vmm-fails" => {
                eprintln!("votive-vmm: vcpu 0: emulation failure at 0xfff0");
                return Some(ExitCode::from(4));
            }
            "link-closed" => {
                self.stream.shutdown(std::net::Shutdown::Both).unwrap();
                loop {
                    std::thread::park();
                }
            }
            _ => {}
        }
        self.phase(PhaseName::Configured);
        self.start_runtime(None);
        None
    }

    fn start_runtime(&mut self, id: Option<InvocationId>) {
        self.phase(PhaseName::RuntimeStarted);
        match self.handler.as_str() {
            "init-error" => {
                self.send(&GuestFrame::RuntimeError(RuntimeError {
                    scope: RuntimeErrorScope::Init,
                    error_type: "Runtime.ImportModuleError",
                    body: br#"{"errorMessage":"no module"}"#,
                    xray_cause: b"",
                }));
            }
            "init-exit" => self.exit(ExitStatus::Code(1), false, id),
            "init-hang" => {}
            _ => {
                let phase = Phase { name: PhaseName::InitOver, at_ns: 3 };
                self.send(&GuestFrame::Ready(phase));
            }
        }
    }

    fn invoke(&mut self, id: InvocationId, payload: &[u8]) -> Option<ExitCode> {
        match self.handler.clone().as_str() {
            "init-error" | "init-exit" | "init-hang" => self.start_runtime(Some(id)),
            "throw" => {
                self.send(&GuestFrame::RuntimeError(RuntimeError {
                    scope: RuntimeErrorScope::Invocation(id),
                    error_type: "Runtime.Unknown",
                    body: br#"{"errorMessage":"boom","errorType":"ValueError"}"#,
                    xray_cause: b"",
                }));
                self.done(id);
            }
            "exit" => self.exit(ExitStatus::Code(0), false, Some(id)),
            "exit-3" => self.exit(ExitStatus::Code(3), false, Some(id)),
            "killed" => self.exit(ExitStatus::Signal(9), false, Some(id)),
            "out-of-memory" => self.exit(ExitStatus::Signal(9), true, Some(id)),
            "hang" | "hang-hard" => {}
            "oversized" => {
                self.start(id, ResponseMode::Buffered);
                self.end(id, ResponseOutcome::Oversized);
                self.done(id);
            }
            "truncated" => {
                self.start(id, ResponseMode::Buffered);
                self.pieces(b"half");
                self.end(id, ResponseOutcome::Truncated);
                self.done(id);
            }
            "twice" => {
                self.answer(id, payload);
                self.answer(id, payload);
            }
            "endless" => {
                self.start(id, ResponseMode::Buffered);
                while self.try_send(&GuestFrame::ResponsePayload(&[b'x'; 4096])).is_ok() {}
            }
            "vmm-killed" => kill_process(getpid(), Signal::KILL).unwrap(),
            "logs" => {
                let text = b"one\ntwo \x1b[31mred\nno end";
                self.send(&GuestFrame::Log(LogStream::Stdout, text));
                self.answer(id, payload);
                self.done(id);
            }
            _ => {
                self.answer(id, payload);
                self.done(id);
            }
        }
        None
    }

    fn answer(&mut self, id: InvocationId, bytes: &[u8]) {
        self.start(id, ResponseMode::Buffered);
        self.pieces(bytes);
        self.end(id, ResponseOutcome::Complete);
    }

    fn start(&mut self, id: InvocationId, mode: ResponseMode) {
        let content_type = "application/json";
        self.send(&GuestFrame::ResponseStart(ResponseStart { id, mode, content_type }));
    }

    fn pieces(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(BODY_MAX) {
            self.send(&GuestFrame::ResponsePayload(piece));
        }
    }

    fn end(&mut self, id: InvocationId, outcome: ResponseOutcome) {
        let end = ResponseEnd { id, outcome, error_type: "", error_body: b"" };
        self.send(&GuestFrame::ResponseEnd(end));
    }

    fn done(&mut self, id: InvocationId) {
        let memory_peak_bytes = 40 * 1024 * 1024 + 1;
        self.send(&GuestFrame::Done(Done {
            id,
            duration_ns: 1,
            runtime_ns: 1,
            extensions_ns: 0,
            memory_peak_bytes,
        }));
    }

    fn exit(&mut self, status: ExitStatus, out_of_memory: bool, id: Option<InvocationId>) {
        let memory_peak_bytes = 128 * 1024 * 1024;
        let exited = RuntimeExited { status, out_of_memory, memory_peak_bytes, id };
        self.send(&GuestFrame::RuntimeExited(exited));
        self.send(&GuestFrame::Down(Down { at_ns: 1 }));
    }

    fn phase(&mut self, name: PhaseName) {
        self.send(&GuestFrame::Phase(Phase { name, at_ns: 1 }));
    }

    fn send(&mut self, frame: &GuestFrame<'_>) {
        // The agent may have had enough of this guest.
        let _ = self.try_send(frame);
    }

    fn try_send(&mut self, frame: &GuestFrame<'_>) -> std::io::Result<()> {
        let mut buffer = vec![0; HEADER_LEN + BODY_MAX];
        let len = frame.encode(&mut buffer).unwrap();
        self.stream.write_all(&buffer[..len])
    }
}
