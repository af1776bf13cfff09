//! A function, invoked by `votive run`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use super::console::Console;
use super::home::{images, votive};
use super::leftovers::{Leftovers, microvm_of};
use super::process::{Captured, Ended};
use super::version::probe_program;

/// The longest that one `votive run` may take. Emulated on a crowded host, Python alone takes ten seconds to start.
const LIMIT: Duration = Duration::from_secs(150);

/// A function and how it is to be invoked.
#[derive(Debug)]
pub struct Function {
    runtime: String,
    handler: String,
    code: Result<Code, String>,
    images: Option<PathBuf>,
    directory: Option<PathBuf>,
    timeout_s: u32,
    init_timeout_s: u32,
    arguments: Vec<String>,
}

#[derive(Debug)]
enum Code {
    Zip(PathBuf),
    Image(PathBuf),
    /// A ZIP that goes with the function.
    Own(TempDir),
}

/// What came of an invocation.
#[derive(Debug)]
pub struct Ran {
    /// The exit code of `votive run`.
    pub code: i32,
    /// The response.
    pub response: Value,
    /// The type of the function's error; none if it answered.
    pub error_type: Option<String>,
    /// The whole object that `--json` prints.
    pub object: Value,
    /// Standard error: the function's log.
    pub log: String,
    /// How long `votive run` ran.
    pub took: Duration,
}

/// An invocation under way.
#[derive(Debug)]
pub struct Running {
    captured: Captured,
    leftovers: Leftovers,
    console: Option<Console>,
    /// Keeps the function's code.
    _code: Option<TempDir>,
}

impl Function {
    /// A function of Python, whose file `app.py` holds `source` with the handler `handler`.
    #[must_use]
    pub fn python(source: &str) -> Self {
        let code = zip_of("app.py", source.as_bytes());
        Self::new("python3.11", "app.handler", code.map(Code::Own))
    }

    /// A function of Node.js, whose file `index.mjs` holds `source` with the handler `handler`.
    #[must_use]
    pub fn node(source: &str) -> Self {
        let code = zip_of("index.mjs", source.as_bytes());
        Self::new("nodejs24", "index.handler", code.map(Code::Own))
    }

    /// A custom runtime that behaves as `handler` says: [`crate::bootstrap`].
    #[must_use]
    pub fn probe(handler: &str) -> Self {
        let image = probe_image().map(|image| Code::Image(image.to_owned()));
        Self::new("provided", handler, image)
    }

    /// One of the demo's functions.
    #[must_use]
    pub fn demo(runtime: &str, handler: &str, zip: &str) -> Self {
        let zip = images().map(|images| Code::Zip(images.join("functions").join(zip)));
        Self::new(runtime, handler, zip)
    }

    /// A function whose code is in `zip`.
    #[must_use]
    pub fn of_zip(runtime: &str, handler: &str, zip: &Path) -> Self {
        Self::new(runtime, handler, Ok(Code::Zip(zip.to_owned())))
    }

    fn new(runtime: &str, handler: &str, code: Result<Code>) -> Self {
        Self {
            runtime: runtime.to_owned(),
            handler: handler.to_owned(),
            code: code.map_err(|error| format!("{error:#}")),
            images: None,
            directory: None,
            timeout_s: 60,
            // Emulated on a crowded host, the 10 s that a function has elsewhere are not enough for Python.
            init_timeout_s: 60,
            arguments: Vec::new(),
        }
    }

    /// With another handler.
    #[must_use]
    pub fn handler(mut self, handler: &str) -> Self {
        self.handler = handler.to_owned();
        self
    }

    /// With another runtime.
    #[must_use]
    pub fn runtime(mut self, runtime: &str) -> Self {
        self.runtime = runtime.to_owned();
        self
    }

    /// With a limit for its init phase in seconds; it is 60 otherwise.
    #[must_use]
    pub fn init_timeout(mut self, seconds: u32) -> Self {
        self.init_timeout_s = seconds;
        self
    }

