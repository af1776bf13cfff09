//! What a long run tells its user: moving lines on a terminal, one plain line a step elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where steps are shown. All output goes to standard error; standard output belongs to results.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Moving lines if standard error is a terminal.
    pub(crate) fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Begins a step, such as "building the guest kernel".
    pub(crate) fn step(&self, title: impl Into<String>) -> Step {
        let title = title.into();
        let bar = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = bars.add(ProgressBar::new_spinner().with_style(style));
            bar.set_prefix(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{title} ...");
        }
        Step { title, bar, start: Instant::now(), last_line: Instant::now() }
    }

    /// Prints one line without disturbing the moving ones.
    pub(crate) fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

/// One step that has begun and not ended.
#[derive(Debug)]
pub(crate) struct Step {
    title: String,
    bar: Option<ProgressBar>,
    start: Instant,
    last_line: Instant,
}

/// Without a terminal a step says how far it is this often.
const LINE_EVERY: Duration = Duration::from_secs(20);

impl Step {
    /// Says how far the step is, such as "812 of 1640 files".
    pub(crate) fn update(&mut self, message: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(message.to_owned()),
            None if self.last_line.elapsed() >= LINE_EVERY => {
                eprintln!("{}: {message} ({} s)", self.title, self.start.elapsed().as_secs());
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    /// Ends the step with its result, such as "12.3 MB".
    pub(crate) fn done(self, result: &str) {
        let line =
            format!("{}: {result} ({:.1} s)", self.title, self.start.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
