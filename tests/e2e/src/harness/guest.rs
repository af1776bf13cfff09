//! A microVM whose PID 1 talks to the test itself: no agent in between, and disks of the test's own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use votive_agent::clock::BootTime;
use votive_agent::event::GuestEvent;
use votive_agent::link::{FrameReader, RUNTIME_GID, RUNTIME_UID};
use votive_agent::microvm::{
    DeviceLimits, Disk, KernelMemory, Microvm, MicrovmControl, MicrovmEnd, MicrovmSpec, Spawned,
};
use votive_agent::scratch;
use votive_protocol::limits::MOUNTS_MAX;
use votive_protocol::{
    BODY_MAX, ByteList, Configure, FaultCode, FileSystem, HEADER_LEN, HostFrame,
    InitializationType, InvocationId, Invoke, Mount, MountTarget,
};

/// Longer than anything here may take on a crowded host that emulates its processor. The VMM ends itself then.
const LIMIT: Duration = Duration::from_secs(300);
/// What a function has for `/tmp`.
const SCRATCH_BYTES: u64 = 512 << 20;
/// Frames that may come before the one that is waited for: phases and lines of a log.
const FRAMES_MAX: usize = 10_000;

/// How a container image is run, as PID 1 is told.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// ENTRYPOINT and CMD.
    pub arguments: Vec<String>,
    /// ENV, as `NAME=VALUE`.
    pub environment: Vec<String>,
    /// WORKDIR.
    pub working_directory: String,
}

/// A microVM with a container image's root. It ends when this is dropped.
#[derive(Debug)]
pub struct Guest {
    frames: FrameReader<OwnedReadHalf>,
    link: OwnedWriteHalf,
    kill: Arc<Notify>,
    end: JoinHandle<MicrovmEnd>,
    /// What was logged.
    pub log: String,
    _control: MicrovmControl,
}

/// How a start ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// The runtime asked for its first invocation.
    Ready,
    /// PID 1 cannot go on: what it was doing, the system's error number, and which path or call.
    Fault(FaultCode, u16, String),
}

impl Guest {
    /// Starts a microVM of the programs in `images`, a root and a disk for `/tmp`; tells PID 1 how the root is run.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(images: &Path, root: Disk, run: &Run) -> Result<Guest> {
        let scratch = scratch::create(SCRATCH_BYTES)?;
        let Spawned { microvm, link, control, .. } = Microvm::spawn(MicrovmSpec {
            vmm: images.join("bin/votive-vmm"),
            kernel: images.join("vmlinux"),
            initrd: images.join("init.cpio"),
            vcpus: 1,
            memory_mib: 1024,
            disks: vec![root, scratch],
            tap: None,
            limits: DeviceLimits::default(),
            console: None,
            kernel_memory: KernelMemory::default(),
            deadline: Some(BootTime::now() + LIMIT),
            cgroup: None,
            jail: None,
            shell: None,
        })
        .await?;
        let kill = Arc::new(Notify::new());
        let end = tokio::spawn(microvm.wait(Arc::clone(&kill)));
        let (reader, link) = link.into_split();
        let frames = FrameReader::new(reader);
        let mut guest = Guest { frames, link, kill, end, log: String::new(), _control: control };
        let (arguments, environment) = (list(&run.arguments), list(&run.environment));
        let mut mounts = [None; MOUNTS_MAX];
        let disk = |device, target, file_system| Some(Mount { device, target, file_system });
        mounts[0] = disk(0, MountTarget::Root, FileSystem::Erofs);
        mounts[1] = disk(1, MountTarget::Tmp, FileSystem::Ext4);
        let configure = HostFrame::Configure(Configure {
            realtime_ns: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?,
            memory_bytes: 768 << 20,
            uid: RUNTIME_UID,
            gid: RUNTIME_GID,
            mounts,
            network: None,
            initialization: InitializationType::OnDemand,
            account_id: "",
            function_name: "image",
            function_version: "$LATEST",
            handler: "",
            runtime: "",
            region: "us-east-1",
            log_group: "/aws/lambda/image",
            log_stream: "stream",
            working_directory: &run.working_directory,
            arguments: ByteList::new(&arguments)?,
            environment: ByteList::new(&environment)?,
            credentials: ByteList::default(),
        });
        guest.send(&configure).await?;
        Ok(guest)
    }

    async fn send(&mut self, frame: &HostFrame<'_>) -> Result<()> {
        let mut buffer = vec![0; HEADER_LEN + BODY_MAX];
        let len = frame.encode(&mut buffer)?;
        Ok(self.link.write_all(&buffer[..len]).await?)
    }

    /// The next frame that is no line of a log.
    async fn frame(&mut self) -> Result<GuestEvent> {
        for _ in 0..FRAMES_MAX {
            let frame = timeout(LIMIT, self.frames.next()).await.context("no frame")??;
            match frame {
                Some(GuestEvent::Log(_, text)) => self.log += &String::from_utf8_lossy(&text),
                Some(frame) => return Ok(frame),
                None => bail!("the guest is gone; it logged {}", self.log),
            }
        }
        bail!("the guest logs and logs")
    }

    /// Waits until the function's init phase is over, or PID 1 has given up.
    ///
    /// # Errors
    /// Something else came of it.
    pub async fn started(&mut self) -> Result<Started> {
        loop {
            match self.frame().await? {
                GuestEvent::Ready(_) => return Ok(Started::Ready),
                GuestEvent::Fault { code, errno, detail } => {
                    return Ok(Started::Fault(code, errno, detail));
                }
                GuestEvent::Hello(_) | GuestEvent::Phase(_) => {}
                other => bail!("{other:?} in the init phase; the log: {}", self.log),
            }
        }
    }

    /// Invokes the function; gives its answer.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn invoke(&mut self, event: &[u8]) -> Result<Vec<u8>> {
        ensure!(event.len() <= BODY_MAX, "one frame holds no more");
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH)? + LIMIT;
        let invoke = HostFrame::Invoke(Invoke {
            id: InvocationId([7; 16]),
            realtime_ns: 0,
            deadline_ms: u64::try_from(deadline.as_millis())?,
            payload_len: event.len() as u64,
            function_arn: "arn:aws:lambda:us-east-1:012345678912:function:image",
            trace_id: "",
            client_context: "",
            cognito_identity: "",
            tenant_id: "",
            content_type: "",
        });
        self.send(&invoke).await?;
        self.send(&HostFrame::Payload(event)).await?;
        let mut answer = Vec::new();
        loop {
            match self.frame().await? {
                GuestEvent::ResponsePayload(bytes) => answer.extend(bytes),
                GuestEvent::Done(_) => return Ok(answer),
                GuestEvent::ResponseStart { .. } | GuestEvent::ResponseEnd { .. } => {}
                other => bail!("{other:?} for an answer; the log: {}", self.log),
            }
        }
    }

    /// Waits until the microVM has ended by itself, as it does behind a fault.
    ///
    /// # Errors
    /// It does not.
    pub async fn ended(&mut self) -> Result<MicrovmEnd> {
        Ok(timeout(LIMIT, &mut self.end).await.context("the microVM does not end")??)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill.notify_one();
    }
}

/// Each ended by a NUL.
fn list(items: &[String]) -> Vec<u8> {
    items.iter().flat_map(|item| [item.as_bytes(), b"\0"]).flatten().copied().collect()
}
