//! What the agent says to PID 1.

use serde::{Deserialize, Serialize};

use crate::frame::{check_len, decode_postcard, encode_postcard, encode_raw};
use crate::limits::{
    ARGUMENTS_MAX, CONTEXT_MAX, DNS_SERVERS_MAX, ENVIRONMENT_MAX, MOUNTS_MAX, REQUEST_PAYLOAD_MAX,
    STRING_MAX,
};
use crate::{ByteList, FrameError, InvocationId, Kind};

/// A frame from the agent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HostFrame<'a> {
    /// The first frame, once: what this microVM is for.
    Configure(Configure<'a>),
    /// An invocation begins; [`HostFrame::Payload`]s of `payload_len` bytes in all follow.
    Invoke(Invoke<'a>),
    /// A piece of the request payload.
    Payload(&'a [u8]),
    /// End runtime and extensions as a shutdown does; they are started again with the next [`HostFrame::Invoke`]. Answered
    /// by `RuntimeExited`, if a runtime was there, and then by `Down`.
    Reset(ResetReason),
    /// End runtime and extensions, then the microVM.
    Shutdown(Shutdown),
}

/// What a microVM is for: one version of one function.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configure<'a> {
    /// Wall clock: nanoseconds since the Unix epoch, set by PID 1 with `clock_settime`.
    pub realtime_ns: u64,
    /// The function's memory in bytes: the limit of the runtime's cgroup.
    pub memory_bytes: u64,
    /// User id of the runtime's processes.
    pub uid: u32,
    /// Group id of the runtime's processes.
    pub gid: u32,
    /// What to mount, in this order.
    pub mounts: [Option<Mount>; MOUNTS_MAX],
    /// The network device `eth0`; without it there is none but loopback.
    pub network: Option<Network>,
    /// How this environment came to be; the value of `AWS_LAMBDA_INITIALIZATION_TYPE`.
    pub initialization: InitializationType,
    /// The account's id, for extensions that ask for it (`Lambda-Extension-Accept-Feature: accountId`); may be empty.
    pub account_id: &'a str,
    /// The function's name.
    pub function_name: &'a str,
    /// The function's version: `$LATEST` or a number.
    pub function_version: &'a str,
    /// The handler, `_HANDLER`.
    pub handler: &'a str,
    /// The runtime's identifier for `AWS_EXECUTION_ENV` (`python3.11`); empty for `provided` and image functions.
    pub runtime: &'a str,
    /// `AWS_REGION` and `AWS_DEFAULT_REGION`.
    pub region: &'a str,
    /// `AWS_LAMBDA_LOG_GROUP_NAME`.
    pub log_group: &'a str,
    /// `AWS_LAMBDA_LOG_STREAM_NAME`.
    pub log_stream: &'a str,
    /// The working directory; empty for `/var/task`, or for `/` where the function is a container image.
    pub working_directory: &'a str,
    /// The command line of a container image: its ENTRYPOINT and CMD. Empty for any other function, which has a `bootstrap`
    /// (CONTRACT 4.5).
    #[serde(borrow)]
    pub arguments: ByteList<'a>,
    /// The function's own environment variables, `KEY=VALUE`.
    #[serde(borrow)]
    pub environment: ByteList<'a>,
    /// Credentials, `KEY=VALUE`; they override the function's own variables.
    #[serde(borrow)]
    pub credentials: ByteList<'a>,
}

/// What `eth0` is set up with: IPv4 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its address.
    pub address: [u8; 4],
    /// Bits of it that its neighbours share.
    pub prefix: u8,
    /// The default route's next hop.
    pub gateway: [u8; 4],
    /// Name servers, for `/etc/resolv.conf`.
    pub dns: [Option<[u8; 4]>; DNS_SERVERS_MAX],
}

/// A block device and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The virtio-blk device, counted from 0: 0 is `/dev/vda`.
    pub device: u8,
    /// Where to mount it.
    pub target: MountTarget,
    /// What it holds.
    pub file_system: FileSystem,
}

/// The places of CONTRACT 4.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountTarget {
    /// `/`: the runtime image, read-only.
    Root,
    /// `/var/task`: the function's code, read-only.
    Task,
    /// `/opt`: the merged layers, read-only.
    Opt,
    /// `/tmp`: scratch, writable.
    Tmp,
}

/// What a block device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileSystem {
    /// EROFS, always read-only.
    Erofs,
    /// ext4, writable.
    Ext4,
}

/// The values of `AWS_LAMBDA_INITIALIZATION_TYPE` (CONTRACT 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitializationType {
    /// `on-demand`
    OnDemand,
    /// `provisioned-concurrency`
    ProvisionedConcurrency,
    /// `snap-start`
    SnapStart,
}

/// The head of an invocation: what `GET /runtime/invocation/next` answers (CONTRACT 4.1). Empty fields are left out there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invoke<'a> {
    /// `Lambda-Runtime-Aws-Request-Id`
    pub id: InvocationId,
    /// Wall clock: nanoseconds since the Unix epoch, set by PID 1 if its own has drifted; 0 to leave it alone.
    pub realtime_ns: u64,
    /// `Lambda-Runtime-Deadline-Ms`: milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// Bytes of the payload that follows.
    pub payload_len: u64,
    /// `Lambda-Runtime-Invoked-Function-Arn`
    pub function_arn: &'a str,
    /// `Lambda-Runtime-Trace-Id`
    pub trace_id: &'a str,
    /// `Lambda-Runtime-Client-Context`, JSON
    pub client_context: &'a str,
    /// `Lambda-Runtime-Cognito-Identity`, JSON
    pub cognito_identity: &'a str,
    /// `Lambda-Runtime-Aws-Tenant-Id`
    pub tenant_id: &'a str,
    /// `Content-Type`; empty for `application/json`
    pub content_type: &'a str,
}

