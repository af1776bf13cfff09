//! How far a run over many chunks is: a moving bar on a terminal, a line now and then elsewhere; both on standard error.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;

/// One run.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    title: &'static str,
    chunks: u32,
    quiet: bool,
    /// The last quarter that was told of.
    quarter: u32,
}

impl Progress {
    /// A run over so many chunks.
    pub(super) fn new(quiet: bool, title: &'static str, chunks: u32) -> Progress {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} chunks {msg} {eta}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(chunks.into()).with_style(style).with_prefix(title)
        });
        Progress { bar, title, chunks, quiet, quarter: 0 }
    }

    /// So many are done.
    pub(super) fn at(&mut self, done: u32, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.into());
            bar.set_message(message.to_owned());
            return;
        }
        let quarter = done * 4 / self.chunks.max(1);
        if quarter > self.quarter {
            self.quarter = quarter;
            say(self.quiet, &format!("{}: {done} of {} chunks {message}", self.title, self.chunks));
        }
    }

    /// It is over.
    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
