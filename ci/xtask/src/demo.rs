//! `cargo xtask demo`: three real functions, each in a microVM of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use votive_lab::Job;

use crate::cache::Cache;
use crate::image;
use crate::place::{self, Place};
use crate::progress::Progress;
use crate::setup;
use crate::subprocess::Running;

/// A function of the demo.
struct Function {
    title: &'static str,
    runtime: &'static str,
    handler: &'static str,
    /// Its code, among the images.
    zip: &'static str,
    event: &'static str,
}

const FUNCTIONS: &[Function] = &[
    Function {
        title: "Python 3.11, awslambdaric",
        runtime: "python3.11",
        handler: "app.handler",
        zip: "functions/python.zip",
        event: r#"{"name": "votive", "numbers": [3, 1, 4, 1, 5]}"#,
    },
    Function {
        title: "Node.js 24, aws-lambda-ric",
        runtime: "nodejs24",
        handler: "app.handler",
        zip: "functions/node.zip",
        event: r#"{"name": "votive", "numbers": [3, 1, 4, 1, 5]}"#,
    },
    Function {
        title: "Rust, lambda_runtime with its own bootstrap",
        runtime: "provided",
        handler: "bootstrap",
        zip: "functions/rust.zip",
        event: r#"{"name": "votive", "numbers": [3, 1, 4, 1, 5]}"#,
    },
];

/// The longest that the three may take; the lab is about fifty times slower than hardware.
const LIMIT: Duration = Duration::from_secs(900);

/// Builds all that is needed and runs the functions; fails if one of them does.
pub(crate) fn run(progress: &Progress) -> Result<ExitCode> {
    setup::run(progress)?;
    image(None, progress)?;
    let cache = Cache::open()?;
    let code = match Place::find(&cache, progress)? {
        Place::Host => {
            let script = script(&cache.current());
            let mut shell = Command::new("sh");
            Running::start(shell.args(["-c", &script]))?.wait(LIMIT, || ())?.code().unwrap_or(1)
        }
        Place::Lab(lab) => {
            let script = script(Path::new(place::LAB_IMAGES));
            let mut job = place::with_images(Job::new(["/bin/sh", "-c", &script]), &cache)?;
            job.timeout = LIMIT;
            lab.run(&job, &mut place::pass_on)?.exit
        }
    };
    Ok(if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The shell script that runs the functions one after another, with the images in `home`.
fn script(home: &Path) -> String {
    let home = home.display().to_string();
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut script = String::from("failed=0\n");
    for function in FUNCTIONS {
        // Writing to a String cannot fail.
        let _ = writeln!(
            script,
            "echo; echo {}\n{} run --images {} --runtime {} --handler {} --zip {} --event {} \
             --timeout 60 --init-timeout 60 2>&1 || failed=1",
            quote(&format!("== {}", function.title)),
            quote(&format!("{home}/bin/votive")),
            quote(&home),
            function.runtime,
            function.handler,
            quote(&format!("{home}/{}", function.zip)),
            quote(function.event),
        );
    }
    script + "exit $failed\n"
}

#[cfg(test)]
mod tests;
