//! Pulls from Debian's docker-registry on this machine.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use super::*;
use crate::erofs::reader::Reader;
use crate::oci::tests::layout::{Blob, LayoutFolder, Tar, two_platforms_and_two_tags};

/// A registry that ends with the test.
struct Registry {
    process: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("storage");
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            root.display()
        );
        fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is in PATH");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ']).next().unwrap().to_owned();
            }
        };
        // It goes on talking, and must not wait for us.
        std::thread::spawn(move || lines.for_each(drop));
        Registry { process, address, _folder: folder }
    }

    /// Pushes an image; returns the digest that its tag leads to.
    fn push(&self, from: &str, name: &str, arguments: &[&str]) -> Digest {
        let to = format!("docker://{}/{name}:tag", self.address);
        let folder = tempfile::tempdir().unwrap();
        let digest = folder.path().join("digest");
        let output = Command::new(SKOPEO)
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .args(arguments)
            .arg("--digestfile")
            .arg(&digest)
            .args([from, &to])
            .output()
            .expect("skopeo is in PATH");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(digest).unwrap().strip_prefix("sha256:").unwrap().parse().unwrap()
    }

    fn pull(&self, name: &str, digest: &Digest) -> Result<PulledImage, PullError> {
        let reference = format!("{}/{name}@sha256:{digest}", self.address);
        let spec = PullSpec { plain_http: true, ..PullSpec::default() };
        pull(&reference, &spec, &std::env::temp_dir(), &Limits::CONTAINER_IMAGE)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn image_bytes(source: &OciSource) -> Vec<u8> {
    let image = crate::oci::image(source, &std::env::temp_dir(), &Limits::CONTAINER_IMAGE).unwrap();
    Reader::open(&image.file).bytes_of_image()
}

fn layout() -> LayoutFolder {
    let lower = Tar::new().folder("d").file("d/a", &[7; 100_000]).file("gone", b"");
    let upper = Tar::new().file(".wh.gone", b"").file("d/b", b"b");
    let layout = LayoutFolder::new([lower, upper].map(|tar| Blob::gzip(tar.bytes())));
    layout.tag("tag");
    layout
}

#[test]
fn an_image_is_pulled_by_its_digest_and_stays_when_the_registry_is_gone() {
    let registry = Registry::start();
    let layout = layout();
    let from = format!("oci:{}:tag", layout.path().display());
    let expect = image_bytes(&layout.source());
    let digest = registry.push(&from, "some/name", &[]);
    let pulled = registry.pull("some/name", &digest).unwrap();
    // Docker's own format of the same image has another manifest.
    let docker = registry.push(&from, "docker", &["--format", "v2s2"]);
    assert_ne!(docker, digest);
    let pulled_docker = registry.pull("docker", &docker).unwrap();
    let manifest =
        crate::oci::image(pulled_docker.source(), &std::env::temp_dir(), &Limits::CONTAINER_IMAGE);
    assert_eq!(manifest.unwrap().manifest, docker);
    drop(registry);
    assert!(image_bytes(pulled.source()) == expect, "the image differs");
    assert!(image_bytes(pulled_docker.source()) == expect, "Docker's differs");
    let path = pulled.source().path().to_owned();
    drop(pulled);
    assert!(!path.exists());
}

#[test]
fn an_index_of_platforms_is_pulled_for_ours_alone() {
    let registry = Registry::start();
    let layout = two_platforms_and_two_tags();
    let from = format!("oci:{}:many", layout.path().display());
    let digest = registry.push(&from, "many", &["--all"]);
    let pulled = registry.pull("many", &digest).unwrap();
    assert!(image_bytes(pulled.source()) == image_bytes(&layout.source().with_reference("many")));
    let blobs = fs::read_dir(pulled.source().path().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 3, "manifest, configuration and layer of one platform");
}

#[test]
fn what_a_registry_does_not_have_or_may_not_send_is_refused() {
    let registry = Registry::start();
    let layout = layout();
    let digest = registry.push(&format!("oci:{}:tag", layout.path().display()), "name", &[]);
    let error = registry.pull("name", &Digest::of(b"")).unwrap_err();
    assert!(matches!(&error, PullError::Failed { .. }), "{error}");
    let error = registry.pull("other", &digest).unwrap_err();
    assert!(matches!(&error, PullError::Failed { .. }), "{error}");
    let reference = format!("{}/name@sha256:{digest}", registry.address);
    let spec = PullSpec { plain_http: true, ..PullSpec::default() };
    let limits = Limits { zipped_bytes: 100, ..Limits::CONTAINER_IMAGE };
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&reference, &spec, folder.path(), &limits).unwrap_err();
    assert!(matches!(&error, PullError::Refused(OciError::TooBig { .. })), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays");
    // A registry without TLS is not talked to unless that was asked for.
    let error = pull(&reference, &PullSpec::default(), folder.path(), &limits).unwrap_err();
    assert!(matches!(&error, PullError::Failed { .. }), "{error}");
}

#[test]
fn only_references_that_name_one_image_for_ever_are_taken() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for bad in [
        "host/name:tag".to_owned(),
        format!("name@{digest}"),
        format!("--option/x@{digest}"),
        format!("host/na me@{digest}"),
        format!("host/name;x@{digest}"),
        format!("/name@{digest}"),
        format!("host/name@{}", digest.replace("256", "512")),
        format!("host/name@{digest}0"),
        format!("{}/name@{digest}", "h".repeat(600)),
    ] {
        assert!(parse_reference(&bad).is_err(), "{bad}");
    }
    for good in ["127.0.0.1:5000/a/b", "host.example/name:tag", "[::1]:5000/name"] {
        assert_eq!(parse_reference(&format!("{good}@{digest}")).unwrap().0, good);
    }
}
