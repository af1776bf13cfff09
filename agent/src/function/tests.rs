//! Each field at and beyond its limits.

use super::*;

fn spec() -> FunctionSpec {
    FunctionSpec::new("python3.11", "app.handler")
}

fn refused(spec: FunctionSpec) -> String {
    spec.validate().unwrap_err().to_string()
}

#[test]
fn the_defaults_are_valid() {
    let function = spec().validate().unwrap();
    assert_eq!(function.memory_mb(), 128);
    assert_eq!(function.timeout(), Duration::from_secs(3));
    assert_eq!(function.init_timeout(), Duration::from_secs(10));
    assert_eq!(function.arn(), "arn:aws:lambda:us-east-1:012345678912:function:function");
}

#[test]
fn numbers_are_taken_at_their_limits_and_refused_beyond() {
    for memory_mb in [128, 10_240] {
        assert!(FunctionSpec { memory_mb, ..spec() }.validate().is_ok());
    }
    for memory_mb in [0, 127, 10_241, u32::MAX] {
        let text = refused(FunctionSpec { memory_mb, ..spec() });
        assert_eq!(text, format!("memory {memory_mb} MB: 128 to 10240 MB are allowed"));
    }
    for timeout_s in [1, 900] {
        assert!(FunctionSpec { timeout_s, ..spec() }.validate().is_ok());
    }
    for timeout_s in [0, 901] {
        let text = refused(FunctionSpec { timeout_s, ..spec() });
        assert_eq!(text, format!("timeout {timeout_s} s: 1 to 900 s are allowed"));
    }
}

#[test]
fn a_runtime_cannot_name_a_file_elsewhere() {
    for runtime in ["", "..", "../x", "a/b", "/etc/passwd", "Python", "a\0", "é", &"a".repeat(65)]
    {
        assert!(FunctionSpec::new(runtime, "h").validate().is_err(), "{runtime:?}");
    }
}

#[test]
fn every_provided_runtime_is_served_by_one_image() {
    for (runtime, image, told) in [
        ("provided", "provided", ""),
        ("provided.al2023", "provided", ""),
        ("python3.11", "python3.11", "python3.11"),
    ] {
        let function = FunctionSpec::new(runtime, "h").validate().unwrap();
        assert_eq!((function.image(), function.execution_runtime()), (image, told));
    }
}

#[test]
fn handlers_and_names_are_bounded() {
    let longest = "h".repeat(128);
    assert!(FunctionSpec::new("provided", &longest).validate().is_ok());
    for handler in ["", "a b", "a\nb", &"h".repeat(129)] {
        assert!(FunctionSpec::new("provided", handler).validate().is_err(), "{handler:?}");
    }
    for name in ["", "a/b", "ä", &"n".repeat(65)] {
        let name = String::from(name);
        assert!(FunctionSpec { name, ..spec() }.validate().is_err());
    }
}

#[test]
fn environment_variables_are_those_that_the_contract_allows() {
    let with = |variables: &[(&str, &str)]| {
        let owned = |(key, value): &(&str, &str)| (String::from(*key), String::from(*value));
        let environment = variables.iter().map(owned).collect();
        FunctionSpec { environment, ..spec() }.validate()
    };
    assert_eq!(with(&[("AB", "1"), ("c_3", "")]).unwrap().environment_bytes(), b"AB=1\0c_3=\0");
    for key in ["", "A", "1A", "_A", "A-B", "A B", "Ä1"] {
        assert!(with(&[(key, "1")]).is_err(), "{key:?}");
    }
    for key in RESERVED {
        let error = with(&[(key, "1")]).unwrap_err();
        assert!(matches!(error, FunctionError::EnvironmentReserved { .. }), "{key}: {error}");
    }
    assert!(matches!(with(&[("AB", "\0")]), Err(FunctionError::EnvironmentValue { .. })));
    assert!(matches!(
        with(&[("AB", "1"), ("AB", "2")]),
        Err(FunctionError::EnvironmentTwice { .. })
    ));
    assert!(with(&[("AB", &"x".repeat(4094))]).is_ok());
    let error = with(&[("AB", &"x".repeat(4095))]).unwrap_err();
    assert_eq!(error, FunctionError::EnvironmentTooLong { len: 4097 });
}

#[test]
fn memory_buys_processors_and_costs_accounts() {
    for (memory_mb, vcpus, mib) in
        [(128, 1, 194), (1769, 1, 1861), (1770, 2, 1862), (10_240, 6, 10_464)]
    {
        let function = FunctionSpec { memory_mb, ..spec() }.validate().unwrap();
        assert_eq!((function.vcpus(), function.microvm_memory_mib()), (vcpus, mib));
    }
}
