//! Running other programs: bounded in time, with what they said at hand when they fail.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};

use crate::setup;

/// How much of a failed program's output an error repeats.
const TAIL_LINES: usize = 25;

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A program that has been started, and is ended when nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts a program without input.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = describe(command);
        let child =
            command.stdin(Stdio::null()).spawn().map_err(|error| cannot_start(command, error))?;
        Ok(Self { name, child })
    }

    /// Waits for its end, calling `meanwhile` now and then; an error if that takes longer than `limit`.
    pub(crate) fn wait(
        &mut self,
        limit: Duration,
        mut meanwhile: impl FnMut(),
    ) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("`{}` did not end within {} s", self.name, limit.as_secs());
            }
            meanwhile();
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` and returns its standard output; an error repeats the end of its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, error))?;
    checked(&name, output)
}

/// Runs `command` with all its output in the file `log`; an error repeats the end of that. It may take an hour.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<()> {
    logged_within(command, log, Duration::from_secs(3600), || ())
}

/// [`logged`] with a limit of one's own, and with something to do meanwhile.
pub(crate) fn logged_within(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    meanwhile: impl FnMut(),
) -> Result<()> {
    let file = File::create(log)?;
    let mut running = Running::start(command.stdout(file.try_clone()?).stderr(file))?;
    let status = running.wait(limit, meanwhile);
    let failed = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("`{}` ended with {status}", running.name),
        Err(error) => error.to_string(),
    };
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    bail!("{failed}:\n{}", tail(&text))
}

/// Runs `command` with its output going where ours goes.
pub(crate) fn shown(command: &mut Command, limit: Duration) -> Result<()> {
    let mut running = Running::start(command)?;
    let status = running.wait(limit, || ())?;
    if !status.success() {
        bail!("`{}` ended with {status}", running.name);
    }
    Ok(())
}

/// Why a program was not started; of one that is missing, the package that has it.
pub(crate) fn cannot_start(command: &Command, error: io::Error) -> Error {
    let program = command.get_program().to_string_lossy();
    let missing = error.kind() == io::ErrorKind::NotFound;
    let hint = match setup::package_of(&program) {
        Some(package) if missing => format!("; it is in Debian's package {package}"),
        _ => String::new(),
    };
    Error::new(error).context(format!("cannot start `{}`{hint}", describe(command)))
}

/// Whether a program of this name is found in `$PATH`.
pub(crate) fn exists(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The last lines of a text, for an error message.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn checked(name: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` ended with {}:\n{}", output.status, tail(&stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{name}` printed no UTF-8"))
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests;
