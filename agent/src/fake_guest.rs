//! A launcher whose microVMs are tasks of this process: each plays a VMM and PID 1 on real sockets, and behaves as its
//! function's handler says. It is for tests of everything that is above a microVM.
//!
//! Handlers: `echo` answers with the event; `stream` streams it; `throw` reports an error; `exit` ends its runtime; `hang`
//! never answers; `crash` ends its VMM in the middle; `init-error` never starts; `stuck` has a VMM that stops answering.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use votive_protocol::limits::MOUNTS_MAX;
use votive_protocol::{
    BODY_MAX, Done, Down, ExitStatus, GuestFrame, HEADER_LEN, Header, Hello, HostFrame,
    InvocationId, Phase, PhaseName, ResponseEnd, ResponseMode, ResponseOutcome, ResponseStart,
    RuntimeError, RuntimeErrorScope, RuntimeExited, VERSION,
};

use crate::clock::Moment;
use crate::microvm::{MicrovmControl, MicrovmEnd};
use crate::worker::api::{FunctionVersionSpec, RegisterError};
use crate::worker::launcher::{LaunchError, LaunchOrder, Launched, Launcher};
use crate::worker::microvms::check;
use crate::worker::registry::{Version, VersionImages};

/// Starts guests that are played.
#[derive(Clone, Copy, Debug, Default)]
pub struct FakeLauncher;

impl Launcher for FakeLauncher {
    async fn prepare(&self, spec: FunctionVersionSpec) -> Result<Version, RegisterError> {
        let function = check(&spec)?;
        // What its code is called is all the code that it has.
        let code = format!("{:?}{:?}", spec.code, spec.layers);
        Ok(Version {
            function: Arc::new(function),
            code_sha256: <sha2::Sha256 as sha2::Digest>::digest(code.as_bytes()).into(),
            log_format: spec.log_format,
            concurrency_limit: spec.concurrency_limit,
            images: Arc::new(VersionImages::default()),
        })
    }

    async fn launch(&self, order: LaunchOrder) -> Result<Launched, LaunchError> {
        let pair = || UnixStream::pair().map_err(|error| LaunchError::new(error.to_string()));
        let (link, guest_link) = pair()?;
        let (control, vmm_control) = pair()?;
        let kill = Arc::new(Notify::new());
        let (ended, end) = oneshot::channel();
        let handler = order.function.handler().to_owned();
        let killed = Arc::clone(&kill);
        tokio::spawn(async move {
            let code = tokio::select! {
                code = Guest::new(guest_link, handler.clone()).serve() => code,
                code = answer_control(vmm_control, handler == "stuck") => code,
                () = killed.notified() => None,
            };
            let signal = code.is_none().then_some(9);
            let end = MicrovmEnd { code, signal, reason: String::new(), marks: Vec::new() };
            let _ = ended.send(end);
        });
        let lost =
            MicrovmEnd { code: None, signal: None, reason: String::new(), marks: Vec::new() };
        Ok(Launched {
            link,
            control: Some(MicrovmControl::new(control)),
            process_id: Some(std::process::id()),
            end: Box::pin(async move { end.await.unwrap_or(lost) }),
            kill,
            share: None,
            at: Moment::now(),
            mounts: [None; MOUNTS_MAX],
            network: None,
            container: order.images.container.clone(),
            first_release: None,
        })
    }

    fn forget(&self, _images: &VersionImages) {}
}

/// Plays a VMM's control channel until the other end is gone.
async fn answer_control(mut control: UnixStream, stuck: bool) -> Option<i32> {
    let mut answers = 0;
    let mut byte = [0];
    while let Ok(1) = control.read(&mut byte).await {
        answers += 1;
        if stuck && answers > 1 {
            std::future::pending::<()>().await;
        }
        if control.write_all(&byte).await.is_err() {
            break;
        }
    }
    Some(7)
}

struct Guest {
    link: UnixStream,
    handler: String,
    body: Box<[u8]>,
}

impl Guest {
    fn new(link: UnixStream, handler: String) -> Self {
        Self { link, handler, body: vec![0; BODY_MAX].into_boxed_slice() }
    }

    /// Plays PID 1; gives the VMM's exit code.
    async fn serve(mut self) -> Option<i32> {
        let _ = self.play().await;
        Some(0)
    }

