//! The runtime's environment variables (CONTRACT 4.4) and where its program is looked for (4.5).

#[cfg(test)]
mod tests;

use core::ffi::CStr;

use votive_protocol::{Configure, InitializationType};

use crate::http::Writer;

/// Where the Runtime API listens in a guest, as `AWS_LAMBDA_RUNTIME_API` names it.
pub const RUNTIME_API: &str = "127.0.0.1:9001";
/// Where a runtime's program is looked for when the configuration names none; the first that is there is taken.
pub const BOOTSTRAPS: [&CStr; 3] =
    [c"/var/task/bootstrap", c"/opt/bootstrap", c"/var/runtime/bootstrap"];
/// Where a function's code is (CONTRACT 4.5).
const TASK_ROOT: &str = "/var/task";

/// The working directory where a function names none, and that of its extensions. A container image need not have the folder
/// that code is in elsewhere.
#[must_use]
pub fn home(configure: &Configure<'_>) -> &'static str {
    if configure.is_container_image() { "/" } else { TASK_ROOT }
}

/// What a function may replace by variables of its own.
const DEFAULTS: [(&str, &str); 5] = [
    XRAY_CONTEXT,
    XRAY_DAEMON,
    ("LANG", "en_US.UTF-8"),
    ("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
    (
        "LD_LIBRARY_PATH",
        "/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    ),
];

/// The same for a container image, which knows best where its libraries are and what it speaks. Without a `PATH` of its own
/// it has the one that containers have elsewhere.
const IMAGE_DEFAULTS: [(&str, &str); 3] = [
    XRAY_CONTEXT,
    XRAY_DAEMON,
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
];

const XRAY_CONTEXT: (&str, &str) = ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR");
const XRAY_DAEMON: (&str, &str) = ("AWS_XRAY_DAEMON_ADDRESS", "169.254.100.1:2000");
/// Where managed runtimes are. A container image has none there, unless it says so itself.
const RUNTIME_DIRECTORY: (&str, &str) = ("LAMBDA_RUNTIME_DIR", "/var/runtime");

/// Names that a function cannot set for its runtime: they say what runs it.
const RESERVED: [&str; 16] = [
    "_HANDLER",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "LAMBDA_TASK_ROOT",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

/// Writes every variable as `KEY=VALUE`, each ended by a NUL, no key twice; gives the length in bytes, or nothing if
/// `buffer` is too small.
///
/// From the weakest to the strongest: defaults, the function's own, credentials, what the configuration says.
pub fn write(configure: &Configure<'_>, runtime_api: &str, buffer: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(buffer);
    let image = configure.is_container_image();
    let defaults: &[(&str, &str)] = if image { &IMAGE_DEFAULTS } else { &DEFAULTS };
    for (key, value) in defaults {
        let taken = |item: &[u8]| key_of(item) == key.as_bytes();
        let mut theirs = configure.environment.iter().chain(configure.credentials.iter());
        if !theirs.any(taken) {
            variable(&mut writer, key, &[value]);
        }
    }
    for item in configure.environment {
        let key = key_of(item);
        let reserved = key == b"TZ"
            || (!image && key == RUNTIME_DIRECTORY.0.as_bytes())
            || RESERVED.iter().any(|name| name.as_bytes() == key);
        let credential = configure.credentials.iter().any(|other| key_of(other) == key);
        if key.len() < item.len() && !key.is_empty() && !reserved && !credential {
            writer.push(item);
            writer.push(b"\0");
        }
    }
    for item in configure.credentials {
        if item.contains(&b'=') {
            writer.push(item);
            writer.push(b"\0");
        }
    }
    write_reserved(configure, runtime_api, &mut writer);
    writer.finish()
}

/// Names that external extensions do not find in their environment (CONTRACT 4.2), beside all that begin with `_`.
const HIDDEN: [&str; 8] = [
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_XRAY_CONTEXT_MISSING",
    "AWS_XRAY_DAEMON_ADDRESS",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "AWS_LAMBDA_EXEC_WRAPPER",
];

/// As [`write()`], for an external extension: without what is hidden from it.
pub fn write_for_extension(
    configure: &Configure<'_>,
    runtime_api: &str,
    buffer: &mut [u8],
) -> Option<usize> {
    let len = write(configure, runtime_api, buffer)?;
    let (mut from, mut to) = (0, 0);
    while from < len {
        let item = buffer.get(from..len)?;
        let item_len = item.iter().position(|byte| *byte == 0)? + 1;
        let key = key_of(item.get(..item_len - 1)?);
        let hidden = key.starts_with(b"_") || HIDDEN.iter().any(|name| name.as_bytes() == key);
        if !hidden {
            buffer.copy_within(from..from + item_len, to);
            to += item_len;
        }
        from += item_len;
    }
    Some(to)
}

fn write_reserved(configure: &Configure<'_>, runtime_api: &str, writer: &mut Writer<'_>) {
    let initialization = match configure.initialization {
        InitializationType::OnDemand => "on-demand",
        InitializationType::ProvisionedConcurrency => "provisioned-concurrency",
        InitializationType::SnapStart => "snap-start",
    };
    for (key, value) in [
        ("AWS_LAMBDA_RUNTIME_API", runtime_api),
        ("_HANDLER", configure.handler),
        ("AWS_LAMBDA_FUNCTION_NAME", configure.function_name),
        ("AWS_LAMBDA_FUNCTION_VERSION", configure.function_version),
        ("AWS_LAMBDA_LOG_GROUP_NAME", configure.log_group),
        ("AWS_LAMBDA_LOG_STREAM_NAME", configure.log_stream),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", initialization),
        ("AWS_REGION", configure.region),
        ("AWS_DEFAULT_REGION", configure.region),
        ("LAMBDA_TASK_ROOT", TASK_ROOT),
        ("TZ", ":UTC"),
    ] {
        if !value.is_empty() {
            variable(writer, key, &[value]);
        }
    }
    if !configure.is_container_image() {
        let (key, value) = RUNTIME_DIRECTORY;
        variable(writer, key, &[value]);
    }
    if !configure.runtime.is_empty() {
        variable(writer, "AWS_EXECUTION_ENV", &["AWS_Lambda_", configure.runtime]);
    }
    writer.push(b"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=");
    writer.push_decimal(configure.memory_bytes >> 20);
    writer.push(b"\0");
}

/// One variable; a value that holds a NUL would be two, so it ends there.
fn variable(writer: &mut Writer<'_>, key: &str, values: &[&str]) {
    writer.push(key.as_bytes());
    writer.push(b"=");
    for value in values {
        let value = value.as_bytes();
        writer.push(value.split(|byte| *byte == 0).next().unwrap_or(&[]));
    }
    writer.push(b"\0");
}

/// What stands before the first `=`; all of it without one.
fn key_of(item: &[u8]) -> &[u8] {
    item.split(|byte| *byte == b'=').next().unwrap_or(&[])
}

/// The value of `key` among variables as [`write()`] writes them.
#[must_use]
pub fn value_of<'a>(variables: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut items = variables.split(|byte| *byte == 0);
    items.find_map(|item| item.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
}
