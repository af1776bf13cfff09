//! Function versions whose code is an artifact, with a real store, key service and cache, and a VMM that is a script.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use votive_artifact::cache::{CACHE_BYTES_MIN, Cache};
use votive_artifact::chunk::CHUNK_BYTES;
use votive_artifact::digest::Digest;
use votive_artifact::fetch::Loader;
use votive_artifact::gate::Gate;
use votive_artifact::grant::{Issuer, Verifier};
use votive_artifact::keys::Embedded;
use votive_artifact::seal::Method;
use votive_artifact::store::Store as ArtifactStore;
use votive_artifact::store::upload::{UploadSpec, Uploader};

use super::*;
use crate::artifacts::{Artifacts, OwnGrants, Settings};
use crate::environment::new_invocation_id;
use crate::report::LogFormat;
use crate::worker::api::{
    AnswerPart, EnvironmentId, Initialization, InvokeRequest, Release, ReleaseOutcome,
};
use crate::worker::config::WorkerConfig;
use crate::worker::{self, Clock};

/// How long anything may take on a busy machine before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "key";
/// The VMM: it writes down its arguments, and what its lazy disk's table holds, and goes on until it is killed or let go.
const VMM: &str = r#"#!/bin/sh
folder=${0%/*}
table=
for argument in "$@"; do
  case $argument in *presence=fd:*) table=${argument#*presence=fd:}; table=${table%%,*} ;; esac
done
if [ -n "$table" ]; then
  /usr/bin/od -An -v -tu1 "/proc/self/fd/$table" > "$folder/table"
fi
printf '%s\n' "$@" > "$folder/arguments.new"
/bin/mv "$folder/arguments.new" "$folder/arguments"
exec /bin/sleep 600
"#;

struct Host {
    folder: tempfile::TempDir,
    store: ArtifactStore,
    keys: Arc<Embedded>,
    origin: Origin,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("images")).unwrap();
        for name in ["vmlinux", "init.cpio", "provided.erofs"] {
            fs::write(at("images").join(name), name).unwrap();
        }
        fs::write(at("votive-vmm"), VMM).unwrap();
        fs::set_permissions(at("votive-vmm"), fs::Permissions::from_mode(0o755)).unwrap();
        let keys = Arc::new(Embedded::create(&at("keys")).unwrap());
        keys.create_key(KEY).unwrap();
        let store = ArtifactStore::open(at("store").to_str().unwrap()).unwrap();
        let issuer = Issuer::generate().unwrap();
        let verifier = Verifier::new(vec![issuer.public_key()]);
        let gate = Arc::new(Gate::new(store.clone(), keys.clone(), verifier));
        let cache = Cache::open(&at("cache"), CACHE_BYTES_MIN).unwrap();
        let loader = Loader::new(gate, "w", Some(cache));
        let settings = Settings { memory_bytes: 64 << 20, idle: PATIENCE, read_limit: PATIENCE };
        let granter = Arc::new(OwnGrants::new(issuer, "w"));
        let origin = Origin::new(Artifacts::new(loader, granter, settings), store.clone());
        Host { folder, store, keys, origin }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launcher(&self, origin: Option<Origin>) -> MicrovmLauncher {
        let images = Images::find(Some(&self.at("images")), Some(&self.at("votive-vmm"))).unwrap();
        MicrovmLauncher::new(images, None, 2, &self.at("state"), origin).unwrap()
    }

    /// Seals an image of two chunks with data and one of zeros; gives its manifest.
    async fn seal(&self, identity: &str, config: &[u8]) -> Digest {
        let mut file = tempfile::tempfile().unwrap();
        for byte in [b'a', 0, b'b'] {
            file.write_all(&vec![byte; CHUNK_BYTES]).unwrap();
        }
        let spec = UploadSpec {
            identity: Some(identity.to_owned()),
            key: KEY.to_owned(),
            method: if config.is_empty() { Method::ServiceKey } else { Method::Convergent },
            source: Digest::of(identity.as_bytes()),
            config: config.to_vec(),
        };
        let uploader = Uploader::new(self.store.clone(), self.keys.clone(), KEY).await.unwrap();
        let bytes = 3 * CHUNK_BYTES as u64;
        uploader.upload(&spec, Arc::new(file), bytes, &mut |_| ()).await.unwrap().manifest
    }

    /// What the VMM was started with.
    async fn arguments(&self) -> Vec<String> {
        let read = async {
            loop {
                if let Ok(text) = fs::read_to_string(self.at("arguments")) {
                    return text.lines().map(str::to_owned).collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap()
    }
}

fn spec(code: CodeSource) -> FunctionVersionSpec {
    FunctionVersionSpec {
        account: String::from("123456789012"),
        function_name: String::from("f"),
        version: String::from("1"),
        runtime: String::from("provided"),
        handler: String::from("h"),
        memory_mb: 128,
        timeout: Duration::from_secs(3),
        init_timeout: Duration::from_secs(10),
        environment: BTreeMap::new(),
        code,
        layers: Vec::new(),
        ephemeral_storage_mb: 0,
        concurrency_limit: 0,
        log_format: LogFormat::Text,
    }
}

fn artifact(identity: &str) -> FunctionVersionSpec {
    spec(CodeSource::Artifact(identity.to_owned()))
}

fn order(version: &Version) -> LaunchOrder {
    LaunchOrder {
        environment: EnvironmentId(1),
        initialization: Initialization::OnDemand,
        function: Arc::clone(&version.function),
        images: Arc::clone(&version.images),
        deadline: None,
    }
}

fn refusal(result: Result<Version, RegisterError>) -> (&'static str, String) {
    let error = result.unwrap_err();
    (error.name(), error.to_string())
}

#[tokio::test]
async fn an_artifact_is_launched_with_a_lazy_disk_that_holds_its_zeros_alone() {
    let host = Host::new();
    let manifest = host.seal("arn:f:1", b"").await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let version = launcher.prepare(artifact("arn:f:1")).await.unwrap();
    assert_eq!(version.code_sha256, *manifest.as_bytes());
    let launched = launcher.launch(order(&version)).await.unwrap();
    let targets = launched.mounts.iter().flatten().map(|mount| mount.target);
    let expected = [MountTarget::Root, MountTarget::Task, MountTarget::Tmp];
    assert!(targets.eq(expected));
    let arguments = host.arguments().await;
    let disks: Vec<_> = arguments.iter().filter(|it| it.starts_with("path=")).collect();
    assert_eq!(disks.len(), 3);
    assert_eq!(disks[1], "path=fd:4,readonly,presence=fd:5,requests=fd:6,timeout-ms=65000");
    let table = fs::read_to_string(host.at("table")).unwrap();
    assert_eq!(table.split_whitespace().collect::<Vec<_>>(), ["0", "1", "0"]);
    let stats = host.origin.artifacts().stats();
    assert_eq!((stats.images, stats.disks, stats.fetched.fetched), (1, 1, 0));
    // Nothing of it was packed, and nothing of it is served any longer than its VMM lives.
    assert_eq!(fs::read_dir(host.at("state/images")).unwrap().count(), 0);
    launched.kill.notify_one();
    launched.end.await;
    let gone = async {
        while host.origin.artifacts().stats().disks > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    // Forgetting the version removes no file: there is none.
    launcher.forget(&version.images);
}

#[tokio::test]
async fn a_disabled_key_stops_registrations_and_starts_by_name_until_it_is_enabled() {
    let host = Host::new();
    host.seal("f", b"").await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let version = launcher.prepare(artifact("f")).await.unwrap();
    let running = launcher.launch(order(&version)).await.unwrap();
    host.keys.set_enabled(KEY, false).unwrap();
    let (name, text) = refusal(launcher.prepare(artifact("f")).await);
    assert_eq!(name, "KMSDisabledException", "{text}");
    let error = launcher.launch(order(&version)).await.unwrap_err();
    assert_eq!(error.code, Some("KMSDisabledException"), "{error}");
    host.keys.set_enabled(KEY, true).unwrap();
    launcher.launch(order(&version)).await.unwrap();
    launcher.prepare(artifact("f")).await.unwrap();
    drop(running);
}

#[tokio::test]
async fn what_is_no_artifact_of_the_store_is_refused_by_name() {
    let host = Host::new();
    host.seal("f", b"").await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let invalid = "InvalidParameterValueException";
    let (name, text) = refusal(launcher.prepare(artifact("g")).await);
    assert_eq!((name, &*text), (invalid, "the artifact cannot be used: there is no artifact g"));
    let without = host.launcher(None);
    let (name, text) = refusal(without.prepare(artifact("f")).await);
    assert_eq!(name, invalid);
    assert_eq!(text, "the artifact cannot be used: this worker has no store of artifacts");
    let layered = FunctionVersionSpec {
        layers: vec![CodeSource::Artifact(String::from("f"))],
        ..artifact("f")
    };
    let (name, text) = refusal(launcher.prepare(layered).await);
    assert_eq!(name, "InvalidZipFileException");
    assert!(text.contains("layers are ZIPs"), "{text}");
    // A store that lost the artifact, or has rubbish in its place: no path of the store is told.
    let files = || walk(&host.at("store"));
    for file in files().into_iter().filter(|path| path.to_string_lossy().contains("artifacts")) {
        fs::write(file, b"rubbish").unwrap();
    }
    let (name, text) = refusal(launcher.prepare(artifact("f")).await);
    assert_eq!(name, "ServiceException");
    assert_eq!(text, "the artifact cannot be used: its store or its key service failed");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn a_version_is_its_content_and_a_store_that_changes_it_starts_nothing() {
    let host = Host::new();
    host.seal("f", b"").await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let version = launcher.prepare(artifact("f")).await.unwrap();
    // The same identity comes to name another image: the store is replaced beneath the worker.
    let other = Host::new();
    other.seal("f", b"").await;
    fs::remove_dir_all(host.at("store/roots")).unwrap();
    fs::rename(other.at("store/roots"), host.at("store/roots")).unwrap();
    let error = launcher.launch(order(&version)).await.unwrap_err();
    assert_eq!(error.code, None, "{error}");
    assert_eq!(host.origin.artifacts().stats().disks, 0);
}

#[tokio::test]
async fn the_invoker_is_told_the_name_of_a_key_that_cannot_be_used() {
    let host = Host::new();
    host.seal("f", b"").await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let config = WorkerConfig::new("w", host.at("worker"));
    let (handle, _end) = worker::start(config, launcher, Clock::host()).unwrap();
    let version = handle.register(artifact("f")).await.unwrap();
    host.keys.set_enabled(KEY, false).unwrap();
    let reservation = handle.reserve(version.id, new_invocation_id()).await.unwrap();
    let request = InvokeRequest {
        token: reservation.token,
        invocation: reservation.invocation,
        version: version.id,
        payload: b"{}".to_vec(),
        content_type: String::new(),
        client_context: String::new(),
        cognito_identity: String::new(),
        trace_id: String::new(),
        log_tail: false,
    };
    let mut answer = handle.invoke(request).await.unwrap();
    let (mut payload, mut error, mut release) = (Vec::new(), None, None::<Release>);
    while let Some(part) = tokio::time::timeout(PATIENCE, answer.parts.recv()).await.unwrap() {
        match part {
            AnswerPart::Head { function_error, .. } => assert!(function_error),
            AnswerPart::Bytes(mut bytes) => payload.append(&mut bytes),
            AnswerPart::End { error_type, .. } => error = error_type,
            AnswerPart::Release(it) => release = Some(it),
        }
    }
    assert_eq!(error.as_deref(), Some("KMSDisabledException"));
    let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["errorType"], "KMSDisabledException");
    assert!(payload["errorMessage"].as_str().unwrap().ends_with("is disabled"), "{payload}");
    assert_eq!(release.unwrap().outcome, ReleaseOutcome::Destroyed);
    drop(handle);
}

#[tokio::test]
async fn an_image_file_is_no_lazy_disk() {
    let host = Host::new();
    fs::write(host.at("code.erofs"), b"image").unwrap();
    let launcher = host.launcher(None);
    let code = CodeSource::Image(host.at("code.erofs"));
    let version = launcher.prepare(spec(code)).await.unwrap();
    let launched = launcher.launch(order(&version)).await.unwrap();
    let arguments = host.arguments().await;
    let disks: Vec<_> = arguments.iter().filter(|it| it.starts_with("path=")).collect();
    assert_eq!(disks, ["path=fd:3,readonly", "path=fd:4,readonly", "path=fd:5"]);
    drop(launched);
    drop(File::open(host.at("code.erofs")).unwrap());
}
