//! The demo's functions as a customer would upload them: one ZIP each.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::binaries;
use crate::cache::{Cache, Key};
use crate::progress::Progress;
use crate::workspace;

/// Functions of one source file: the ZIP's name and the file.
const SOURCES: [(&str, &str); 2] = [("python", "app.py"), ("node", "app.mjs")];

/// Packs each function and makes it current as `functions/<name>.zip`.
pub(super) fn build(cache: &Cache, progress: &Progress) -> Result<()> {
    let folder = workspace::root()?.join("rootfs/functions");
    for (name, file) in SOURCES {
        pack(cache, name, &folder.join(name).join(file), (file, 0o644))?;
    }
    let bootstrap = binaries::compile(progress, binaries::FUNCTION)?;
    pack(cache, "rust", &bootstrap, ("bootstrap", 0o755))
}

/// Packs `file` under the name and with the mode that `entry` says; the same file gives the same bytes.
fn pack(cache: &Cache, name: &str, file: &Path, entry: (&str, u32)) -> Result<()> {
    let zip_name = format!("{name}.zip");
    let made = cache.entry(
        Key::new("function", 1).text("entry", entry.0).file("code", file)?,
        |into| {
            let mut zip = ZipWriter::new(File::create(into.join(&zip_name))?);
            // The options' own time is the format's first, 1980.
            zip.start_file(entry.0, SimpleFileOptions::default().unix_permissions(entry.1))?;
            let code = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            std::io::Write::write_all(&mut zip, &code)?;
            zip.finish()?;
            Ok(())
        },
    )?;
    cache.link(&format!("functions/{zip_name}"), &made.join(&zip_name))?;
    Ok(())
}
