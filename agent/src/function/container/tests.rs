//! Whose command, folder and variables win.

use super::*;
use crate::function::FunctionSpec;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn image() -> ContainerConfig {
    ContainerConfig {
        entrypoint: texts(&["/entry", "-x"]),
        command: texts(&["app.handler"]),
        environment: pairs(&[("PATH", "/a"), ("BB", "1"), ("PATH", "/b"), ("C", "x=y")]),
        working_folder: String::from("/var/task"),
        user: String::from("root"),
    }
}

fn spec(config: ImageConfig, environment: &[(&str, &str)]) -> FunctionSpec {
    FunctionSpec {
        container: Some(config),
        environment: pairs(environment),
        ..FunctionSpec::new("", "")
    }
}

fn container(
    config: ImageConfig,
    environment: &[(&str, &str)],
) -> Result<Container, FunctionError> {
    Container::new(&image(), &spec(config, environment).validate()?)
}

#[test]
fn what_is_not_overridden_is_the_image_s() {
    let whole = container(ImageConfig::default(), &[]).unwrap();
    assert_eq!(whole.arguments(), b"/entry\0-x\0app.handler\0");
    assert_eq!(whole.working_directory(), "/var/task");
    assert_eq!(whole.environment(), b"BB=1\0PATH=/b\0C=x=y\0");
    let config = ImageConfig { entry_point: texts(&["/other"]), ..ImageConfig::default() };
    let entry = container(config, &[("BB", "2"), ("D1", "")]).unwrap();
    assert_eq!(entry.arguments(), b"/other\0app.handler\0");
    assert_eq!(entry.environment(), b"PATH=/b\0C=x=y\0BB=2\0D1=\0");
    let config = ImageConfig {
        command: texts(&["h", ""]),
        working_directory: String::from("/w"),
        ..ImageConfig::default()
    };
    let command = container(config, &[]).unwrap();
    assert_eq!(command.arguments(), b"/entry\0-x\0h\0\0");
    assert_eq!(command.working_directory(), "/w");
}

#[test]
fn what_cannot_be_passed_on_is_refused_with_its_field() {
    let refused = |config| container(config, &[]).unwrap_err().to_string();
    let with = |entry_point: &[&str]| ImageConfig {
        entry_point: texts(entry_point),
        ..ImageConfig::default()
    };
    assert_eq!(refused(with(&["a\0b"])), "entry point: it holds a NUL");
    let long = "x".repeat(ARGUMENTS_MAX);
    assert!(refused(with(&[&long])).starts_with("entry point: 8192 bytes are allowed"));
    // Each is short enough, and both together are not.
    let long = "x".repeat(ARGUMENTS_MAX - 8);
    assert!(refused(with(&[&long])).starts_with("command line: 8192 bytes"));
    for folder in ["w", "/\0", &format!("/{}", "w".repeat(STRING_MAX))] {
        let config = ImageConfig { working_directory: folder.to_owned(), ..ImageConfig::default() };
        assert!(refused(config).starts_with("working directory: an absolute path"), "{folder:?}");
    }
    let function = spec(ImageConfig::default(), &[]).validate().unwrap();
    let bare = ContainerConfig { entrypoint: Vec::new(), command: Vec::new(), ..image() };
    let error = Container::new(&bare, &function).unwrap_err();
    assert_eq!(error, FunctionError::NoCommand);
    let full = pairs(&[("A", &"v".repeat(ENVIRONMENT_MAX))]);
    let full = ContainerConfig { environment: full, ..image() };
    let error = Container::new(&full, &function).unwrap_err().to_string();
    assert!(error.starts_with("environment: 16384 bytes"), "{error}");
}

#[test]
fn an_image_has_neither_runtime_nor_handler() {
    for (runtime, handler) in [("provided", ""), ("", "h"), ("provided", "h")] {
        let spec = FunctionSpec {
            container: Some(ImageConfig::default()),
            ..FunctionSpec::new(runtime, handler)
        };
        assert_eq!(spec.validate().unwrap_err(), FunctionError::ImageRuntime);
    }
    assert!(FunctionSpec::new("", "").validate().is_err(), "what is no image has both");
}

#[test]
fn other_overrides_have_other_digests() {
    let with = |entry_point: &[&str], command: &[&str], folder: &str| ImageConfig {
        entry_point: texts(entry_point),
        command: texts(command),
        working_directory: folder.to_owned(),
    };
    let all = [
        with(&[], &[], ""),
        with(&["a"], &[], ""),
        with(&[], &["a"], ""),
        with(&[], &[], "a"),
        with(&["a", ""], &[], ""),
        with(&["a"], &["b"], ""),
        with(&["a", "b"], &[], ""),
        with(&["ab"], &[], ""),
    ];
    let digests: std::collections::HashSet<_> = all.iter().map(ImageConfig::digest).collect();
    assert_eq!(digests.len(), all.len());
}
