//! Tests of the demo's script, with a `votive` that is played.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::{FUNCTIONS, script};

#[test]
fn every_function_runs_though_one_fails_and_then_the_demo_fails() {
    let folder = tempfile::tempdir().unwrap();
    // A folder with a quote in its name must not leave the script's quotes.
    let home = folder.path().join("it's here");
    fs::create_dir_all(home.join("bin")).unwrap();
    let votive = home.join("bin/votive");
    fs::write(&votive, "#!/bin/sh\necho \"$4 $5 ${11}\"\n[ \"$5\" != nodejs24 ]\n").unwrap();
    fs::set_permissions(&votive, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("sh").args(["-c", &script(&home)]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for function in FUNCTIONS {
        let line = format!("--runtime {} {}", function.runtime, function.event);
        assert!(text.contains(&line), "{line} is not in {text}");
        assert!(text.contains(function.title));
    }
    assert_eq!(output.status.code(), Some(1));
}
