//! What is sealed with a container image comes back as it was, and nothing else is taken for it.

use proptest::prelude::*;

use super::*;

const WRITTEN: &str = r#"{"entrypoint":["/run"],"command":["a","b c"],"environment":[["PATH","/bin"],["E",""]],"workingFolder":"/","user":"7:7"}"#;

fn config() -> ContainerConfig {
    ContainerConfig {
        entrypoint: vec!["/run".into()],
        command: vec!["a".into(), "b c".into()],
        environment: vec![("PATH".into(), "/bin".into()), ("E".into(), String::new())],
        working_folder: "/".into(),
        user: "7:7".into(),
    }
}

#[test]
fn it_is_written_in_one_way() {
    assert_eq!(std::str::from_utf8(&config().encode()), Ok(WRITTEN));
    assert_eq!(ContainerConfig::parse(WRITTEN.as_bytes()), Ok(config()));
    let replaced = |from: &str, to: &str| {
        let other = WRITTEN.replace(from, to);
        assert_ne!(other, WRITTEN, "{from} is in it");
        ContainerConfig::parse(other.as_bytes())
    };
    let malformed = Err(ConfigError::Malformed);
    assert_eq!(ContainerConfig::parse(b""), malformed);
    assert_eq!(ContainerConfig::parse(b"{}"), malformed);
    assert_eq!(ContainerConfig::parse(format!("{WRITTEN} ").as_bytes()), malformed);
    assert_eq!(replaced(":[\"/run\"]", ": [\"/run\"]"), malformed);
    assert_eq!(replaced("/run", "\\u002frun"), malformed);
    assert_eq!(replaced("}", ",\"more\":1}"), malformed);
    assert_eq!(replaced("}", ",\"user\":\"0\"}"), malformed);
    assert_eq!(replaced(",\"user\":\"7:7\"", ""), malformed);
    assert_eq!(replaced("[\"/run\"]", "null"), malformed);
    assert_eq!(replaced("[\"E\",\"\"]", "[\"E\"]"), malformed);
}

#[test]
fn what_no_image_may_say_is_refused_when_it_comes_back_too() {
    let parsed = |config: &ContainerConfig| ContainerConfig::parse(&config.encode());
    let nul = ContainerConfig { command: vec!["a\0b".into()], ..config() };
    assert_eq!(parsed(&nul), Err(ConfigError::Nul { field: "CMD" }));
    let relative = ContainerConfig { working_folder: "task".into(), ..config() };
    assert_eq!(parsed(&relative), Err(ConfigError::WorkingFolder { text: "task".into() }));
    for name in ["", "a=b"] {
        let variable = ContainerConfig { environment: vec![(name.into(), "v".into())], ..config() };
        let text = format!("{name}=v");
        assert_eq!(parsed(&variable), Err(ConfigError::Variable { text }));
    }
    let bytes = "a".repeat(CONFIG_BYTES);
    let large = ContainerConfig { command: vec![bytes], ..config() };
    assert_eq!(parsed(&large), Err(ConfigError::TooLarge));
    let many = ContainerConfig { command: vec![String::new(); CONFIG_STRINGS], ..config() };
    assert_eq!(parsed(&many), Err(ConfigError::TooLarge));
    // Few enough bytes, but not as JSON.
    let control = "\u{1}".repeat(CONFIG_BYTES / 2);
    let long = ContainerConfig { command: vec![control], ..config() };
    assert_eq!(long.clone().checked(), Err(ConfigError::TooLarge));
    assert_eq!(parsed(&long), Err(ConfigError::TooLarge));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        (entrypoint, command) in (strings(), strings()),
        environment in prop::collection::vec(("[^=\0]{1,5}", "[^\0]{0,5}"), 0..4),
        folder in "/[^\0]{0,5}",
        user in "[^\0]{0,5}",
    ) {
        let config =
            ContainerConfig { entrypoint, command, environment, working_folder: folder, user };
        prop_assert_eq!(ContainerConfig::parse(&config.encode()), Ok(config));
    }
}

fn strings() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[^\0]{0,5}", 0..4)
}
