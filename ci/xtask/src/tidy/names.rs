//! The rule that what ARCHITECTURE.md quotes exists: a document that names things is worth as much as its names.

use std::collections::BTreeSet;

/// The document whose quoted names are looked up.
pub(super) const DOCUMENT: &str = "ARCHITECTURE.md";

/// Shorter words (`ps`, `as`) are found everywhere, so that finding them says nothing.
const WORD_MIN: usize = 3;

/// Each quoted text of `document` that no file of the code contains word for word. `files` are paths and texts.
///
/// The words of `spec::parse` are `spec` and `parse`: one file must hold them both, its own path included.
pub(super) fn complaints(document: &str, files: &[(String, String)]) -> Vec<String> {
    let code: Vec<BTreeSet<&str>> = files
        .iter()
        .filter(|(name, _)| !name.ends_with(".md") && !name.ends_with(".lock"))
        .map(|(name, text)| words(name).chain(words(text)).collect())
        .collect();
    let mut found = Vec::new();
    for (i, line) in document.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let wanted: Vec<&str> = words(quoted).filter(|word| word.len() >= WORD_MIN).collect();
            if !code.iter().any(|file| wanted.iter().all(|word| file.contains(word))) {
                found.push(format!("{DOCUMENT}:{}: nothing is called `{quoted}`", i + 1));
            }
        }
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
