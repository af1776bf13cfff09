//! A function version, as it is registered on a worker.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use super::images;

/// The program that is `bootstrap`, beside this one.
const PROBE: &str = "votive-probe";
/// AWS's extension client for Rust as a program, among the images.
const EXTENSION: &str = "functions/extension-client";

/// Where the code of a version comes from.
#[derive(Clone, Debug)]
pub(super) enum Code {
    Zip(PathBuf),
    Artifact(String),
}

/// A function version: what `votive functions register` is told.
#[derive(Clone, Debug)]
pub struct Version {
    pub(super) words: Vec<String>,
    pub(super) code: Code,
    pub(super) layers: Vec<PathBuf>,
    pub(super) memory_mb: u32,
    pub(super) timeout_s: u32,
    pub(super) name: String,
}

impl Version {
    /// A custom runtime that does what its events say: the handler `tell` of [`crate::bootstrap`].
    ///
    /// # Errors
    /// No probe.
    pub fn tell() -> Result<Self> {
        Self::probe("tell")
    }

    /// A custom runtime that behaves as `handler` says.
    ///
    /// # Errors
    /// No probe.
    pub fn probe(handler: &str) -> Result<Self> {
        Ok(Self::new("provided", handler, probe_zip()?))
    }

    /// A function whose code is in `zip`.
    #[must_use]
    pub fn new(runtime: &str, handler: &str, zip: &Path) -> Self {
        let words = ["--runtime", runtime, "--handler", handler];
        Self::of(words.map(str::to_owned).into(), Code::Zip(zip.to_owned()))
    }

    /// A container image, by its artifact.
    #[must_use]
    pub fn image(artifact: &str) -> Self {
        Self::of(Vec::new(), Code::Artifact(artifact.to_owned()))
    }

    fn of(words: Vec<String>, code: Code) -> Self {
        Self {
            words,
            code,
            layers: Vec::new(),
            // An emulated guest is slow enough with a whole processor.
            memory_mb: 1769,
            timeout_s: 60,
            name: String::from("f"),
        }
    }

    /// With its code from an artifact instead.
    #[must_use]
    pub fn artifact(mut self, identity: &str) -> Self {
        self.code = Code::Artifact(identity.to_owned());
        self
    }

    /// With another name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// With its memory in MB; it is 1769, a whole processor, otherwise.
    #[must_use]
    pub fn memory(mut self, mb: u32) -> Self {
        self.memory_mb = mb;
        self
    }

    /// With a time limit in seconds; it is 60 otherwise.
    #[must_use]
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.timeout_s = seconds;
        self
    }

    /// With a layer.
    #[must_use]
    pub fn layer(mut self, zip: &Path) -> Self {
        self.layers.push(zip.to_owned());
        self
    }

    /// With further arguments of `votive functions register`.
    #[must_use]
    pub fn arguments<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.words.extend(words.map(str::to_owned));
        self
    }
}

/// A ZIP at `place` with these files: their names, their content, and whether they are programs.
///
/// # Errors
/// The file system's.
pub fn write_zip(place: &Path, files: &[(&str, &[u8], bool)]) -> Result<()> {
    let mut archive = zip::ZipWriter::new(File::create(place)?);
    pack(&mut archive, files)?;
    archive.finish()?;
    Ok(())
}

fn pack(
    archive: &mut zip::ZipWriter<impl std::io::Write + std::io::Seek>,
    files: &[(&str, &[u8], bool)],
) -> Result<()> {
    for (name, bytes, program) in files {
        let mode = if *program { 0o755 } else { 0o644 };
        // Packing costs an emulated machine more than the bytes do.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .unix_permissions(mode);
        archive.start_file(*name, options)?;
        archive.write_all(bytes)?;
    }
    Ok(())
}

/// The program with the behaviours of [`crate::bootstrap`].
///
/// # Errors
/// It is not beside this one.
pub fn probe_program() -> Result<Vec<u8>> {
    let place = std::env::current_exe()?.with_file_name(PROBE);
    std::fs::read(&place).with_context(|| format!("{} is needed", place.display()))
}

/// A ZIP with the probe as `bootstrap`, made once. Its file has no name but that of a descriptor: it ends with us.
fn probe_zip() -> Result<&'static Path> {
    static ZIP: OnceLock<Result<(File, PathBuf), String>> = OnceLock::new();
    let make = || -> Result<(File, PathBuf)> {
        let mut file = tempfile::tempfile()?;
        let mut archive = zip::ZipWriter::new(&mut file);
        pack(&mut archive, &[("bootstrap", &probe_program()?, true)])?;
        archive.finish()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok((file, path.into()))
    };
    let made = ZIP.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.as_ref().map(|(_, path)| path.as_path()).map_err(|error| anyhow!("{error}"))
}

/// AWS's extension client for Rust, unmodified, as a program.
///
/// # Errors
/// It is not among the images.
pub fn extension_client() -> Result<Vec<u8>> {
    let place = images()?.join(EXTENSION);
    std::fs::read(&place).with_context(|| format!("{} is needed", place.display()))
}
