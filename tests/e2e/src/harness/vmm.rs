//! `votive-vmm` by itself, for what only its command line can do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Ended, bounded, images};

/// A microVM's specification.
#[derive(Debug)]
pub struct Vmm {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Vmm {
    /// The least that boots: kernel, initramfs, one vCPU, 128 MiB.
    ///
    /// # Errors
    /// No images.
    pub fn spec() -> Result<Self> {
        let images = images()?;
        let vmm = Self { program: images.join("bin/votive-vmm"), arguments: Vec::new() };
        let kernel = images.join("vmlinux");
        let initrd = images.join("init.cpio");
        Ok(vmm
            .option("--kernel", &kernel.to_string_lossy())
            .option("--initrd", &initrd.to_string_lossy())
            .option("--vcpus", "1")
            .option("--memory-mib", "128"))
    }

    /// With an option, in place of the same one if it is there.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        if let Some(place) = self.arguments.iter().position(|argument| argument == name) {
            self.arguments.drain(place..place + 2);
        }
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// With a disk.
    #[must_use]
    pub fn disk(mut self, path: &Path) -> Self {
        self.arguments.extend(["--disk".to_owned(), format!("path={}", path.display())]);
        self
    }

    /// Boots it and waits for its end.
    ///
    /// # Errors
    /// It does not end within a minute.
    pub fn boot(&self) -> Result<Ended> {
        let mut command = Command::new(&self.program);
        bounded(command.args(&self.arguments), Duration::from_secs(60))
    }
}
