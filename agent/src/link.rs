//! The guest link on the host's side: frames of `votive-protocol` over a stream.
//!
//! What comes from the guest is read into one fixed buffer and checked frame by frame; whatever breaks a rule ends the link.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use votive_protocol::{
    BODY_MAX, ByteList, Configure, FrameError, GuestFrame, HEADER_LEN, Header, HostFrame,
    InitializationType, InvocationId, Invoke, Mount, ResetReason, Shutdown, ShutdownReason,
    limits::MOUNTS_MAX,
};

use crate::event::GuestEvent;
use crate::function::{Container, Function};

#[cfg(test)]
mod tests;

/// The fixed user id of a function's processes (CONTRACT 4.5).
pub const RUNTIME_UID: u32 = 993;
/// The fixed group id of a function's processes (CONTRACT 4.5).
pub const RUNTIME_GID: u32 = 990;

/// Why the link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The guest sent something that is not a frame of its own.
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    /// The stream ended within a frame.
    #[error("the link ended within a frame")]
    Truncated,
    /// The stream failed.
    #[error("the link failed")]
    Io(#[source] std::io::Error),
}

impl LinkError {
    /// Whether the guest broke a rule, rather than went away.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Frame(_))
    }
}

/// Frames that came together are read together, up to this many bytes: an answer of a page and all that goes with it.
const READ_AHEAD: usize = 8 * 1024;

/// Reads a guest's frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: BufReader<R>,
    body: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader over `stream`.
    #[must_use]
    pub fn new(stream: R) -> Self {
        let stream = BufReader::with_capacity(READ_AHEAD, stream);
        Self { stream, body: vec![0; BODY_MAX].into_boxed_slice() }
    }

    /// The next frame; `None` if the stream ended before one.
    ///
    /// # Errors
    /// A [`LinkError`] is the end of the link.
    pub async fn next(&mut self) -> Result<Option<GuestEvent>, LinkError> {
        let mut header = [0; HEADER_LEN];
        let (first, rest) = header.split_at_mut(1);
        if self.stream.read(first).await.map_err(LinkError::Io)? == 0 {
            return Ok(None);
        }
        self.fill(FillTarget::Header(rest)).await?;
        let header = Header::parse(header)?;
        self.fill(FillTarget::Body(header.body_len)).await?;
        let body = self.body.get(..header.body_len).unwrap_or_default();
        Ok(Some(GuestFrame::decode(header.kind, body)?.into()))
    }

    async fn fill(&mut self, target: FillTarget<'_>) -> Result<(), LinkError> {
        let bytes = match target {
            FillTarget::Header(bytes) => bytes,
            FillTarget::Body(len) => self.body.get_mut(..len).unwrap_or_default(),
        };
        match self.stream.read_exact(bytes).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(LinkError::Truncated)
            }
            Err(error) => Err(LinkError::Io(error)),
        }
    }
}

enum FillTarget<'a> {
    Header(&'a mut [u8]),
    Body(usize),
}

/// What the host sends.
#[derive(Clone, Debug)]
pub enum HostMessage {
    /// What the microVM is for.
    Configure(Box<Configuration>),
    /// An invocation with its payload.
    Invoke(Box<Request>),
    /// The runtime is to be killed.
    Reset(ResetReason),
    /// The guest is to power off.
    Shutdown {
        /// What extensions are told.
        reason: ShutdownReason,
        /// The most that it may take, in milliseconds.
        grace_ms: u32,
    },
}

/// [`Configure`] with its own bytes.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The function.
    pub function: Function,
    /// The time of day in nanoseconds since the Unix epoch.
    pub realtime_ns: u64,
    /// Its process, if it is a container image's.
    pub container: Option<Arc<Container>>,
    /// The disks, in the order in which they are mounted.
    pub mounts: [Option<Mount>; MOUNTS_MAX],
    /// What its network device is set up with, if it has one.
    pub network: Option<votive_protocol::Network>,
    /// `AWS_LAMBDA_LOG_STREAM_NAME`
    pub log_stream: String,
    /// `AWS_LAMBDA_INITIALIZATION_TYPE`
    pub initialization: InitializationType,
}

