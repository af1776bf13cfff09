//! Tests of reading what apt prints.

use super::{Package, listing, parse_uri_line};

#[test]
fn a_line_of_apt_names_package_and_version() {
    let line = "'http://mirror/pool/main/a/attr/libattr1_2.5.1-4_amd64.deb' \
                libattr1_1%3a2.5.1-4_amd64.deb 22164 MD5Sum:52fe";
    let package = parse_uri_line(line).unwrap().unwrap();
    assert_eq!((package.name.as_str(), package.version.as_str()), ("libattr1", "1:2.5.1-4"));
    assert_eq!(listing(&[package]), "libattr1_1%3a2.5.1-4_amd64.deb\n");
}

#[test]
fn other_lines_are_passed_over_and_odd_files_refused() {
    assert!(parse_uri_line("Need to get 49.9 MB of archives.").is_none());
    assert!(parse_uri_line("").is_none());
    parse_uri_line("'http://mirror/x' no-underscore.deb 1 X:1").unwrap().unwrap_err();
}

#[test]
fn packages_sort_by_name() {
    let package = |name: &str| Package {
        name: name.to_owned(),
        version: "1".to_owned(),
        file: format!("{name}_1_all.deb"),
    };
    let mut list = [package("b"), package("a")];
    list.sort();
    assert_eq!(list[0].name, "a");
}
