//! The key service over AWS KMS's API, against a server that is started for it: moto, from the registry, by its hashes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use object_store::StaticCredentialProvider;
use object_store::aws::AwsCredential;
use serde::Deserialize;
use votive_artifact::chunk::CHUNK_BYTES;
use votive_artifact::digest::Digest;
use votive_artifact::fetch::{FetchError, Loader};
use votive_artifact::gate::Gate;
use votive_artifact::grant::{Grant, Issuer, Operations, Verifier};
use votive_artifact::keys::{AwsKms, Context, KeyError, KeyService, KeysSpec, KmsLimits};
use votive_artifact::seal::Method;
use votive_artifact::store::Store;
use votive_artifact::store::upload::{Stored, UploadSpec, Uploader};
use votive_artifact::store::verify::{find, verify};

const REQUIREMENTS: &str = include_str!("kms-requirements.txt");
const PROGRAM: &str = include_str!("kms-server.py");

/// What the process that reads its credentials from the environment is told.
const SPEC: &str = "VOTIVE_TEST_KMS";

/// What the server says when it listens.
#[derive(Debug, Deserialize)]
struct Place {
    port: u16,
    /// Two keys, by their ARNs; `alias/votive` is the first.
    keys: Vec<String>,
    worker: Access,
    stranger: Access,
}

#[derive(Clone, Debug, Deserialize)]
struct Access {
    id: String,
    secret: String,
}

/// A server; it ends with this, or with this process.
struct Server {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    place: Place,
}

impl Server {
    fn start() -> Server {
        let packages = votive_packages::python("kms-server", REQUIREMENTS).unwrap();
        let mut python = Command::new("python3");
        python.args(["-c", PROGRAM]).env("PYTHONPATH", packages).stderr(Stdio::null());
        let mut process = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let commands = process.stdin.take();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let place = serde_json::from_str(&line).unwrap();
        Server { process, commands, answers, place }
    }

    /// Does something with a key, as its owner does.
    fn order(&mut self, order: &str, key: usize) {
        let key = &self.place.keys[key];
        writeln!(self.commands.as_mut().unwrap(), "{order} {key}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{order}");
    }

    /// How these keys of it are named to votive.
    fn spec(&self, keys: &[&str]) -> String {
        let (port, keys) = (self.place.port, keys.join(","));
        format!("awskms://127.0.0.1:{port}/{keys}?region=eu-west-1&scheme=http")
    }

    fn kms(&self, keys: &[&str], access: &Access) -> Arc<AwsKms> {
        let KeysSpec::AwsKms(spec) = KeysSpec::parse(&self.spec(keys)).unwrap() else {
            unreachable!("it is a KMS")
        };
        let (key_id, secret_key) = (access.id.clone(), access.secret.clone());
        let credential = AwsCredential { key_id, secret_key, token: None };
        let credentials = Arc::new(StaticCredentialProvider::new(credential));
        // A crowded machine has time: what is tried here is what is answered.
        let limits = KmsLimits {
            attempt: Duration::from_secs(60),
            call: Duration::from_secs(120),
            ..KmsLimits::default()
        };
        Arc::new(AwsKms::open(spec).unwrap().with_credentials(credentials).with_limits(limits))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its standard input is its end.
        drop(self.commands.take());
        let _ = self.process.wait();
    }
}

fn context(value: &str) -> Context {
    [("votive:artifact".to_owned(), value.to_owned())].into()
}

fn chunk(number: u8) -> Vec<u8> {
    vec![number; CHUNK_BYTES]
}

async fn upload(store: &Store, keys: &Arc<AwsKms>, source: &str, method: Method) -> Stored {
    let key = keys.default_key().to_owned();
    let uploader = Uploader::new(store.clone(), keys.clone(), &key).await.unwrap();
    let spec = UploadSpec {
        identity: None,
        key,
        method,
        source: Digest::of(source.as_bytes()),
        config: vec![],
    };
    let mut image = tempfile::tempfile().unwrap();
    [1, 2, 3].iter().for_each(|number| image.write_all(&chunk(*number)).unwrap());
    let image: Arc<File> = Arc::new(image);
    uploader.upload(&spec, image, 3 * CHUNK_BYTES as u64, &mut |_| ()).await.unwrap()
}

/// What a worker loads with: a loader, and a grant for the artifact.
fn worker(store: &Store, keys: &Arc<AwsKms>, stored: &Stored) -> (Loader, Vec<u8>) {
    let issuer = Issuer::generate().unwrap();
    let verifier = Verifier::new(vec![issuer.public_key()]);
    let gate = Gate::new(store.clone(), keys.clone(), verifier);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let grant = Grant {
        worker: "worker".to_owned(),
        identity: stored.identity.clone(),
        manifest: stored.manifest,
        root: stored.root,
        not_before_s: now,
        expires_s: now + 600,
        operations: Operations::LOAD,
    };
    (Loader::new(Arc::new(gate), "worker", None), issuer.sign(&grant).unwrap())
}

fn open_store(folder: &Path) -> Store {
    Store::open(folder.to_str().unwrap()).unwrap()
}

