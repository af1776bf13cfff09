//! The agent's own log: one line an event on standard error, as text or as JSON.
//!
//! Events are about the worker, never about what tenants send: types that hold payloads, environment variables, tokens or keys
//! leave them out of their `Debug`. A panic is an event like others.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Log, LogFormat};

/// The environment variable that replaces `log.level`.
pub const LEVEL_VARIABLE: &str = "VOTIVE_LOG";

/// Starts the log. A subscriber that is there already stays.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_from_env(LEVEL_VARIABLE)
        .or_else(|_| EnvFilter::try_new(&log.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let is_terminal = std::io::stderr().is_terminal();
    let colours = is_terminal && std::env::var_os("NO_COLOR").is_none();
    let started = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Text if is_journal() => builder.event_format(Journal::new()).try_init(),
        LogFormat::Text => builder.with_ansi(colours).try_init(),
    };
    // A subscriber of the embedding program stays as it is.
    drop(started);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        tracing::error!(place, "panic: {}", panic.payload_as_str().unwrap_or("no message"));
    }));
}

/// Whether standard error is the journal: systemd tells its device and inode (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = rustix::fs::fstat(std::io::stderr())
        .map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino))
        .unwrap_or_default();
    !told.is_empty() && told == own
}

/// Text as the journal takes it: a priority in front (sd-daemon(3)), no time, no colours.
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The priority of syslog(3) for a level.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