/// [`Invoke`] with its own bytes, and the payload.
#[derive(Clone, Debug)]
pub struct Request {
    /// The invocation's id.
    pub id: InvocationId,
    /// When it times out, in milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// The function's ARN.
    pub function_arn: String,
    /// `Lambda-Runtime-Trace-Id`
    pub trace_id: String,
    /// `Lambda-Runtime-Client-Context`; may be empty.
    pub client_context: String,
    /// `Lambda-Runtime-Cognito-Identity`; may be empty.
    pub cognito_identity: String,
    /// `Content-Type`; may be empty.
    pub content_type: String,
    /// The time of day in nanoseconds since the Unix epoch: a guest that was paused does not know it.
    pub realtime_ns: u64,
    /// The event.
    pub payload: Vec<u8>,
}

/// Writes the host's frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    buffer: Box<[u8]>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// A writer over `stream`.
    #[must_use]
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: vec![0; HEADER_LEN + BODY_MAX].into_boxed_slice() }
    }

    /// Sends a message, which may be several frames.
    ///
    /// # Errors
    /// [`LinkError::Frame`] if a field is over its limit, [`LinkError::Io`] if the guest is gone.
    pub async fn send(&mut self, message: &HostMessage) -> Result<(), LinkError> {
        match message {
            HostMessage::Configure(configuration) => self.configure(configuration).await,
            HostMessage::Invoke(request) => self.invoke(request).await,
            HostMessage::Reset(reason) => self.frame(&HostFrame::Reset(*reason)).await,
            HostMessage::Shutdown { reason, grace_ms } => {
                let shutdown = Shutdown { reason: *reason, grace_ms: *grace_ms };
                self.frame(&HostFrame::Shutdown(shutdown)).await
            }
        }
    }

    async fn configure(&mut self, configuration: &Configuration) -> Result<(), LinkError> {
        let function = &configuration.function;
        let own = function.environment_bytes();
        let container = configuration.container.as_deref();
        let environment = container.map_or(own.as_slice(), Container::environment);
        let arguments = container.map_or(&[][..], Container::arguments);
        let log_group = function.log_group();
        self.frame(&HostFrame::Configure(Configure {
            realtime_ns: configuration.realtime_ns,
            memory_bytes: function.memory_bytes(),
            uid: RUNTIME_UID,
            gid: RUNTIME_GID,
            mounts: configuration.mounts,
            network: configuration.network,
            initialization: configuration.initialization,
            function_name: function.name(),
            function_version: function.version(),
            handler: function.handler(),
            runtime: function.execution_runtime(),
            region: function.region(),
            log_group: &log_group,
            log_stream: &configuration.log_stream,
            account_id: function.account(),
            working_directory: container.map_or("", Container::working_directory),
            arguments: ByteList::new(arguments)?,
            environment: ByteList::new(environment)?,
            credentials: ByteList::default(),
        }))
        .await
    }

    async fn invoke(&mut self, request: &Request) -> Result<(), LinkError> {
        let invoke = HostFrame::Invoke(Invoke {
            id: request.id,
            realtime_ns: request.realtime_ns,
            deadline_ms: request.deadline_ms,
            payload_len: u64::try_from(request.payload.len()).unwrap_or(u64::MAX),
            function_arn: &request.function_arn,
            trace_id: &request.trace_id,
            client_context: &request.client_context,
            cognito_identity: &request.cognito_identity,
            tenant_id: "",
            content_type: &request.content_type,
        });
        // What fits goes out in one piece, so that it arrives in one and wakes the guest once.
        let mut len = invoke.encode(&mut self.buffer)?;
        for piece in request.payload.chunks(BODY_MAX) {
            if self.buffer.len() - len < HEADER_LEN + piece.len() {
                self.write(len).await?;
                len = 0;
            }
            let room = self.buffer.get_mut(len..).unwrap_or_default();
            len += HostFrame::Payload(piece).encode(room)?;
        }
        self.write(len).await
    }

    async fn frame(&mut self, frame: &HostFrame<'_>) -> Result<(), LinkError> {
        let len = frame.encode(&mut self.buffer)?;
        self.write(len).await
    }

    /// Writes what was encoded.
    async fn write(&mut self, len: usize) -> Result<(), LinkError> {
        let bytes = self.buffer.get(..len).unwrap_or_default();
        self.stream.write_all(bytes).await.map_err(LinkError::Io)
    }
}
