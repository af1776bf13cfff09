//! The table of extensions and their registrations.

use super::*;

fn parse(body: &str) -> Result<Registration, FormatError> {
    Registration::parse(body.as_bytes())
}

#[test]
fn a_registration_names_events() {
    let both = parse("{\"events\":[\"INVOKE\",\"SHUTDOWN\",\"INVOKE\"],\"x\":[{}]}").unwrap();
    assert_eq!(both.events(), ExtensionEvents { invoke: true, shutdown: true });
    assert_eq!(both.check(true), Ok(()));
    let refused = both.check(false).unwrap_err();
    assert_eq!(refused.name(), "SHUTDOWN");
    assert_eq!(refused.reason(), "ShutdownEventNotSupportedForInternalExtension");
    for body in ["{}", "null", "{\"events\":null}", "{\"EVENTS\":[]}"] {
        assert_eq!(parse(body).unwrap().events(), ExtensionEvents::default(), "{body}");
    }
    let last = parse("{\"events\":[\"FOO\"],\"Events\":[\"INVOKE\"]}").unwrap();
    assert_eq!(last.check(false), Ok(()));
}

#[test]
fn the_first_event_that_does_not_exist_is_named() {
    let wrong = parse("{\"events\":[\"INVOKE\",\"FOO\",\"SHUTDOWN\",\"BAR\"]}").unwrap();
    for external in [true, false] {
        let refused = wrong.check(external).unwrap_err();
        assert_eq!((refused.name(), refused.reason()), ("FOO", "ErrorInvalidEventType"));
    }
    let long = format!("{{\"events\":[\"{}\"]}}", "\u{e9}".repeat(60));
    assert_eq!(parse(&long).unwrap().check(true).unwrap_err().name(), "\u{e9}".repeat(32));
}

#[test]
fn a_body_of_another_shape_is_refused() {
    for body in
        ["[]", "1", "{\"events\":{}}", "{\"events\":[1]}", "{} x", "{\"events\":\"INVOKE\"}"]
    {
        assert_eq!(parse(body), Err(FormatError::Malformed), "{body}");
    }
    assert_eq!(parse(""), Err(FormatError::End));
    assert_eq!(parse("{\"events\":["), Err(FormatError::End));
    assert_eq!(parse("{\"configurationKeys\":[\"a\"]}"), Err(FormatError::ConfigurationKeys));
    assert!(parse("{\"configurationKeys\":[]}").is_ok());
}

#[test]
fn ten_extensions_register_and_no_eleventh() {
    let mut extensions = Extensions::new();
    let registration = parse("{\"events\":[\"INVOKE\"]}").unwrap();
    let slot = extensions.add_external("outer", [99; 16]).unwrap();
    assert!(!extensions.all_registered() && extensions.has_external());
    for number in 0..9 {
        extensions.register(&format!("inner{number}"), &registration, [number; 16]).unwrap();
    }
    let too_many = extensions.register("inner9", &registration, [9; 16]);
    assert_eq!(too_many, Err(RegisterError::TooMany));
    assert_eq!(extensions.register("outer", &registration, [9; 16]), Ok(slot));
    assert!(extensions.all_registered());
    let again = Refused { from: ExtensionState::Registered, to: ExtensionState::Registered };
    let refused = extensions.register("outer", &registration, [9; 16]);
    assert_eq!(refused, Err(RegisterError::State(again)));
    assert_eq!(extensions.find([99; 16]), Some(slot));
    assert_eq!(extensions.find([9; 16]), None);
    assert_eq!(extensions.add_external("another", [98; 16]), None);
}

#[test]
fn an_internal_extension_registers_once_and_in_time() {
    let mut extensions = Extensions::new();
    let registration = Registration::default();
    assert_eq!(extensions.register("a", &registration, [1; 16]), Ok(0));
    assert_eq!(extensions.register("a", &registration, [2; 16]), Err(RegisterError::Taken));
    extensions.close();
    assert_eq!(extensions.register("b", &registration, [3; 16]), Err(RegisterError::Closed));
}

#[test]
fn transitions_are_those_of_the_picture() {
    let mut extensions = Extensions::new();
    let slot = extensions.register("a", &Registration::default(), [1; 16]).unwrap();
    extensions.ready(slot, false).unwrap();
    let waits = Refused { from: ExtensionState::Ready, to: ExtensionState::Ready };
    assert_eq!(extensions.ready(slot, false), Err(waits));
    assert_eq!(extensions.ready(slot, true), Ok(()));
    let late = Refused { from: ExtensionState::Ready, to: ExtensionState::InitError };
    assert_eq!(extensions.init_error(slot, "E"), Err(late));
    extensions.running(slot);
    assert!(!extensions.all_ready(|_| true) && extensions.all_ready(|_| false));
    extensions.ready(slot, false).unwrap();
    assert!(extensions.all_ready(|_| true));
    extensions.exit_error(slot, "First.Error").unwrap();
    extensions.exit_error(slot, "Second.Error").unwrap();
    assert_eq!(extensions.get(slot).unwrap().error_type(), "First.Error");
    let over = Refused { from: ExtensionState::ExitError, to: ExtensionState::Ready };
    assert_eq!(extensions.ready(slot, false), Err(over));
    let other = extensions.register("b", &Registration::default(), [2; 16]).unwrap();
    extensions.init_error(other, &"x".repeat(200)).unwrap();
    assert_eq!(extensions.get(other).unwrap().error_type().len(), EXTENSION_ERROR_MAX);
    let exited = Refused { from: ExtensionState::InitError, to: ExtensionState::Exited };
    assert_eq!(extensions.exit_error(other, "E"), Err(exited));
}

#[test]
fn identifiers_are_read_in_every_form() {
    let id = [0x12; 16];
    for text in [
        "12121212-1212-1212-1212-121212121212",
        "12121212121212121212121212121212",
        "{12121212-1212-1212-1212-121212121212}",
        "urn:uuid:12121212-1212-1212-1212-121212121212",
    ] {
        assert_eq!(parse_id(text.as_bytes()), Some(id), "{text}");
    }
    for text in
        ["", "1212", "12121212x1212-1212-1212-121212121212", "g2121212121212121212121212121212"]
    {
        assert_eq!(parse_id(text.as_bytes()), None, "{text}");
    }
    let id = new_id([0xff; 16]);
    assert_eq!((id[6], id[8]), (0x4f, 0xbf));
}
