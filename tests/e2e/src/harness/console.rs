//! What a guest's kernel says when it dies, so that a failure in continuous integration explains itself.
//!
//! `votive run` has a console for a guest only with `--keep-logs`, where each character costs the guest an exit: no test would
//! see the timing that it is about. Here the console is there but silent, until a panic writes the whole log to it.
//!
//! `votive` gives the VMM no words of the caller's, so this program stands in for the VMM: it is started under the VMM's name by
//! a link, adds its words, and becomes the VMM, whose real place is behind a second link. `votive-agent` starts it the same way.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;
use tempfile::TempDir;

/// The name under which `votive` starts this program, and those of the files beside it.
const STAND_IN: &str = "votive-vmm";
const REAL: &str = "real";
const CONSOLE: &str = "console";
/// What more the guest's kernel is told; often there is no such file.
const MORE_WORDS: &str = "words";

/// Nothing but a panic is worth a character, and that says all that the kernel had kept to itself (`panic_print`, bit 5).
const WORDS: &str = "loglevel=1 panic_print=0x20";

/// What `votive` says of a microVM that ended with exit code 3.
const RESET: &str = "the guest was reset";

/// The most that is shown of a console: the end of it, where the reason is.
const SHOWN_BYTES: u64 = 16 * 1024;

thread_local! {
    /// See [`deaths`].
    static DEATHS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A place for microVMs' consoles, and the stand-in that writes there.
#[derive(Debug)]
pub struct Console(TempDir);

impl Console {
    /// An empty one, for microVMs of the VMM `vmm`.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(vmm: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        symlink(std::env::current_exe()?, folder.path().join(STAND_IN))?;
        symlink(std::path::absolute(vmm)?, folder.path().join(REAL))?;
        Ok(Self(folder))
    }

    /// What to start in the VMM's place.
    #[must_use]
    pub fn vmm(&self) -> PathBuf {
        self.0.path().join(STAND_IN)
    }

    /// Tells the kernels of guests that are started from now on something more.
    ///
    /// # Errors
    /// The file system's.
    pub fn words(&self, words: &str) -> Result<()> {
        Ok(std::fs::write(self.0.path().join(MORE_WORDS), words)?)
    }

    /// Adds to what `votive` said about a microVM what the guest's kernel said, if that died, and keeps it for [`deaths`].
    pub fn explain(&self, said: &mut String) {
        let words = self.last_words();
        let told = if !words.is_empty() {
            format!("--- the guest's console\n{words}\n--- its end\n")
        } else if said.contains(RESET) {
            format!(
                "{said}--- the guest's kernel said nothing: a triple fault, or a panic before it had a console\n"
            )
        } else {
            return;
        };
        DEATHS.with_borrow_mut(|deaths| deaths.push_str(&told));
        said.push_str(&told);
    }

    /// Keeps for [`deaths`] what kernels said that died.
    pub fn remember_all(&self) {
        let words = self.last_words();
        if !words.is_empty() {
            let told = format!("--- the guests' consoles\n{words}\n--- their end\n");
            DEATHS.with_borrow_mut(|deaths| deaths.push_str(&told));
        }
    }

    /// The ends of the consoles; nothing if no guest's kernel panicked.
    #[must_use]
    pub fn last_words(&self) -> String {
        let entries = std::fs::read_dir(self.0.path()).into_iter().flatten().flatten();
        let consoles =
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(CONSOLE));
        consoles.map(|entry| end_of(&entry.path())).collect()
    }
}

/// The end of a file; nothing if it cannot be read, which is no reason for a test to fail.
fn end_of(path: &Path) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    let start = SeekFrom::Start(len.saturating_sub(SHOWN_BYTES));
    let _ = file.seek(start).and_then(|_| file.take(SHOWN_BYTES).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What the guests said that died since the last call, in the microVMs of this thread's test.
#[must_use]
pub fn deaths() -> String {
    DEATHS.take()
}

/// Whether this process is to become a VMM.
#[must_use]
pub fn is_called() -> bool {
    called_as().is_some_and(|name| name.file_name() == Some(STAND_IN.as_ref()))
}

/// Becomes the VMM, with a console for the guest.
#[must_use]
pub fn become_vmm() -> ExitCode {
    let name = called_as().unwrap_or_default();
    let mut vmm = Command::new(name.with_file_name(REAL));
    vmm.args(std::env::args_os().skip(1));
    if std::env::args_os().any(|word| word == "--probe-kvm") {
        eprintln!("votive-vmm: cannot be started: {}", vmm.exec());
        return ExitCode::FAILURE;
    }
    // The process keeps its number when it becomes the VMM.
    let console = name.with_file_name(format!("{CONSOLE}-{}", std::process::id()));
    let more = std::fs::read_to_string(name.with_file_name(MORE_WORDS)).unwrap_or_default();
    vmm.arg("--console").arg(console).args(["--cmdline", &format!("{WORDS} {more}")]);
    eprintln!("votive-vmm: cannot be started: {}", vmm.exec());
    ExitCode::FAILURE
}

fn called_as() -> Option<PathBuf> {
    std::env::args_os().next().map(PathBuf::from)
}
