//! Addresses as people write them.

use super::*;

#[test]
fn an_address_is_read_and_written_alike() {
    for text in [
        "https://localhost:7443",
        "https://10.0.0.7:1",
        "https://[::1]:65535",
        "https://worker-7.fleet.example:443",
        "unix:/run/votive/control.sock",
        "unix:relative.sock",
    ] {
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
    }
    assert_eq!("unix:///run/x".parse(), Ok(Address::Unix { path: PathBuf::from("/run/x") }));
    for path in ["//x", "///x", "////"] {
        let address = Address::Unix { path: PathBuf::from(path) };
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    let slash = Address::Tcp { host: String::from("a"), port: 1 };
    assert_eq!("https://a:1/".parse(), Ok(slash));
}

#[test]
fn a_server_is_called_by_its_host_and_a_socket_localhost() {
    for (text, name) in [
        ("https://[::1]:1", "::1"),
        ("https://a.example:1", "a.example"),
        ("unix:/run/x", "localhost"),
    ] {
        assert_eq!(text.parse::<Address>().unwrap().server_name(), name);
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let long_path = format!("unix:/{}", "a".repeat(UNIX_PATH_MAX));
    let long_host = format!("https://{}:1", "a".repeat(HOST_MAX + 1));
    let cases = [
        ("", AddressError::Scheme),
        ("http://localhost:1", AddressError::Scheme),
        ("localhost:1", AddressError::Scheme),
        ("https://localhost", AddressError::Port),
        ("https://localhost:", AddressError::Port),
        ("https://localhost:0", AddressError::Port),
        ("https://localhost:+1", AddressError::Port),
        ("https://localhost:65536", AddressError::Port),
        ("https://localhost:1/path", AddressError::Port),
        ("https://:1", AddressError::Host),
        ("https://::1:1", AddressError::Host),
        ("https://[::1:1", AddressError::Host),
        ("https://[127.0.0.1]:1", AddressError::Host),
        ("https://user@host:1", AddressError::Host),
        ("https://a\r\nb:1", AddressError::Host),
        (long_host.as_str(), AddressError::Host),
        ("unix:", AddressError::Path),
        ("unix:/a\0b", AddressError::Path),
        (long_path.as_str(), AddressError::Path),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
    }
}
