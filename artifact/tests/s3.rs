//! The store over S3's protocol, against a server that is started for it: SeaweedFS, from the registry, by its hash.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use votive_artifact::chunk::CHUNK_BYTES;
use votive_artifact::digest::Digest;
use votive_artifact::keys::Embedded;
use votive_artifact::seal::Method;
use votive_artifact::store::upload::{UploadSpec, Uploader};
use votive_artifact::store::verify::{find, verify};
use votive_artifact::store::{Store, StoreError};

const REQUIREMENTS: &str = include_str!("s3-requirements.txt");

/// How long the server may take to be there.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The server's program.
fn program() -> PathBuf {
    votive_packages::python("s3-server", REQUIREMENTS).unwrap().join("bin/weed")
}

/// A server with an empty bucket; it ends with this, or with this process.
struct Server {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        // All of the server's ports: one after the other, so that no two are the same.
        let ports: Vec<TcpListener> =
            (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = ports.iter().map(|port| port.local_addr().unwrap().port()).collect();
        let mut command = Command::new(program());
        command.arg("-logtostderr=true").arg("server").arg("-s3").arg("-ip=127.0.0.1");
        command.arg(format!("-dir={}", folder.path().display()));
        let flags = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        ];
        for (flag, port) in flags.iter().zip(&ports) {
            command.arg(format!("-{flag}={port}"));
        }
        command.arg("-master.volumeSizeLimitMB=64").arg("-volume.max=20");
        let log = File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let process = command.spawn().unwrap();
        let server = Server { process, port: ports[6], _folder: folder };
        server.wait();
        server
    }

    /// Waits until it listens; requests wait for the rest by themselves.
    fn wait(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < START_LIMIT, "the server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks for the bucket until it is there.
    async fn store(&self, bucket: &str) -> Store {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let start = Instant::now();
        loop {
            let mut curl = Command::new("python3");
            let put =
                "import sys, urllib.request as r; r.urlopen(r.Request(sys.argv[1], method='PUT'))";
            let made = curl.args(["-c", put]).arg(format!("{endpoint}/{bucket}")).output().unwrap();
            if made.status.success() {
                break;
            }
            assert!(start.elapsed() < START_LIMIT, "{}", String::from_utf8_lossy(&made.stderr));
        }
        let objects = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(bucket)
            .with_access_key_id("any")
            .with_secret_access_key("any")
            .build()
            .unwrap();
        Store::new(Arc::new(objects), "prefix".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn image(chunks: &[u8]) -> (Arc<File>, u64) {
    let mut file = tempfile::tempfile().unwrap();
    chunks.iter().for_each(|number| file.write_all(&vec![*number; CHUNK_BYTES]).unwrap());
    (Arc::new(file), (chunks.len() * CHUNK_BYTES) as u64)
}

fn keys(folder: &Path) -> Arc<Embedded> {
    let keys = Embedded::create(folder).unwrap();
    keys.create_key("key").unwrap();
    Arc::new(keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_live_in_a_real_s3_server() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let store = server.store("artifacts").await;
    // What everything rests on: an object that is there is not replaced.
    let path = object_store::path::Path::from("prefix/probe");
    assert!(store.put_new(&path, Bytes::from_static(b"first")).await.unwrap());
    assert!(!store.put_new(&path, Bytes::from_static(b"second")).await.unwrap());
    assert_eq!(store.get(&path, 100).await.unwrap(), "first");
    assert!(matches!(store.get(&path, 3).await, Err(StoreError::TooLarge { .. })));
    let nothing = object_store::path::Path::from("prefix/nothing");
    assert!(!store.exists(&nothing).await.unwrap());
    assert!(matches!(store.get(&nothing, 3).await, Err(StoreError::NotFound { .. })));

    let folder = tempfile::tempdir().unwrap();
    let keys = keys(&folder.path().join("keys"));
    let spec = |source: &str, method| UploadSpec {
        identity: None,
        key: "key".to_owned(),
        method,
        source: Digest::of(source.as_bytes()),
        config: vec![],
    };
    let uploader = Uploader::new(store.clone(), keys.clone(), "key").await.unwrap();
    for (source, method, chunks, new) in [
        ("base", Method::Convergent, &[1, 2, 0, 3][..], 3),
        ("derived", Method::Convergent, &[1, 2, 0, 3, 4], 1),
        ("zip", Method::ServiceKey, &[1, 2], 2),
    ] {
        let (file, bytes) = image(chunks);
        let spec = spec(source, method);
        let first = uploader.upload(&spec, file.clone(), bytes, &mut |_| ()).await.unwrap();
        assert_eq!(first.new_chunks, new, "{source}");
        let second = uploader.upload(&spec, file, bytes, &mut |_| ()).await.unwrap();
        assert_eq!((second.new_chunks, second.stored_bytes), (0, 0), "{source}");
        let found = find(&store, &first.identity).await.unwrap();
        let verified = verify(&store, &found, Some(&*keys), &mut |_| ()).await.unwrap();
        assert_eq!((verified.missing, verified.damaged), (vec![], vec![]), "{source}");
    }
}