/// Why runtime and extensions are to be ended. Extensions are told (`shutdownReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetReason {
    /// The invocation or the init phase ran out of time.
    Timeout,
    /// Something failed: the runtime is in doubt.
    Failure,
}

/// The end of a microVM. Runtime and extensions have 0 ms without extensions, 500 ms with internal ones alone, 2,000 ms with
/// external ones (CONTRACT 4.2); the runtime has three tenths of that between SIGTERM and SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// What extensions are told as `shutdownReason`.
    pub reason: ShutdownReason,
    /// The most milliseconds that all of it may take, where that is less than the budget above; 0 for SIGKILL at once.
    pub grace_ms: u32,
}

/// The values of `shutdownReason` (CONTRACT 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownReason {
    /// `spindown`: nothing went wrong.
    Spindown,
    /// `timeout`: an invocation or the init phase ran out of time.
    Timeout,
    /// `failure`: something failed.
    Failure,
}

impl ShutdownReason {
    /// The text that extensions are told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spindown => "spindown",
            Self::Timeout => "timeout",
            Self::Failure => "failure",
        }
    }
}

impl From<ResetReason> for ShutdownReason {
    fn from(reason: ResetReason) -> Self {
        match reason {
            ResetReason::Timeout => Self::Timeout,
            ResetReason::Failure => Self::Failure,
        }
    }
}

impl<'a> HostFrame<'a> {
    /// Writes this frame to the start of `buffer` and gives its length in bytes, at most `HEADER_LEN + BODY_MAX`.
    ///
    /// # Errors
    /// A field over its limit, or a `buffer` that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        self.check()?;
        match self {
            Self::Configure(body) => encode_postcard(Kind::Configure, body, buffer),
            Self::Invoke(body) => encode_postcard(Kind::Invoke, body, buffer),
            Self::Payload(bytes) => encode_raw(Kind::Payload, [bytes, &[]], buffer),
            Self::Reset(body) => encode_postcard(Kind::Reset, body, buffer),
            Self::Shutdown(body) => encode_postcard(Kind::Shutdown, body, buffer),
        }
    }

    /// Reads the body of a frame whose header said `kind`.
    ///
    /// # Errors
    /// A frame of the guest's, a malformed body, or a field over its limit.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Self, FrameError> {
        let frame = match kind {
            Kind::Configure => Self::Configure(decode_postcard(kind, body)?),
            Kind::Invoke => Self::Invoke(decode_postcard(kind, body)?),
            Kind::Payload => Self::Payload(body),
            Kind::Reset => Self::Reset(decode_postcard(kind, body)?),
            Kind::Shutdown => Self::Shutdown(decode_postcard(kind, body)?),
            Kind::Hello
            | Kind::Phase
            | Kind::Ready
            | Kind::ResponseStart
            | Kind::ResponsePayload
            | Kind::ResponseEnd
            | Kind::RuntimeError
            | Kind::Done
            | Kind::RuntimeExited
            | Kind::Log
            | Kind::Fault
            | Kind::Extension
            | Kind::ExtensionExited
            | Kind::Subscription
            | Kind::Down => return Err(FrameError::WrongSide { kind }),
        };
        frame.check()?;
        Ok(frame)
    }

    fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::Configure(body) => body.check(),
            Self::Invoke(body) => body.check(),
            Self::Payload(_) | Self::Reset(_) | Self::Shutdown(_) => Ok(()),
        }
    }
}

impl Configure<'_> {
    /// Whether the function is a container image: it brings its own root, and says itself how it is run.
    #[must_use]
    pub fn is_container_image(&self) -> bool {
        !self.arguments.as_bytes().is_empty()
    }

    fn check(&self) -> Result<(), FrameError> {
        let texts = [
            self.account_id,
            self.function_name,
            self.function_version,
            self.handler,
            self.runtime,
            self.region,
            self.log_group,
            self.log_stream,
            self.working_directory,
        ];
        texts.into_iter().try_for_each(|text| check_len(text.len(), STRING_MAX))?;
        self.arguments.check(ARGUMENTS_MAX)?;
        self.environment.check(ENVIRONMENT_MAX)?;
        self.credentials.check(ENVIRONMENT_MAX)
    }
}

impl Invoke<'_> {
    fn check(&self) -> Result<(), FrameError> {
        let texts = [self.function_arn, self.trace_id, self.tenant_id, self.content_type];
        texts.into_iter().try_for_each(|text| check_len(text.len(), STRING_MAX))?;
        check_len(self.client_context.len(), CONTEXT_MAX)?;
        check_len(self.cognito_identity.len(), CONTEXT_MAX)?;
        let max = usize::try_from(REQUEST_PAYLOAD_MAX).unwrap_or(usize::MAX);
        check_len(usize::try_from(self.payload_len).unwrap_or(usize::MAX), max)
    }
}
