//! How much of images on one base is stored: for votive's layout, for each choice in it undone, and for plain path order.
//!
//! `cargo run --release --example sharing -- FOLDER`, where FOLDER is the tree of a base image. Twenty images are made on it,
//! each with 40 small files of its own, one file of the base overwritten and one deleted; and once more on the same base
//! built anew with one package changed. The table of `docs/images.md` comes from here.

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use votive_artifact::Limits;
use votive_artifact::chunk::{CHUNK_BYTES, chunks_of, read_chunk};
use votive_artifact::oci::{OciLayout, OciSource, image_laid_out};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How many images are made on the base.
const IMAGES: usize = 20;

fn main() -> ExitCode {
    let Some(base) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return told("usage: sharing FOLDER");
    };
    match measure(&base) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => told(&error.to_string()),
    }
}

fn told(text: &str) -> ExitCode {
    // Nobody is left to be told of a failure to write.
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::FAILURE
}

fn measure(base: &Path) -> Outcome<()> {
    let work = tempfile::tempdir()?;
    let layout = work.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let files = files_of(base)?;
    let tar = tar_of(base, &files)?;
    let rebuilt = rebuilt_of(base, &files)?;
    let mut descriptors = vec![image(&layout, "base", std::slice::from_ref(&tar))?];
    let mut own = 0;
    for i in 0..IMAGES {
        let upper = upper_of(i, &files)?;
        own += own_bytes(i, &files)?;
        descriptors.push(image(&layout, &format!("image{i}"), &[tar.clone(), upper])?);
    }
    descriptors.push(image(&layout, "rebuilt", &[rebuilt])?);
    let index = json!({ "schemaVersion": 2, "manifests": descriptors });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "base: {} files, {} MiB as a tar", files.len(), tar.len() >> 20)?;
    writeln!(out, "own bytes of {IMAGES} images: {:.1} MiB\n", own as f64 / f64::from(1 << 20))?;
    writeln!(
        out,
        "| layout | one image, chunks | {IMAGES} images, sum | stored | stored beyond the base | new for the base built anew |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
    let best = OciLayout::default();
    for (name, choice) in [
        ("votive's", best),
        ("large files not aligned", OciLayout { align_large: false, ..best }),
        ("small layers in chunks of their own", OciLayout { small_in_head: false, ..best }),
        ("hidden files erased", OciLayout { erase_hidden: true, ..best }),
    ] {
        let chunks = |tag: &str| {
            let source = OciSource::folder(&layout).with_reference(tag);
            let image = image_laid_out(&source, work.path(), &Limits::CONTAINER_IMAGE, choice)?;
            chunks_in(&image.file)
        };
        writeln!(out, "{}", row(name, chunks)?)?;
    }
    let plain = |tag: &str| {
        let tree = work.path().join("tree");
        flatten(&layout, tag, &tree)?;
        let image = work.path().join("plain");
        run(Command::new("mkfs.erofs")
            .args(["-T0", "-d1", "-U", UUID, "--all-root"])
            .arg(&image)
            .arg(&tree))?;
        fs::remove_dir_all(&tree)?;
        chunks_in(&File::open(&image)?)
    };
    writeln!(out, "{}", row("plain path order (mkfs.erofs)", plain)?)?;
    Ok(())
}

/// One UUID for all images of mkfs.erofs.
const UUID: &str = "766f7469-7665-4000-8000-000000000000";

/// A line of the table.
fn row(name: &str, chunks: impl Fn(&str) -> Outcome<Vec<[u8; 32]>>) -> Outcome<String> {
    let base: HashSet<_> = chunks("base")?.into_iter().collect();
    let mut stored = base.clone();
    let (mut sum, mut one) = (0, 0);
    for i in 0..IMAGES {
        let image = chunks(&format!("image{i}"))?;
        one = image.len();
        sum += image.len();
        stored.extend(image);
    }
    let anew = chunks("rebuilt")?.into_iter().filter(|chunk| !base.contains(chunk)).count();
    let (all, more) = (stored.len(), stored.len() - base.len());
    Ok(format!("| {name} | {one} | {sum} | {all} | {more} | {anew} of {} |", base.len()))
}

