//! Where a KMS is, by its name and by the environment.

use super::KmsSpec;

const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn nothing(_: &str) -> Option<String> {
    None
}

/// Region and endpoint, where the environment says nothing.
fn place(text: &str) -> (String, String) {
    let spec = KmsSpec::parse(text).unwrap();
    let region = spec.region(nothing).unwrap();
    let endpoint = spec.endpoint(&region, nothing).unwrap();
    (region, endpoint.to_string())
}

#[test]
fn a_name_tells_key_place_and_region() {
    let check = |text: &str, region: &str, endpoint: &str| {
        assert_eq!(place(text), (region.to_owned(), endpoint.to_owned()), "{text}");
    };
    check(ARN, "eu-west-1", "https://kms.eu-west-1.amazonaws.com/");
    check("alias/votive?region=us-east-2", "us-east-2", "https://kms.us-east-2.amazonaws.com/");
    check(&format!("alias/a,{ARN}"), "eu-west-1", "https://kms.eu-west-1.amazonaws.com/");
    check(&format!("{ARN}?region=us-east-2"), "us-east-2", "https://kms.us-east-2.amazonaws.com/");
    check("k?region=cn-north-1", "cn-north-1", "https://kms.cn-north-1.amazonaws.com.cn/");
    check("//kms.local:8443/alias/votive?region=r", "r", "https://kms.local:8443/");
    check("//[::1]:80/k?region=r&scheme=http", "r", "http://[::1]/");
    check("//127.0.0.1:9/k?scheme=http&region=r", "r", "http://127.0.0.1:9/");
    check("///k?region=r", "r", "https://kms.r.amazonaws.com/");
}

#[test]
fn a_name_is_written_as_it_is_read() {
    for text in [
        "alias/votive",
        "k,alias/b?region=r",
        "//kms.local:8443/k?region=r",
        "//127.0.0.1:9/k?region=r&scheme=http",
    ] {
        let spec = KmsSpec::parse(text).unwrap();
        assert_eq!(spec.to_string(), format!("awskms:{text}"));
    }
}

#[test]
fn keys_go_to_no_place_that_is_not_meant() {
    for text in [
        "",
        "?region=r",
        "//host",
        "//host/",
        "a,,b",
        "a key",
        "k?region=",
        "k?region=a.b",
        "k?region=kms.example.com%2f",
        "k?port=1",
        "k?scheme=ftp",
        "k?scheme=http",
        "//kms.local/k?scheme=http",
        "//127.0.0.1.example.com/k?scheme=http",
        "//10.0.0.1/k?scheme=http",
        "//user@host/k",
        "//host:99999/k",
        "//1.2.3.999/k",
        "//xn--zzzz--/k",
        "//[::1/k",
    ] {
        assert!(KmsSpec::parse(text).is_err(), "{text}");
    }
    assert!(KmsSpec::parse(&vec!["k"; 1001].join(",")).is_err());
}

#[test]
fn the_environment_says_what_the_name_does_not() {
    let environment = |wanted: &'static str, value: &'static str| {
        move |name: &str| (name == wanted).then(|| value.to_owned())
    };
    let spec = KmsSpec::parse("alias/votive").unwrap();
    spec.region(nothing).unwrap_err();
    assert_eq!(spec.region(environment("AWS_REGION", "eu-west-1")).unwrap(), "eu-west-1");
    assert_eq!(spec.region(environment("AWS_DEFAULT_REGION", "eu-west-1")).unwrap(), "eu-west-1");
    spec.region(environment("AWS_REGION", "evil.example/")).unwrap_err();
    let endpoint = |name, value| spec.endpoint("r", environment(name, value));
    for name in ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"] {
        assert_eq!(endpoint(name, "http://localhost:4566").unwrap().port(), Some(4566));
        for wrong in ["http://kms.local", "localhost", "https://host/path", "https://host?a=b"] {
            let error = endpoint(name, wrong).unwrap_err().to_string();
            assert!(error.contains(name), "{wrong}: {error}");
        }
    }
    // Where the name says it, the environment is not asked.
    let spec = KmsSpec::parse("//host/k?region=r").unwrap();
    let other = environment("AWS_ENDPOINT_URL_KMS", "https://other");
    assert_eq!(spec.endpoint("r", other).unwrap().host_str(), Some("host"));
}
