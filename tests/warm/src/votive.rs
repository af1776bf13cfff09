//! votive's own path: the client crate, the control channel, `votive-agent`, its VMM and PID 1, an unmodified runtime.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use votive_control::address::Address;
use votive_control::client::{Client, ClientSpec};
use votive_control::tls::Identity;
use votive_control::{keys, v1};
use zip::write::SimpleFileOptions;

use crate::Pair;
use crate::measure::Path;
use crate::peer::{Ended, PATIENCE, PAUSE};

/// The function's memory in MB: one of a size that has a whole processor, as the peers' guests have.
const FUNCTION_MEMORY_MB: u32 = 1769;
/// The most that an invocation, the first one's cold start included, may take.
const INVOCATION_LIMIT: Duration = Duration::from_secs(120);

/// What the path is made of.
#[derive(Clone, Debug)]
pub struct VotiveSpec {
    /// `votive-agent`
    pub agent: PathBuf,
    /// The folder with `vmlinux`, `init.cpio`, the runtimes' images and `bin/votive-vmm`.
    pub images: PathBuf,
    /// Which function.
    pub pair: Pair,
    /// The Rust function's program.
    pub function: PathBuf,
    /// Reserve first and spend the token then, as an orchestrator does that places invocations; else in one call.
    pub two_calls: bool,
}

/// A worker with one function version.
#[derive(Debug)]
pub struct Votive {
    client: Client,
    version: String,
    two_calls: bool,
    _agent: Ended,
    _folder: tempfile::TempDir,
}

impl Votive {
    /// Starts a worker and registers the function.
    ///
    /// # Errors
    /// Something is missing, or the worker does not start.
    pub async fn start(spec: &VotiveSpec) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("warm").tempdir()?;
        let root = folder.path();
        keys::init(&root.join("keys"), &[], 30, SystemTime::now())?;
        let config = root.join("agent.toml");
        let text = format!(
            "worker.id = \"warm\"\nworker.state_dir = \"{0}/state\"\nworker.images = \"{1}\"\n\
             control.unix_socket = \"{0}/s\"\ncontrol.keys = \"{0}/keys/worker\"\n\
             metrics.listen = \"off\"\nhost.posture = \"warn\"\n",
            root.display(),
            spec.images.display()
        );
        fs::write(&config, text)?;
        let log = fs::File::create(root.join("log"))?;
        let mut command = Command::new(&spec.agent);
        command.arg("--config").arg(config).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        let mut agent = Ended::start(command)?;
        let client = connect(root, &mut agent).await?;
        let version = client.register(function(spec, root)?).await?.id;
        Ok(Self { client, version, two_calls: spec.two_calls, _agent: agent, _folder: folder })
    }
}

/// Waits until the agent listens.
async fn connect(root: &FilePath, agent: &mut Ended) -> anyhow::Result<Client> {
    let address = Address::Unix { path: root.join("s") };
    let spec = ClientSpec { address, server_name: None };
    let identity = Identity::read(&root.join("keys/orchestrator"))?;
    let begun = std::time::Instant::now();
    loop {
        match Client::connect(&spec, &identity).await {
            Ok(client) => return Ok(client),
            Err(error) if agent.is_over()? || begun.elapsed() > PATIENCE => {
                let log = fs::read_to_string(root.join("log")).unwrap_or_default();
                bail!("{error}; the agent's log:\n{log}");
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn function(
    spec: &VotiveSpec,
    root: &FilePath,
) -> anyhow::Result<v1::RegisterFunctionVersionRequest> {
    let (runtime, handler, entry, mode, code) = match spec.pair {
        Pair::Python => {
            let code = include_bytes!("../guest/echo.py").to_vec();
            ("python3.11", "echo.handler", "echo.py", 0o644, code)
        }
        Pair::Rust => {
            let code = fs::read(&spec.function).context("the function's program")?;
            ("provided", "bootstrap", "bootstrap", 0o755, code)
        }
    };
    let path = root.join("function.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(&path)?);
    zip.start_file(entry, SimpleFileOptions::default().unix_permissions(mode))?;
    zip.write_all(&code)?;
    zip.finish()?;
    let zip_path = path.to_str().context("a folder whose name is text")?.to_owned();
    let code = v1::Code { source: Some(v1::code::Source::ZipPath(zip_path)) };
    Ok(v1::RegisterFunctionVersionRequest {
        account: String::from("123456789012"),
        function_name: String::from("echo"),
        version: String::from("1"),
        runtime: runtime.to_owned(),
        handler: handler.to_owned(),
        memory_mb: FUNCTION_MEMORY_MB,
        timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        code: Some(code),
        ..Default::default()
    })
}

impl Path for Votive {
    async fn invoke(&mut self, event: &[u8]) -> anyhow::Result<Vec<u8>> {
        let invocation_id = uuid::Uuid::new_v4().to_string();
        let token = match self.two_calls {
            true => self.client.reserve(&self.version, &invocation_id).await?.token,
            false => String::new(),
        };
        let start = v1::InvokeStart {
            token,
            reserve: !self.two_calls,
            invocation_id,
            function_version_id: self.version.clone(),
            content_type: String::from("application/json"),
            ..Default::default()
        };
        let payload = Bytes::copy_from_slice(event);
        let answer = self.client.invoke(start, payload, INVOCATION_LIMIT).await?;
        let outcome = answer.collect(1 << 20).await?;
        ensure!(outcome.head.function_error.is_empty(), "the function failed: {:?}", outcome.end);
        Ok(outcome.payload.to_vec())
    }
}
