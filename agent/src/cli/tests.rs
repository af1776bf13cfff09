//! The arguments themselves.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn an_event_is_json_of_a_size_that_is_allowed() {
    assert_eq!(read_event("{\"a\": 1}").unwrap(), b"{\"a\": 1}");
    assert_eq!(read_event("null").unwrap(), b"null");
    for text in ["", "{", "{} {}", "'a'", "NaN"] {
        assert!(matches!(read_event(text), Err(UsageError::NotJson { .. })), "{text:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("event.json");
    let at = format!("@{}", path.display());
    assert!(matches!(read_event(&at), Err(UsageError::Unreadable { .. })));
    let max = usize::try_from(REQUEST_PAYLOAD_MAX).unwrap();
    for (len, ok) in [(max, true), (max + 1, false), (max + 1000, false)] {
        std::fs::write(&path, format!("\"{}\"", "x".repeat(len - 2))).unwrap();
        match read_event(&at) {
            Ok(event) => assert!(ok && event.len() == len),
            Err(error) => assert!(!ok && matches!(error, UsageError::TooLarge), "{error}"),
        }
    }
}

#[test]
fn a_response_that_is_not_json_becomes_text() {
    assert_eq!(as_json(b"{\"a\":[1]}"), json!({ "a": [1] }));
    assert_eq!(as_json(b"plain"), json!("plain"));
}

#[test]
fn code_is_a_zip_or_an_image_and_not_both() {
    let parse = |code: &[&str]| {
        let start = ["votive", "run", "--runtime", "r", "--handler", "h", "--event", "{}"];
        Cli::try_parse_from(start.iter().chain(code)).is_ok()
    };
    assert!(parse(&["--zip", "a"]) && parse(&["--code-image", "a"]));
    assert!(!parse(&[]) && !parse(&["--zip", "a", "--code-image", "b"]));
}

#[test]
fn a_version_s_code_is_a_zip_or_an_artifact_which_may_be_an_image() {
    let parse = |code: &[&str]| {
        let start = ["votive", "functions", "register", "--name", "f", "--identity", "i"];
        Cli::try_parse_from(start.iter().chain(code)).is_ok()
    };
    let named = ["--runtime", "r", "--handler", "h"];
    assert!(parse(&[&named[..], &["--zip", "a"]].concat()));
    assert!(parse(&[&named[..], &["--artifact", "a"]].concat()));
    assert!(parse(&["--artifact", "a"]));
    assert!(parse(&["--artifact", "a", "--entry-point", "/e", "--entry-point", "-x"]));
    assert!(parse(&["--artifact", "a", "--command", "c", "--working-directory", "/w"]));
    assert!(!parse(&["--zip", "a"]), "a ZIP has a runtime");
    assert!(!parse(&[&named[..], &["--zip", "a", "--artifact", "b"]].concat()));
    assert!(!parse(&[&named[..], &["--zip", "a", "--command", "c"]].concat()));
    assert!(!parse(&named));
}