    /// With a time limit in seconds; it is 60 otherwise.
    #[must_use]
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.timeout_s = seconds;
        self
    }

    /// With its memory in MB.
    #[must_use]
    pub fn memory(self, mb: u32) -> Self {
        self.arguments(["--memory", &mb.to_string()])
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(self, key: &str, value: &str) -> Self {
        self.arguments(["--env", &format!("{key}={value}")])
    }

    /// With other images.
    #[must_use]
    pub fn images(mut self, folder: &Path) -> Self {
        self.images = Some(folder.to_owned());
        self
    }

    /// Run in another directory.
    #[must_use]
    pub fn directory(mut self, folder: &Path) -> Self {
        self.directory = Some(folder.to_owned());
        self
    }

    /// With further arguments of `votive run`.
    #[must_use]
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Boots a microVM, invokes the function, ends the microVM, and checks that nothing is left.
    ///
    /// # Errors
    /// `votive run` did not end in time, or left something behind. A function that fails is no error here.
    pub fn invoke(&self, event: &Value) -> Result<Ran> {
        let ended = self.run(&["--json", "--event", &event.to_string()])?;
        let object: Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
        Ok(Ran {
            code: ended.status.code().unwrap_or(-1),
            response: object["response"].clone(),
            error_type: object["errorType"].as_str().map(str::to_owned),
            object,
            log: ended.stderr,
            took: ended.took,
        })
    }

    /// The same with arguments of the caller's, for output that is not JSON.
    ///
    /// # Errors
    /// As [`Function::invoke`].
    pub fn run(&self, arguments: &[&str]) -> Result<Ended> {
        let leftovers = Leftovers::new()?;
        let console = self.console()?;
        let mut command = self.command(&leftovers, console.as_ref())?;
        let captured = Captured::spawn(command.args(arguments))?;
        let pid = captured.child.id();
        let ended = explained(captured.wait(LIMIT), console.as_ref());
        leftovers.check(pid)?;
        ended
    }

    /// Begins an invocation.
    ///
    /// # Errors
    /// `votive` cannot be started.
    pub fn spawn(self, event: &Value) -> Result<Running> {
        let leftovers = Leftovers::new()?;
        let console = self.console()?;
        let mut command = self.command(&leftovers, console.as_ref())?;
        command.args(["--json", "--event", &event.to_string()]);
        let captured = Captured::spawn(&mut command)?;
        let code = match self.code {
            Ok(Code::Own(folder)) => Some(folder),
            _ => None,
        };
        Ok(Running { captured, leftovers, console, _code: code })
    }

    /// A silent console for the guest, unless the test has its own mind about the VMM or the console.
    fn console(&self) -> Result<Option<Console>> {
        let own = |word: &String| ["--vmm", "--keep-logs", "--jail"].contains(&word.as_str());
        if self.arguments.iter().any(own) {
            return Ok(None);
        }
        let images = self.images.clone().map_or_else(images, Ok)?;
        Console::new(&images.join("bin/votive-vmm")).map(Some)
    }

    fn command(&self, leftovers: &Leftovers, console: Option<&Console>) -> Result<Command> {
        let mut command = Command::new(votive()?);
        command.args(["run", "--runtime", &self.runtime, "--handler", &self.handler]);
        match self.code.as_ref().map_err(|error| anyhow!("{error}"))? {
            Code::Zip(path) => command.arg("--zip").arg(path),
            Code::Image(path) => command.arg("--code-image").arg(path),
            Code::Own(folder) => command.arg("--zip").arg(folder.path().join("code.zip")),
        };
        command.args(["--timeout", &self.timeout_s.to_string()]);
        command.args(["--init-timeout", &self.init_timeout_s.to_string()]);
        command.args(&self.arguments);
        if let Some(console) = console {
            // What stands in for the VMM becomes the VMM, which no jail has a path of.
            command.args(["--jail", "off"]).arg("--vmm").arg(console.vmm());
        }
        if let Some(images) = &self.images {
            command.arg("--images").arg(images);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.env("TMPDIR", leftovers.folder());
        Ok(command)
    }
}

impl Ran {
    /// The log's line that begins with `word`.
    ///
    /// # Errors
    /// There is none.
    pub fn line(&self, word: &str) -> Result<&str> {
        self.log
            .lines()
            .find(|line| line.starts_with(word))
            .with_context(|| format!("no {word} line: exit code {}, {}", self.code, self.log))
    }

    /// The duration of a phase of the cold start in milliseconds.
    #[must_use]
    pub fn phase_ms(&self, name: &str) -> Option<f64> {
        let phases = self.object["coldStart"]["phases"].as_array()?;
        phases.iter().find(|phase| phase["phase"] == name)?["ms"].as_f64()
    }
}

impl Running {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.captured.child.id()
    }

    /// Waits until its microVM is there, and gives its process.
    ///
    /// # Errors
    /// There is none within the limit.
    pub fn microvm(&self) -> Result<Pid> {
        self.wait_for("a microVM", || microvm_of(self.pid()))
    }

    /// Waits until the invocation has begun.
    ///
    /// # Errors
    /// It has not within the limit.
    pub fn wait_for_start(&self) -> Result<()> {
        self.wait_for("a START line", || self.captured.has_said("START ").then_some(()))
    }

    fn wait_for<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = found() {
                return Ok(found);
            }
            ensure!(started.elapsed() < LIMIT, "{what} did not come within {} s", LIMIT.as_secs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends `votive` a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.captured.child), signal)?)
    }

    /// Waits for its end, and checks that nothing is left.
    ///
    /// # Errors
    /// It did not end in time, or left something behind.
    pub fn wait(self) -> Result<Ended> {
        let pid = self.pid();
        let ended = explained(self.captured.wait(LIMIT), self.console.as_ref());
        self.leftovers.check(pid)?;
        ended
    }

    /// Waits for its end, by SIGKILL, after which temporary files may be left, but no process.
    ///
    /// # Errors
    /// It did not end in time, or a process is left.
    pub fn wait_killed(self) -> Result<Ended> {
        let pid = self.pid();
        let ended = explained(self.captured.wait(LIMIT), self.console.as_ref());
        for entry in std::fs::read_dir(self.leftovers.folder())? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        self.leftovers.check(pid)?;
        ended
    }
}

