//! The files that a configuration names: whether they are there, whether they are what they should be, and who may read them.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;
use votive_control::tls::{Identity, expiry};

use super::place::Places;
use super::{Config, LogFormat};
use crate::causes::with_causes;
use crate::clock::wall_clock;
use crate::doctor::Finding;
use crate::images::Images;

/// A certificate that expires sooner than a worker may live is told.
const EXPIRY_WARNING: Duration = crate::limits::LEASE_MAX;
/// The first bytes of an ELF file.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Where EROFS has its magic number, and which (`EROFS_SUPER_OFFSET`, `EROFS_SUPER_MAGIC_V1`).
const EROFS_MAGIC: (u64, [u8; 4]) = (1024, 0xe0f5_e1e2_u32.to_le_bytes());

/// Looks at everything. A finding that is not `ok` keeps the agent from starting.
#[must_use]
pub fn findings(config: &Config, places: &Places) -> Vec<Finding> {
    let mut findings = match config.worker.find_images() {
        Ok(images) => image_findings(&images),
        Err(error) => vec![bad("images", error.to_string(), "name a folder in worker.images")],
    };
    findings.push(state_finding(&places.state_dir));
    findings.push(keys_finding(&places.keys));
    if let Some(path) = &places.unix_socket {
        findings.push(socket_finding(path));
    }
    if config.artifacts.store.is_some() {
        findings.push(artifact_keys_finding(config.artifacts.keys.as_deref().unwrap_or_default()));
        findings.push(cache_finding(&places.artifact_cache));
    }
    if let super::value::Listen::Address(address) = config.metrics.listen
        && !address.ip().is_loopback()
    {
        let text = format!("{address} can be reached by others, who read names of functions");
        findings.push(good("metrics", text));
    }
    if config.log.level.contains("trace") && config.log.format == LogFormat::Text {
        findings.push(good("log", String::from("level trace writes several lines an invocation")));
    }
    findings
}

fn good(subject: &'static str, text: String) -> Finding {
    Finding { subject, ok: true, text, fix: None }
}

fn bad(subject: &'static str, text: String, fix: &str) -> Finding {
    Finding { subject, ok: false, text, fix: Some(fix.to_owned()) }
}

fn image_findings(images: &Images) -> Vec<Finding> {
    let build = "cargo xtask image builds them; worker.images and worker.vmm name them";
    let elf = (0, ELF_MAGIC);
    let mut findings = Vec::new();
    let mut judge = |subject, path: &Path, magic: Option<(u64, [u8; 4])>| {
        findings.push(match judge_file(path, magic) {
            Ok(()) => good(subject, path.display().to_string()),
            Err(why) => bad(subject, format!("{} {why}", path.display()), build),
        });
    };
    judge("kernel", &images.kernel(), Some(elf));
    judge("initramfs", &images.initrd(), None);
    let runtimes = images.runtimes();
    for name in &runtimes {
        let path = images.folder().join(format!("{name}.erofs"));
        judge("runtime", &path, Some(EROFS_MAGIC));
    }
    judge("VMM", images.vmm(), None);
    if runtimes.is_empty() {
        let text = format!("{} holds no runtime's image", images.folder().display());
        findings.push(bad("runtime", text, build));
    }
    if rustix::fs::access(images.vmm(), Access::EXEC_OK).is_err() && images.vmm().is_file() {
        let text = format!("{} may not be executed", images.vmm().display());
        findings.push(bad("VMM", text, "chmod 755"));
    }
    findings
}

/// Whether it is a file that holds `magic` at its offset, and that nobody but root and we can replace.
fn judge_file(path: &Path, magic: Option<(u64, [u8; 4])>) -> Result<(), String> {
    use std::os::unix::fs::FileExt as _;
    let metadata = fs::metadata(path).map_err(|error| format!("cannot be used: {error}"))?;
    if !metadata.is_file() {
        return Err(String::from("is no file"));
    }
    if metadata.len() == 0 {
        return Err(String::from("is empty"));
    }
    if is_writable_by_others(&metadata) {
        return Err(String::from("can be changed by every user of the host"));
    }
    let file = fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    if let Some((offset, magic)) = magic {
        let mut bytes = [0; 4];
        let read = file.read_exact_at(&mut bytes, offset);
        if read.is_err() || bytes != magic {
            return Err(String::from("is not what it should be: its first bytes are others"));
        }
    }
    Ok(())
}

