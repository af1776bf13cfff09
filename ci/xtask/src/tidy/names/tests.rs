//! Tests of looking quoted names up.

use super::complaints;

#[test]
fn names_must_occur_in_one_file_of_code() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let files = [
        file("vmm/src/spec.rs", "pub fn parse(text: &str) {}\n"),
        file("vmm/src/vm.rs", "impl Bus { fn create_irqchip() {} }\n"),
        file("README.md", "`gone`\n"),
    ];
    let document = "`spec::parse`, `Bus`, `create_irqchip`, `vmm/src/vm.rs`, `ps`\n`gone`, plain\n`Bus::parse`\n";
    assert_eq!(
        complaints(document, &files),
        [
            "ARCHITECTURE.md:2: nothing is called `gone`",
            "ARCHITECTURE.md:3: nothing is called `Bus::parse`"
        ]
    );
}
