//! A container image of 1 GiB: an interpreter, a shelf of scientific packages and a function, as Debian and pip lay them out.
//!
//! It is an OCI image layout of three layers. The same packages, wheels and function give the same bytes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cache::{self, Cache, Key};
use crate::debian::{self, Package};
use crate::progress::Progress;
use crate::rootfs::python;
use crate::rootfs::tree::{MERGED, unpack_merged};
use crate::subprocess;
use crate::workspace;

/// Changes when the way of building changes other than in what is named here.
const REVISION: u32 = 2;
/// The first layer, with all that it needs.
const BASE: [&str; 2] = ["ca-certificates", "python3"];
/// The second layer.
const SHELF: [&str; 8] = [
    "python3-matplotlib",
    "python3-networkx",
    "python3-numpy",
    "python3-pandas",
    "python3-scipy",
    "python3-sklearn",
    "python3-statsmodels",
    "python3-sympy",
];
/// Where Debian keeps libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Names that Debian's installation would choose a provider for: the one that it prefers of those that are there.
const ALTERNATIVES: [(&str, &str); 3] = [
    ("libblas.so.3", "openblas-pthread/libblas.so.3"),
    ("liblapack.so.3", "openblas-pthread/liblapack.so.3"),
    ("libopenblas.so.0", "openblas-pthread/libopenblas.so.0"),
];
/// Where the function is.
const TASK: &str = "var/task";

/// The layout's folder; it is built unless the cache holds it.
pub(super) fn layout(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let root = workspace::root()?;
    let requirements = root.join("rootfs/python3.11/requirements.txt");
    let function = root.join("tests/start/guest/app.py");
    let base = debian::resolve(&BASE)?;
    let wanted: Vec<&str> = BASE.into_iter().chain(SHELF).collect();
    let mut shelf = debian::resolve(&wanted)?;
    shelf.retain(|package| !base.contains(package));
    let key = Key::new("container-image", REVISION)
        .text("base", &debian::listing(&base))
        .text("shelf", &debian::listing(&shelf))
        .file("requirements", &requirements)?
        .file("function", &function)?;
    cache.entry(key, |into| {
        let step = progress.step("building a container image of 1 GiB (minutes, once)");
        let scratch = cache.scratch()?;
        let builder = Builder { cache, progress, work: scratch.path(), into };
        let layers = builder.layers(&base, &shelf, &requirements, &function)?;
        builder.documents(&layers)?;
        let bytes: u64 = layers.iter().map(|layer| layer.bytes).sum();
        step.done(&format!("{} MB", bytes / 1_000_000));
        Ok(())
    })
}

/// One layer, as the documents name it.
struct Layer {
    digest: String,
    bytes: u64,
}

struct Builder<'a> {
    cache: &'a Cache,
    progress: &'a Progress,
    /// An empty folder for trees.
    work: &'a Path,
    /// The layout.
    into: &'a Path,
}

impl Builder<'_> {
    fn layers(
        &self,
        base: &[Package],
        shelf: &[Package],
        requirements: &Path,
        function: &Path,
    ) -> Result<[Layer; 3]> {
        let first = self.tree("base", base)?;
        self.compile(&first, &first)?;
        let second = self.tree("shelf", shelf)?;
        for (name, target) in ALTERNATIVES {
            let link = second.join(LIBRARIES).join(name);
            ensure!(link.with_file_name(target).exists(), "no package brings {target}");
            symlink(target, link)?;
        }
        self.compile(&first, &second)?;
        for name in MERGED {
            // The layer below has them.
            fs::remove_file(second.join(name))?;
        }
        let third = self.work.join("function");
        let task = third.join(TASK);
        for wheel in python::download(self.cache, requirements, "cp311")? {
            python::unpack(&wheel, &task)?;
        }
        fs::copy(function, task.join("app.py"))?;
        self.compile(&first, &third)?;
        Ok([self.pack(&first)?, self.pack(&second)?, self.pack(&third)?])
    }

    /// A tree with packages unpacked.
    fn tree(&self, name: &str, packages: &[Package]) -> Result<PathBuf> {
        let tree = self.work.join(name);
        let debs = debian::download(self.cache, self.progress, packages)?;
        unpack_merged(&debs, &tree)?;
        Ok(tree)
    }

    /// Compiles a tree's modules with the interpreter of `base`, as packages do when they are installed. All times are zero, in
    /// the tree as in the compiled files.
    fn compile(&self, base: &Path, tree: &Path) -> Result<()> {
        let mut touch = Command::new("find");
        touch.arg(tree).args(["-exec", "touch", "--no-dereference", "--date=@0", "{}", "+"]);
        subprocess::output(&mut touch)?;
        let folders = ["usr/lib/python3.11", "usr/lib/python3/dist-packages", TASK];
        let folders = folders.map(|folder| tree.join(folder)).into_iter();
        let mut command = Command::new(base.join(LIBRARIES).join("ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(base.join(LIBRARIES))
            .arg(base.join("usr/bin/python3.11"));
        command.args(["-S", "-m", "compileall", "-q", "--invalidation-mode", "timestamp", "-s"]);
        command.arg(tree).args(["-p", "/"]).args(folders.filter(|folder| folder.exists()));
        command.env_clear().env("LC_ALL", "C").env("PYTHONHOME", base.join("usr"));
        command.env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        // It fails where any file does, and packages carry some that are for other versions of the language.
        let ended = command.stdout(Stdio::null()).stdin(Stdio::null()).status();
        ended.context("the image's python3.11").map(drop)
    }

    /// Makes a layer of a tree: everything belongs to root, and names are in order.
    fn pack(&self, tree: &Path) -> Result<Layer> {
        let tar = self.work.join("layer.tar");
        let mut command = Command::new("tar");
        command.args(["-c", "--sort=name", "--format=gnu", "--mtime=@0", "--numeric-owner"]);
        command.args(["--owner=0", "--group=0", "-f"]).arg(&tar).arg("-C").arg(tree).arg(".");
        subprocess::output(command.env("LC_ALL", "C"))?;
        let layer = Layer { digest: cache::digest_of_file(&tar)?, bytes: tar.metadata()?.len() };
        let blobs = self.into.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        fs::rename(&tar, blobs.join(&layer.digest))?;
        fs::remove_dir_all(tree)?;
        Ok(layer)
    }

    /// Writes the configuration, the manifest and the index.
    fn documents(&self, layers: &[Layer]) -> Result<()> {
        let diffs: Vec<String> =
            layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect();
        let config = self.blob(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": ["python3", "-m", "awslambdaric"],
                "Cmd": ["app.handler"],
                "WorkingDir": format!("/{TASK}"),
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
            },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        }))?;
        let described = |kind: &str, layer: &Layer| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": format!("sha256:{}", layer.digest),
                "size": layer.bytes,
            })
        };
        let manifest = self.blob(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", &config),
            "layers": layers.iter().map(|layer| described("layer.v1.tar", layer)).collect::<Value>(),
        }))?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described("manifest.v1+json", &manifest)],
        });
        fs::write(self.into.join("index.json"), index.to_string())?;
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        Ok(fs::write(self.into.join("oci-layout"), version.to_string())?)
    }

    fn blob(&self, document: &Value) -> Result<Layer> {
        let file = self.work.join("document");
        fs::write(&file, document.to_string())?;
        let blob = Layer { digest: cache::digest_of_file(&file)?, bytes: file.metadata()?.len() };
        fs::rename(&file, self.into.join("blobs/sha256").join(&blob.digest))?;
        Ok(blob)
    }
}
