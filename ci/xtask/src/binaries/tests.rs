//! Tests of finding what cargo built.

use std::path::PathBuf;

use super::executable;

#[test]
fn the_program_is_found_among_cargos_messages() {
    let messages = concat!(
        r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}"#,
        "\nnot json\n",
        r#"{"reason":"compiler-artifact","target":{"name":"votive"},"executable":null}"#,
        "\n",
        r#"{"reason":"compiler-artifact","target":{"name":"votive"},"executable":"/t/votive"}"#,
        "\n",
        r#"{"reason":"build-finished","success":true}"#,
    );
    assert_eq!(executable(messages, "votive"), Some(PathBuf::from("/t/votive")));
    assert_eq!(executable(messages, "libc"), None);
}
