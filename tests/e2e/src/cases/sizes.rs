//! The largest that may pass passes whole, and many at once do not disturb each other.

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};

use super::Case;
use crate::bootstrap::largest;
use crate::harness::Function;

pub(super) const CASES: &[(&str, Case)] = &[
    ("an_event_of_6_mib_comes_back_whole", largest_event),
    ("a_response_of_6_mib_and_100_bytes_comes_whole", largest_response),
    ("eight_microvms_at_once_each_answer", eight_at_once),
];

fn largest_event() -> Result<()> {
    // Not one byte like the next, so that a piece in the wrong place shows.
    let text: String = (0..6 * 1024 * 1024 - 2)
        .map(|place: u32| char::from(b'a' + (place.wrapping_mul(2_654_435_761) >> 24) as u8 % 26))
        .collect();
    let event = format!("\"{text}\"");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("event.json");
    std::fs::write(&file, &event)?;
    let ended = Function::probe("echo").run(&["--event", &format!("@{}", file.display())])?;
    ensure!(ended.status.success(), "{}", ended.stderr);
    let answer = ended.stdout.strip_suffix(b"\n").unwrap_or_default();
    ensure!(answer.len() == event.len(), "{} bytes of {}", answer.len(), event.len());
    ensure!(answer == event.as_bytes(), "its content changed");
    Ok(())
}

fn largest_response() -> Result<()> {
    let ended = Function::probe("largest").run(&["--event", "{}"])?;
    ensure!(ended.status.success(), "{}", ended.stderr);
    ensure!(ended.stdout.strip_suffix(b"\n") == Some(&largest()), "its content changed");
    Ok(())
}

fn eight_at_once() -> Result<()> {
    let events: Vec<Value> = (0..8).map(|number| json!({ "number": number })).collect();
    let threads: Vec<_> = events
        .iter()
        .cloned()
        .map(|event| {
            std::thread::spawn(move || {
                Function::probe("echo").invoke(&event).map(|ran| (event, ran))
            })
        })
        .collect();
    for thread in threads {
        let (event, ran) = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        ensure!(ran.code == 0 && ran.response == event, "{ran:?}");
    }
    Ok(())
}
