//! Tests of comparing manifests with the table of reasons.

use super::complaints;

fn manifest(text: &str) -> Vec<(String, String)> {
    vec![("Cargo.toml".to_owned(), text.to_owned())]
}

const DOCUMENT: &str = "`zero` is named elsewhere\n## Dependencies\n\n| crate | where | why |\n| --- | --- | --- |\n\
                        | `one`, `two` | here | `three` does not count |\n## After\n| `four` | | |\n";

#[test]
fn a_table_that_names_each_dependency_passes() {
    let text = "[workspace.dependencies]\none = \"1\"\n[dependencies]\none.workspace = true\n\
                votive-own.workspace = true\n[target.'cfg(unix)'.dev-dependencies]\ntwo = \"2\"\n";
    assert_eq!(complaints(&manifest(text), DOCUMENT).unwrap(), [""; 0]);
}

#[test]
fn each_difference_is_told() {
    let text = "[workspace.dependencies]\nfive = \"1\"\n[build-dependencies]\nthree = \"3\"\none = \"1\"\n";
    assert_eq!(
        complaints(&manifest(text), DOCUMENT).unwrap(),
        [
            "CONTRIBUTING.md: no row says why there is `three`",
            "CONTRIBUTING.md: a row explains `two`, which nothing depends on",
            "Cargo.toml: no member uses the workspace's dependency `five`",
        ]
    );
    complaints(&manifest("[dependencies"), DOCUMENT).unwrap_err();
}
