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
use votive_artifact::oci::ContainerConfig;
use votive_artifact::seal::Method;
use votive_artifact::store::Store as ArtifactStore;
use votive_artifact::store::upload::{UploadSpec, Uploader};

use super::*;
use crate::artifacts::{Artifacts, Granter, Lists, OwnGrants, Settings};
use crate::environment::new_invocation_id;
use crate::function::ImageConfig;
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
        let loader = Loader::new(Arc::clone(&gate), "w", Some(cache));
        let settings = Settings { memory_bytes: 64 << 20, idle: PATIENCE, read_limit: PATIENCE };
        let granter: Arc<dyn Granter> = Arc::new(OwnGrants::new(issuer, "w"));
        let lists = Lists::new(gate, Arc::clone(&granter), "w");
        let artifacts = Artifacts::new(loader, granter, settings);
        let origin = Origin::new(artifacts, store.clone(), lists);
        Host { folder, store, keys, origin }
    }

    /// What another worker with the same store and keys has of them, and an empty cache.
    fn other_worker(&self) -> Origin {
        let issuer = Issuer::generate().unwrap();
        let verifier = Verifier::new(vec![issuer.public_key()]);
        let gate = Arc::new(Gate::new(self.store.clone(), self.keys.clone(), verifier));
        let loader = Loader::new(Arc::clone(&gate), "other", None);
        let settings = Settings { memory_bytes: 64 << 20, idle: PATIENCE, read_limit: PATIENCE };
        let granter: Arc<dyn Granter> = Arc::new(OwnGrants::new(issuer, "other"));
        let lists = Lists::new(gate, Arc::clone(&granter), "other");
        Origin::new(Artifacts::new(loader, granter, settings), self.store.clone(), lists)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launcher(&self, origin: Option<Origin>) -> MicrovmLauncher {
        let images = Images::find(Some(&self.at("images")), Some(&self.at("votive-vmm"))).unwrap();
        MicrovmLauncher::new(images, HostParts::default(), 2, &self.at("state"), origin).unwrap()
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
        image_config: ImageConfig::default(),
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
    assert_eq!(
        disks[1],
        "path=fd:6,readonly,presence=fd:7,requests=fd:8,reads=fd:9,timeout-ms=65000"
    );
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

fn container(config: ImageConfig) -> FunctionVersionSpec {
    let (runtime, handler) = (String::new(), String::new());
    FunctionVersionSpec { runtime, handler, image_config: config, ..artifact("image") }
}

fn image(command: &str) -> Vec<u8> {
    let config = ContainerConfig {
        entrypoint: vec![String::from("/entry")],
        command: vec![command.to_owned()],
        environment: vec![(String::from("PATH"), String::from("/bin"))],
        working_folder: String::from("/w"),
        user: String::from("root"),
    };
    config.encode()
}

#[tokio::test]
async fn a_container_image_is_its_own_root_and_its_process_is_the_image_s() {
    let host = Host::new();
    host.seal("image", &image("h")).await;
    // No runtime is needed, and none is opened.
    fs::remove_file(host.at("images/provided.erofs")).unwrap();
    let launcher = host.launcher(Some(host.origin.clone()));
    let environment = [(String::from("OWN"), String::from("1"))].into();
    let spec = FunctionVersionSpec { environment, ..container(ImageConfig::default()) };
    let version = launcher.prepare(spec).await.unwrap();
    let launched = launcher.launch(order(&version)).await.unwrap();
    let mounts: Vec<_> = launched.mounts.iter().flatten().copied().collect();
    let root = Mount { device: 0, target: MountTarget::Root, file_system: FileSystem::Erofs };
    let tmp = Mount { device: 1, target: MountTarget::Tmp, file_system: FileSystem::Ext4 };
    assert_eq!(mounts, [root, tmp]);
    let arguments = host.arguments().await;
    let disks: Vec<_> = arguments.iter().filter(|it| it.starts_with("path=")).collect();
    let lazy = "path=fd:5,readonly,presence=fd:6,requests=fd:7,reads=fd:8,timeout-ms=65000";
    assert_eq!(disks, [lazy, "path=fd:9,encrypted,template=fd:10"]);
    let process = launched.container.unwrap();
    assert_eq!(process.arguments(), b"/entry\0h\0");
    assert_eq!(process.working_directory(), "/w");
    assert_eq!(process.environment(), b"PATH=/bin\0OWN=1\0");
    assert!(!format!("{process:?}").contains("OWN"));
}

#[tokio::test]
async fn what_an_image_function_is_made_of_is_its_id() {
    let host = Host::new();
    host.seal("image", &image("h")).await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let of = async |config| launcher.prepare(container(config)).await.unwrap().id();
    let plain = of(ImageConfig::default()).await;
    assert_eq!(plain, of(ImageConfig::default()).await);
    let over = ImageConfig { command: vec![String::from("h")], ..ImageConfig::default() };
    assert_ne!(plain, of(over).await);
    // The same image with another command of its own is other code.
    let other = Host::new();
    other.seal("image", &image("g")).await;
    let launcher = other.launcher(Some(other.origin.clone()));
    let version = launcher.prepare(container(ImageConfig::default())).await.unwrap();
    assert_ne!(plain, version.id());
}

#[tokio::test]
async fn what_does_not_fit_a_container_image_is_refused() {
    let host = Host::new();
    host.seal("image", &image("h")).await;
    host.seal("zips", b"").await;
    host.seal("odd", b"{}").await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let over = ImageConfig { command: vec![String::from("x")], ..ImageConfig::default() };
    let plain = || container(ImageConfig::default());
    let of = |identity: &str| CodeSource::Artifact(identity.to_owned());
    let zip = CodeSource::Zip(host.at("none.zip"));
    let cases = [
        (artifact("image"), "a container image has neither runtime nor handler"),
        (FunctionVersionSpec { code: of("zips"), ..plain() }, "it is made of ZIPs"),
        (FunctionVersionSpec { code: of("odd"), ..plain() }, "is no configuration of"),
        (FunctionVersionSpec { code: zip.clone(), ..plain() }, "runtime \"\""),
        (FunctionVersionSpec { layers: vec![zip.clone()], ..plain() }, "has no layers"),
        (FunctionVersionSpec { image_config: over.clone(), ..spec(zip) }, "for container images"),
        (FunctionVersionSpec { image_config: over, ..artifact("zips") }, "neither runtime nor"),
    ];
    for (spec, expected) in cases {
        let (name, text) = refusal(launcher.prepare(spec).await);
        assert_eq!(name, "InvalidParameterValueException", "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

/// Asks for a chunk as a VMM does.
async fn read(requests: &mut tokio::net::UnixStream, index: u32) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    requests.write_all(&index.to_le_bytes()).await.unwrap();
    let mut answer = [0; 8];
    requests.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[4..], [0; 4], "chunk {index} comes");
}

#[tokio::test]
async fn what_a_start_reads_is_kept_once_and_fetched_ahead_by_the_next_worker() {
    let host = Host::new();
    host.seal("f", b"").await;
    let name = host.origin.resolve("f").await.unwrap().name;
    let lists = || {
        walk(&host.at("store")).into_iter().filter(|it| it.to_string_lossy().contains("/reads/"))
    };
    let attached = host.origin.attach(&name).await.unwrap();
    // Nothing was read: nothing is kept, and a later environment's reads still can be.
    host.origin.keep(name.clone(), attached.reads.clone()).await;
    assert_eq!(lists().count(), 0);
    let requests = attached.disk.lazy.unwrap().requests;
    let socket = std::os::unix::net::UnixStream::from(requests);
    let mut vmm = tokio::net::UnixStream::from_std(socket).unwrap();
    read(&mut vmm, 2).await;
    host.origin.keep(name.clone(), attached.reads.clone()).await;
    let list = lists().next().unwrap();
    let expected = [&b"votiveL\x02\x02\0\0\0"[..], &[0; 16]].concat();
    assert_eq!(fs::read(&list).unwrap(), expected);
    // What is read later changes nothing: there is a list.
    read(&mut vmm, 0).await;
    host.origin.keep(name.clone(), attached.reads).await;
    assert_eq!(fs::read(&list).unwrap().len(), 28);
    // Another worker with the same store fetches it before anything is read.
    let other = host.other_worker();
    assert_eq!(other.artifacts().stats().fetched.fetched, 0);
    let attached = other.attach(&name).await.unwrap();
    let ahead = async {
        while other.artifacts().stats().fetched.fetched == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ahead).await.unwrap();
    assert_eq!(attached.reads.so_far().indices(), [2]);
    // What was fetched ahead is in the store: nobody writes it again.
    assert!(attached.reads.keep_now().is_none());
}

#[tokio::test]
async fn a_list_that_is_none_or_lies_harms_no_start() {
    for rubbish in [&b"rubbish"[..], b"", b"votiveL\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", &[0; 4096]] {
        let host = Host::new();
        host.seal("f", b"").await;
        let name = host.origin.resolve("f").await.unwrap().name;
        let mut attached = host.origin.attach(&name).await.unwrap();
        let requests = attached.disk.lazy.take().unwrap().requests;
        let socket = std::os::unix::net::UnixStream::from(requests);
        let mut vmm = tokio::net::UnixStream::from_std(socket).unwrap();
        read(&mut vmm, 0).await;
        host.origin.keep(name.clone(), attached.reads).await;
        let path = walk(&host.at("store"));
        let path = path.iter().find(|it| it.to_string_lossy().contains("/reads/")).unwrap();
        fs::write(path, rubbish).unwrap();
        let other = host.other_worker();
        let mut attached = other.attach(&name).await.unwrap();
        let requests = attached.disk.lazy.take().unwrap().requests;
        let socket = std::os::unix::net::UnixStream::from(requests);
        let mut vmm = tokio::net::UnixStream::from_std(socket).unwrap();
        read(&mut vmm, 2).await;
        assert_eq!(other.artifacts().stats().fetched.fetched, 1, "{rubbish:?}");
    }
}

#[tokio::test]
async fn the_first_invocation_s_end_has_the_list_written() {
    let host = Host::new();
    host.seal("f", b"").await;
    let launcher = host.launcher(Some(host.origin.clone()));
    let version = launcher.prepare(artifact("f")).await.unwrap();
    let launched = launcher.launch(order(&version)).await.unwrap();
    host.arguments().await;
    // The script reads nothing; somebody else who shares the image does.
    let name = host.origin.resolve("f").await.unwrap().name;
    let mut attached = host.origin.attach(&name).await.unwrap();
    let socket = attached.disk.lazy.take().unwrap().requests;
    let socket = std::os::unix::net::UnixStream::from(socket);
    let mut vmm = tokio::net::UnixStream::from_std(socket).unwrap();
    read(&mut vmm, 0).await;
    launched.first_release.unwrap()();
    let written = async {
        while !walk(&host.at("store")).iter().any(|it| it.to_string_lossy().contains("/reads/")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
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
    let scratch = "path=fd:7,encrypted,template=fd:8";
    assert_eq!(disks, ["path=fd:5,readonly", "path=fd:6,readonly", scratch]);
    drop(launched);
    drop(File::open(host.at("code.erofs")).unwrap());
}

#[tokio::test]
async fn a_store_that_hangs_holds_up_no_function_whose_code_is_here() {
    let host = Host::new();
    host.seal("f", b"").await;
    let launcher = Arc::new(host.launcher(Some(host.origin.clone())));
    let slow = launcher.prepare(artifact("f")).await.unwrap();
    fs::write(host.at("code.erofs"), b"image").unwrap();
    let here = launcher.prepare(spec(CodeSource::Image(host.at("code.erofs")))).await.unwrap();
    // Whoever opens a pipe that nobody writes waits.
    let record = walk(&host.at("store"));
    let record = record.iter().find(|it| it.to_string_lossy().contains("/artifacts/")).unwrap();
    let bytes = fs::read(record).unwrap();
    fs::remove_file(record).unwrap();
    let made = std::process::Command::new("mkfifo").arg(record).status().unwrap();
    assert!(made.success());
    // More of them than may boot at once.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (launcher, order) = (Arc::clone(&launcher), order(&slow));
        waiting.spawn(async move { launcher.launch(order).await.map(drop) });
    }
    let launched = tokio::time::timeout(PATIENCE, launcher.launch(order(&here))).await.unwrap();
    drop(launched.unwrap());
    assert!(waiting.try_join_next().is_none(), "they wait for the store");
    // Those that wait in a thread are let go, and those that come once more find a file.
    let pipe = fs::OpenOptions::new().read(true).write(true).open(record).unwrap();
    fs::write(host.at("record"), bytes).unwrap();
    fs::rename(host.at("record"), record).unwrap();
    drop(pipe);
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
}

#[test]
fn no_environment_has_more_disks_than_a_shell() {
    assert_eq!(mounts(true).iter().flatten().count(), DISKS_MAX as usize);
    assert!(container_mounts().iter().flatten().count() <= DISKS_MAX as usize);
}