    async fn play(&mut self) -> std::io::Result<()> {
        self.send(&GuestFrame::Hello(Hello { version: VERSION, started_ns: 0 })).await?;
        loop {
            let header = self.read_frame().await?;
            let body = std::mem::take(&mut self.body);
            let frame = body.get(..header.body_len).unwrap_or_default();
            let (mut invocation, mut reset, mut over) = (None, false, false);
            let mut configured = false;
            match HostFrame::decode(header.kind, frame) {
                Ok(HostFrame::Configure(_)) => configured = true,
                Ok(HostFrame::Invoke(invoke)) => {
                    invocation =
                        Some((invoke.id, usize::try_from(invoke.payload_len).unwrap_or(0)));
                }
                Ok(HostFrame::Reset(_)) => reset = true,
                _ => over = true,
            }
            self.body = body;
            if configured {
                self.start_runtime(None).await?;
            }
            if let Some((id, len)) = invocation {
                let payload = self.read_payload(len).await?;
                self.invoke(id, &payload).await?;
            }
            if reset {
                self.exit(None).await?;
            }
            if over {
                return Ok(());
            }
        }
    }

    async fn read_frame(&mut self) -> std::io::Result<Header> {
        let mut header = [0; HEADER_LEN];
        self.link.read_exact(&mut header).await?;
        let header = Header::parse(header).map_err(std::io::Error::other)?;
        let body = self.body.get_mut(..header.body_len).unwrap_or_default();
        self.link.read_exact(body).await?;
        Ok(header)
    }

    async fn read_payload(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut payload = Vec::new();
        while payload.len() < len {
            let header = self.read_frame().await?;
            payload.extend_from_slice(self.body.get(..header.body_len).unwrap_or_default());
        }
        Ok(payload)
    }

    async fn start_runtime(&mut self, id: Option<InvocationId>) -> std::io::Result<()> {
        if self.handler != "init-error" {
            let phase = Phase { name: PhaseName::InitOver, at_ns: 1 };
            return self.send(&GuestFrame::Ready(phase)).await;
        }
        let scope = RuntimeErrorScope::Init;
        let (error_type, body) = ("Runtime.ImportModuleError", b"{}".as_slice());
        let error = RuntimeError { scope, error_type, body, xray_cause: b"" };
        let _ = id;
        self.send(&GuestFrame::RuntimeError(error)).await
    }

    async fn invoke(&mut self, id: InvocationId, payload: &[u8]) -> std::io::Result<()> {
        match self.handler.as_str() {
            "hang" | "stuck" => Ok(()),
            "crash" => Err(std::io::Error::other("the VMM ends")),
            "exit" => self.exit(Some(id)).await,
            "init-error" => self.start_runtime(Some(id)).await,
            "throw" => {
                let scope = RuntimeErrorScope::Invocation(id);
                let (error_type, body) =
                    ("Function.Unknown", b"{\"errorMessage\":\"boom\"}".as_slice());
                let error = RuntimeError { scope, error_type, body, xray_cause: b"" };
                self.send(&GuestFrame::RuntimeError(error)).await?;
                self.done(id).await
            }
            handler => {
                let mode = match handler {
                    "stream" => ResponseMode::Streaming,
                    _ => ResponseMode::Buffered,
                };
                let content_type = "application/json";
                let start = ResponseStart { id, mode, content_type };
                self.send(&GuestFrame::ResponseStart(start)).await?;
                for piece in payload.chunks(BODY_MAX) {
                    self.send(&GuestFrame::ResponsePayload(piece)).await?;
                }
                let outcome = ResponseOutcome::Complete;
                let end = ResponseEnd { id, outcome, error_type: "", error_body: b"" };
                self.send(&GuestFrame::ResponseEnd(end)).await?;
                self.done(id).await
            }
        }
    }

    async fn done(&mut self, id: InvocationId) -> std::io::Result<()> {
        let memory_peak_bytes = 40 * 1024 * 1024;
        let (duration_ns, runtime_ns, extensions_ns) = (1, 1, 0);
        self.send(&GuestFrame::Done(Done {
            id,
            duration_ns,
            runtime_ns,
            extensions_ns,
            memory_peak_bytes,
        }))
        .await
    }

    async fn exit(&mut self, id: Option<InvocationId>) -> std::io::Result<()> {
        let (status, out_of_memory, memory_peak_bytes) = (ExitStatus::Code(1), false, 1);
        let exited = RuntimeExited { status, out_of_memory, memory_peak_bytes, id };
        self.send(&GuestFrame::RuntimeExited(exited)).await?;
        self.send(&GuestFrame::Down(Down { at_ns: 1 })).await
    }

    async fn send(&mut self, frame: &GuestFrame<'_>) -> std::io::Result<()> {
        let mut buffer = vec![0; HEADER_LEN + BODY_MAX];
        let len = frame.encode(&mut buffer).map_err(std::io::Error::other)?;
        self.link.write_all(buffer.get(..len).unwrap_or_default()).await
    }
}