fn is_writable_by_others(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o002 != 0
}

fn state_finding(path: &Path) -> Finding {
    const SUBJECT: &str = "state";
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            bad(SUBJECT, format!("{shown} is no folder"), "name a folder in worker.state_dir")
        }
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            let text = format!("{shown} can be entered by others");
            bad(SUBJECT, text, "chmod 700")
        }
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => {
            bad(SUBJECT, format!("{shown} belongs to another user"), "chown it to the agent's user")
        }
        Ok(_) => writable(SUBJECT, path),
        Err(_) => match path.ancestors().skip(1).find(|folder| folder.exists()) {
            Some(folder) => writable(SUBJECT, folder),
            None => bad(SUBJECT, format!("{shown} cannot be made"), "make it"),
        },
    }
}

fn writable(subject: &'static str, folder: &Path) -> Finding {
    match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => good(subject, folder.display().to_string()),
        Err(error) => {
            let text = format!("{} cannot be written: {error}", folder.display());
            bad(subject, text, "give the agent's user the right to, or name another place")
        }
    }
}

fn socket_finding(path: &Path) -> Finding {
    const SUBJECT: &str = "socket";
    use std::os::unix::fs::FileTypeExt as _;
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let text = format!("{} is there and is no socket", path.display());
            bad(SUBJECT, text, "name another place in control.unix_socket")
        }
        _ => match path.ancestors().skip(1).find(|folder| folder.exists()) {
            Some(folder) => writable(SUBJECT, folder),
            None => bad(SUBJECT, format!("{} cannot be made", path.display()), "make its folder"),
        },
    }
}

/// What is elsewhere is not asked here: it may come later than the worker.
fn artifact_keys_finding(keys: &str) -> Finding {
    const SUBJECT: &str = "artifacts' keys";
    let fix = "votive image key create makes them; artifacts.keys names their folder";
    match votive_artifact::keys::open(keys) {
        Ok(_) => good(SUBJECT, keys.to_owned()),
        Err(error) => bad(SUBJECT, format!("{keys}: {}", with_causes(&error)), fix),
    }
}

fn cache_finding(path: &Path) -> Finding {
    match path.ancestors().find(|folder| folder.exists()) {
        Some(folder) if folder.is_dir() => writable("artifacts' cache", folder),
        _ => bad(
            "artifacts' cache",
            format!("{} cannot be made", path.display()),
            "name a folder in artifacts.cache",
        ),
    }
}

fn keys_finding(folder: &Path) -> Finding {
    const SUBJECT: &str = "keys";
    let make = "votive keys makes them; control.keys names their folder";
    let identity = match Identity::read(folder) {
        Ok(identity) => identity,
        Err(error) => return bad(SUBJECT, with_causes(&error), make),
    };
    if let Err(error) = identity.server_config() {
        return bad(SUBJECT, format!("{}: {}", folder.display(), with_causes(&error)), make);
    }
    let now = i64::try_from(wall_clock().as_secs()).unwrap_or(i64::MAX);
    let left = identity.certificate().and_then(|certificate| expiry(certificate).ok());
    let left = left.map(|expires| expires.saturating_sub(now));
    let shown = folder.display();
    let soon = i64::try_from(EXPIRY_WARNING.as_secs()).unwrap_or(i64::MAX);
    match left {
        Some(..=0) => bad(SUBJECT, format!("the certificate in {shown} has expired"), make),
        Some(left) if left < soon => {
            good(SUBJECT, format!("{shown}; the certificate expires in {} minutes", left / 60))
        }
        _ => good(SUBJECT, shown.to_string()),
    }
}