/// The digests of all chunks that are not zeros.
fn chunks_in(image: &File) -> Outcome<Vec<[u8; 32]>> {
    let bytes = image.metadata()?.len();
    let count = chunks_of(bytes).ok_or("the image has an odd size")?;
    let mut chunk = Box::new([0; CHUNK_BYTES]);
    let mut digests = Vec::new();
    for index in 0..count {
        read_chunk(image, bytes, index, &mut chunk)?;
        if chunk.iter().any(|byte| *byte != 0) {
            digests.push(Sha256::digest(&chunk[..]).into());
        }
    }
    Ok(digests)
}

/// All names below a folder, in the order of paths, as builders write them.
fn files_of(base: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![base.to_owned()];
    while let Some(path) = waiting.pop() {
        if path != base {
            files.push(path.strip_prefix(base)?.to_owned());
        }
        if path.symlink_metadata()?.is_dir() {
            let entries = fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.path()));
            let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
            entries.sort_by(|a, b| b.cmp(a));
            waiting.extend(entries);
        }
    }
    Ok(files)
}

fn tar_of(base: &Path, files: &[PathBuf]) -> Outcome<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    for file in files {
        builder.append_path_with_name(base.join(file), file)?;
    }
    Ok(builder.into_inner()?)
}

/// The base with one more file early in it, and one that has become longer.
fn rebuilt_of(base: &Path, files: &[PathBuf]) -> Outcome<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    for (i, file) in files.iter().enumerate() {
        if i == files.len() / 10 {
            append(&mut builder, &file.with_file_name("new-file"), &text(i, 30_000))?;
        }
        builder.append_path_with_name(base.join(file), file)?;
    }
    Ok(builder.into_inner()?)
}

/// The layer of one image.
fn upper_of(i: usize, files: &[PathBuf]) -> Outcome<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in own_files(i, files)? {
        append(&mut builder, &name, &content)?;
    }
    Ok(builder.into_inner()?)
}

fn own_bytes(i: usize, files: &[PathBuf]) -> Outcome<usize> {
    Ok(own_files(i, files)?.iter().map(|(_, content)| content.len()).sum())
}

fn own_files(i: usize, files: &[PathBuf]) -> Outcome<Vec<(PathBuf, Vec<u8>)>> {
    let named = |part: &str| {
        files
            .iter()
            .filter(|file| file.starts_with(part))
            .nth(100 + i)
            .ok_or("the base is too small")
    };
    let overwritten = named("usr/lib")?.clone();
    let deleted = named("usr/share")?;
    let name = deleted.file_name().and_then(|name| name.to_str()).ok_or("a name is not UTF-8")?;
    let mut own: Vec<(PathBuf, Vec<u8>)> = (0..40)
        .map(|n| (PathBuf::from(format!("var/task/file{n}.py")), text(i * 1000 + n, 500 + n * 150)))
        .collect();
    own.push((overwritten, text(i, 5000)));
    own.push((deleted.with_file_name(format!(".wh.{name}")), Vec::new()));
    Ok(own)
}

fn text(seed: usize, length: usize) -> Vec<u8> {
    let line = format!("line of {seed}\n");
    line.bytes().cycle().take(length).collect()
}

fn append(builder: &mut tar::Builder<Vec<u8>>, name: &Path, content: &[u8]) -> Outcome<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    Ok(builder.append_data(&mut header, name, content)?)
}

/// Writes an image of these layers; returns its descriptor.
fn image(layout: &Path, tag: &str, layers: &[Vec<u8>]) -> Outcome<Value> {
    let mut described = Vec::new();
    let mut digests = Vec::new();
    for layer in layers {
        let descriptor = blob(layout, "application/vnd.oci.image.layer.v1.tar", layer)?;
        digests.push(descriptor["digest"].clone());
        described.push(descriptor);
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": digests },
    });
    let config =
        blob(layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": described });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let mut descriptor = blob(layout, media_type, manifest.to_string().as_bytes())?;
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    Ok(descriptor)
}

fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Outcome<Value> {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&digest), bytes)?;
    Ok(
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() }),
    )
}

/// Has umoci unpack an image.
fn flatten(layout: &Path, tag: &str, tree: &Path) -> Outcome<()> {
    let bundle = tree.with_extension("bundle");
    let image = format!("{}:{tag}", layout.display());
    run(Command::new("umoci").args(["unpack", "--rootless", "--image", &image]).arg(&bundle))?;
    fs::rename(bundle.join("rootfs"), tree)?;
    Ok(fs::remove_dir_all(bundle)?)
}

fn run(command: &mut Command) -> Outcome<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}