/// With the guest's last words, if it had any, behind what `votive` said.
fn explained(ended: Result<Ended>, console: Option<&Console>) -> Result<Ended> {
    let Some(console) = console else { return ended };
    match ended {
        Ok(mut ended) => {
            console.explain(&mut ended.stderr);
            Ok(ended)
        }
        Err(error) => {
            let mut said = format!("{error:#}\n");
            console.explain(&mut said);
            Err(anyhow!(said))
        }
    }
}

fn zip_of(name: &str, bytes: &[u8]) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let file = File::create(folder.path().join("code.zip"))?;
    let mut archive = zip::ZipWriter::new(file);
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    archive.start_file(name, options)?;
    archive.write_all(bytes)?;
    archive.finish()?;
    Ok(folder)
}

/// The image with the probe as `bootstrap`, made once. Its file has no name but that of a descriptor: it ends with us.
fn probe_image() -> Result<&'static Path> {
    static IMAGE: OnceLock<Result<(File, PathBuf), String>> = OnceLock::new();
    let made = IMAGE.get_or_init(|| make_probe_image().map_err(|error| format!("{error:#}")));
    made.as_ref().map(|(_, path)| path.as_path()).map_err(|error| anyhow!("{error}"))
}

fn make_probe_image() -> Result<(File, PathBuf)> {
    let program = probe_program()?;
    let folder = zip_of("bootstrap", &program)?;
    let image = folder.path().join("code.erofs");
    let zip = folder.path().join("code.zip");
    votive_artifact::optimise_zip(&zip, &image, &votive_artifact::Limits::default())?;
    let file = File::open(&image)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok((file, PathBuf::from(path)))
}
