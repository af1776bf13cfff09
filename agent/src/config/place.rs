//! Where the worker's files are when the configuration leaves it open: what systemd gives, else what is usual for the user.

use std::ffi::OsString;
use std::path::PathBuf;

use super::value::SocketPath;
use super::{Config, Worker};
use crate::images::{FOLDER_VARIABLE, Images, ImagesError};

/// What the places depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether the agent is root.
    pub is_root: bool,
    /// `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`.
    pub state_directory: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY`, which systemd sets for `RuntimeDirectory=`.
    pub runtime_directory: Option<PathBuf>,
    /// `$XDG_STATE_HOME`
    pub xdg_state: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`
    pub xdg_runtime: Option<PathBuf>,
    /// `$HOME`
    pub home: Option<PathBuf>,
    /// The host's name.
    pub host_name: String,
}

/// Every place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The worker's name.
    pub worker_id: String,
    /// The folder that outlives the process.
    pub state_dir: PathBuf,
    /// The control channel's Unix socket.
    pub unix_socket: Option<PathBuf>,
    /// The folder with the worker's certificate.
    pub keys: PathBuf,
    /// The folder of the cache of chunks.
    pub artifact_cache: PathBuf,
}

/// A place that nothing tells.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field} must be set: neither systemd nor the user's environment tells a folder for it")]
pub struct NoPlace {
    /// The field.
    pub field: &'static str,
}

impl Surroundings {
    /// This process's.
    #[must_use]
    pub fn here() -> Self {
        let folder = |name: &str| absolute(std::env::var_os(name));
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            is_root: rustix::process::geteuid().is_root(),
            state_directory: folder("STATE_DIRECTORY"),
            runtime_directory: folder("RUNTIME_DIRECTORY"),
            xdg_state: folder("XDG_STATE_HOME"),
            xdg_runtime: folder("XDG_RUNTIME_DIR"),
            home: folder("HOME"),
            host_name: name,
        }
    }
}

/// systemd separates several folders by colons; the first is ours. A relative one is nobody's.
fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    let value = value?;
    std::env::split_paths(&value).next().filter(|path| path.is_absolute())
}

impl Config {
    /// The places that `surroundings` and the configuration give.
    ///
    /// # Errors
    /// [`NoPlace`]
    pub fn places(&self, surroundings: &Surroundings) -> Result<Places, NoPlace> {
        let unix_socket = match &self.control.unix_socket {
            Some(SocketPath::Off) => None,
            Some(SocketPath::Path(path)) => Some(path.clone()),
            None => {
                let folder = surroundings.runtime();
                Some(folder.ok_or(NoPlace { field: "control.unix_socket" })?.join("control.sock"))
            }
        };
        let state_dir = self.worker.state_dir.clone().or_else(|| surroundings.state());
        let state_dir = state_dir.ok_or(NoPlace { field: "worker.state_dir" })?;
        let keys = self.control.keys.clone();
        let cache = self.artifacts.cache.clone();
        Ok(Places {
            worker_id: self.worker.id.clone().unwrap_or_else(|| surroundings.worker_id()),
            artifact_cache: cache.unwrap_or_else(|| state_dir.join("cache")),
            state_dir,
            unix_socket,
            keys: keys.unwrap_or_else(|| PathBuf::from("/etc/votive/keys/worker")),
        })
    }
}

impl Surroundings {
    fn state(&self) -> Option<PathBuf> {
        let user = || {
            let base = self.xdg_state.clone();
            Some(base.or_else(|| Some(self.home.as_ref()?.join(".local/state")))?.join("votive"))
        };
        let given = self.state_directory.clone();
        given.or_else(|| if self.is_root { Some(PathBuf::from("/var/lib/votive")) } else { user() })
    }

    fn runtime(&self) -> Option<PathBuf> {
        let user = || Some(self.xdg_runtime.as_ref()?.join("votive"));
        let given = self.runtime_directory.clone();
        given.or_else(|| if self.is_root { Some(PathBuf::from("/run/votive")) } else { user() })
    }

    /// The host's name, with what a worker's name may not hold replaced.
    fn worker_id(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' }
        };
        let name: String = self.host_name.chars().take(64).map(plain).collect();
        if name.is_empty() { String::from("worker") } else { name }
    }
}

impl Worker {
    /// The images.
    ///
    /// # Errors
    /// [`ImagesError::NoFolder`]
    pub fn find_images(&self) -> Result<Images, ImagesError> {
        let named = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
        let folder = self.images.clone().or(named);
        Images::find(folder.as_deref(), self.vmm.as_deref())
    }
}