async fn started() -> Server {
    tokio::task::spawn_blocking(Server::start).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_sealed_and_opened_with_a_key_in_kms() {
    let mut server = started().await;
    let keys = server.kms(&["alias/votive"], &server.place.worker);
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    for (source, method) in [("zip", Method::ServiceKey), ("oci", Method::Convergent)] {
        let stored = upload(&store, &keys, source, method).await;
        let found = find(&store, &stored.identity).await.unwrap();
        assert_eq!(found.artifact.key, "alias/votive");
        let verified = verify(&store, &found, Some(&*keys), &mut |_| ()).await.unwrap();
        assert_eq!((verified.missing, verified.damaged), (vec![], vec![]), "{source}");
    }
    let stored = upload(&store, &keys, "oci", Method::Convergent).await;
    assert_eq!(stored.stored_bytes, 0);
    let (loader, grant) = worker(&store, &keys, &stored);
    let running = Arc::new(loader.open(&grant).await.unwrap());
    let limit = Duration::from_secs(60);
    assert_eq!(loader.chunk(&running, 0, vec![], limit).await.unwrap(), chunk(1));

    // A disabled key starts nothing new; what runs goes on.
    let refused = async |expected: &str| {
        let error = loader.open(&grant).await.map(drop).unwrap_err();
        assert_eq!(FetchError::code(&error), expected, "{error}");
    };
    server.order("disable", 0);
    refused("KMSDisabledException").await;
    assert_eq!(loader.chunk(&running, 1, vec![], limit).await.unwrap(), chunk(2));
    let state = keys.describe("alias/votive").await.unwrap();
    assert_eq!((state.enabled, state.state.as_str()), (false, "Disabled"));
    assert_eq!(state.arn, server.place.keys[0]);
    server.order("enable", 0);
    loader.open(&grant).await.unwrap();
    server.order("delete", 0);
    refused("KMSInvalidStateException").await;
    server.order("forget", 0);
    refused("KMSNotFoundException").await;
    assert_eq!(loader.chunk(&running, 2, vec![], limit).await.unwrap(), chunk(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_key_is_unwrapped_for_its_key_and_context_only() {
    let server = started().await;
    let [first, second] = server.place.keys.as_slice() else { unreachable!("it has two keys") };
    let keys = server.kms(&[first, second], &server.place.worker);
    assert_eq!(keys.default_key(), first);
    let data_key = keys.generate(first, &context("a")).await.unwrap();
    let other = keys.generate(first, &context("a")).await.unwrap();
    assert_ne!(data_key.plain.expose(), other.plain.expose());
    assert!(!data_key.wrapped.windows(32).any(|window| window == data_key.plain.expose()));
    let plain = keys.unwrap(first, &data_key.wrapped, &context("a")).await.unwrap();
    assert_eq!(plain.expose(), data_key.plain.expose());
    for wrong in [context("b"), context(""), Context::new()] {
        let refused = keys.unwrap(first, &data_key.wrapped, &wrong).await.unwrap_err();
        assert!(matches!(refused, KeyError::InvalidCiphertext { .. }), "{refused}");
    }
    let mut wrapped = data_key.wrapped.clone();
    // The last bytes are the ciphertext; each bit of it counts.
    for bit in 0..64 {
        let at = wrapped.len() - 1 - bit / 8;
        wrapped[at] ^= 1 << (bit % 8);
        let refused = keys.unwrap(first, &wrapped, &context("a")).await.unwrap_err();
        assert!(matches!(refused, KeyError::InvalidCiphertext { .. }), "bit {bit}: {refused}");
        wrapped[at] ^= 1 << (bit % 8);
    }
    let refused = keys.unwrap(second, &data_key.wrapped, &context("a")).await.unwrap_err();
    assert!(refused.code().starts_with("KMS"), "{refused}");
    // A key that exists and may be used, but that the service was not set up with.
    let narrow = server.kms(&[second], &server.place.worker);
    let refused = narrow.unwrap(first, &data_key.wrapped, &context("a")).await.unwrap_err();
    assert_eq!(refused.code(), "KMSAccessDeniedException");
    let nobody = server.kms(&["alias/nothing"], &server.place.worker);
    let refused = nobody.generate("alias/nothing", &context("a")).await.unwrap_err();
    assert_eq!(refused.code(), "KMSNotFoundException");
}

/// What the other tests start, with credentials in its environment: it does nothing unless it was started for that.
#[tokio::test]
async fn a_process_with_credentials_in_its_environment() {
    let Ok(spec) = std::env::var(SPEC) else { return };
    let keys = votive_artifact::keys::open(&spec).unwrap();
    let outcome = match keys.generate(keys.default_key(), &context("a")).await {
        Ok(data_key) => {
            let wrapped = &data_key.wrapped;
            let plain = keys.unwrap(keys.default_key(), wrapped, &context("a")).await.unwrap();
            assert_eq!(plain.expose(), data_key.plain.expose());
            "granted"
        }
        Err(error) => error.code(),
    };
    println!("\noutcome {outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_counts_by_its_signature_and_its_user() {
    let server = started().await;
    let outcome = |access: &Access| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_process_with_credentials_in_its_environment", "--nocapture"]);
        child.env(SPEC, server.spec(&["alias/votive"]));
        child.env("AWS_ACCESS_KEY_ID", &access.id).env("AWS_SECRET_ACCESS_KEY", &access.secret);
        let output = child.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains(&access.secret), "{text}");
        let outcome = text.lines().find_map(|line| line.strip_prefix("outcome "));
        outcome.unwrap_or_else(|| unreachable!("{text}")).to_owned()
    };
    let place = &server.place;
    assert_eq!(outcome(&place.worker), "granted");
    assert_eq!(outcome(&place.stranger), "KMSAccessDeniedException");
    let forged = Access { id: place.worker.id.clone(), secret: place.stranger.secret.clone() };
    assert_eq!(outcome(&forged), "KMSAccessDeniedException");
    let unknown = Access { id: "AKIAIOSFODNN7EXAMPLE".to_owned(), ..place.worker.clone() };
    assert_eq!(outcome(&unknown), "KMSAccessDeniedException");
}
