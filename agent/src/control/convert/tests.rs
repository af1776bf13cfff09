//! Values that could be mistaken.

use super::*;

#[test]
fn hashes_are_base64_as_everybody_writes_it() {
    // RFC 4648, section 10.
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    assert_eq!(base64(&[0xff; 32]), "//////////////////////////////////////////8=");
}

#[test]
fn a_duration_is_positive_and_has_a_default() {
    let value = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let read = |value| read_duration("timeout", value, Duration::from_secs(3));
    assert_eq!(read(None).unwrap(), Duration::from_secs(3));
    assert_eq!(read(value(1, 500_000_000)).unwrap(), Duration::from_millis(1500));
    assert_eq!(read(value(0, 0)).unwrap(), Duration::ZERO);
    let limits = [value(i64::MIN, i32::MIN), value(i64::MAX, i32::MAX)];
    for wrong in [value(-1, 0), value(0, -1), value(1, 1_000_000_000)].into_iter().chain(limits) {
        assert_eq!(read(wrong).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
    assert_eq!(read(value(i64::MAX, 0)).unwrap(), Duration::from_secs(i64::MAX as u64));
    assert_eq!(duration(Duration::MAX).seconds, i64::MAX);
}

#[test]
fn a_registration_has_defaults_and_needs_an_absolute_path() {
    let zip = |path: &str| v1::Code { source: Some(v1::code::Source::ZipPath(path.to_owned())) };
    let request = |code| v1::RegisterFunctionVersionRequest { code, ..Default::default() };
    let spec = function_version_spec(request(Some(zip("/a.zip")))).unwrap();
    assert_eq!(spec.timeout, Duration::from_secs(3));
    assert_eq!(spec.init_timeout, Duration::from_secs(10));
    assert_eq!(spec.log_format, LogFormat::Text);
    assert_eq!(spec.code, CodeSource::Zip("/a.zip".into()));
    assert!(spec.image_config.is_empty());
    let artifact = |identity: &str| {
        let source = Some(v1::code::Source::Artifact(identity.to_owned()));
        function_version_spec(request(Some(v1::Code { source })))
    };
    let arn = "arn:aws:lambda:us-east-1:012345678912:function:f:1";
    assert_eq!(artifact(arn).unwrap().code, CodeSource::Artifact(arn.to_owned()));
    for identity in ["", "a b", "a\n", "\u{e4}", &"x".repeat(4096)] {
        let refused = artifact(identity).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{identity:?}");
    }
    let config = v1::ImageConfig {
        entry_point: vec![String::from("/e")],
        command: vec![String::from("c")],
        working_directory: String::from("/w"),
    };
    let over = v1::RegisterFunctionVersionRequest {
        image_config: Some(config),
        ..request(Some(zip("/a.zip")))
    };
    let over = function_version_spec(over).unwrap().image_config;
    assert_eq!((&*over.entry_point[0], &*over.command[0]), ("/e", "c"));
    assert_eq!(over.working_directory, "/w");
    for code in [None, Some(v1::Code::default()), Some(zip("")), Some(zip("a")), Some(zip("/a\0"))]
    {
        let refused = function_version_spec(request(code)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
    let unknown = v1::RegisterFunctionVersionRequest { log_format: 7, ..request(Some(zip("/a"))) };
    assert_eq!(function_version_spec(unknown).unwrap_err().code(), tonic::Code::InvalidArgument);
}
