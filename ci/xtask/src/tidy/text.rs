//! Rules on one file's name and text.

/// A source file longer than this does more than one thing.
const LINES_MAX: usize = 600;

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "mod"];

/// Marks of unfinished work. Written in halves, so that this file does not hold them.
const MARKS: &[&str] = &[concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X:")];

/// Hosts of package registries: which mirror a machine uses is its own affair.
const REGISTRIES: &[&str] = &[
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("registry.npm", "js"),
    concat!("registry.yarn", "pkg"),
    concat!("deb.deb", "ian.org"),
    concat!("artifac", "tory"),
];

/// Folders of one person's machine.
const PRIVATE_FOLDERS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/."), concat!("/ho", "me/")];

/// The complaints about one file, by its path in the repository and its text.
pub(super) fn complaints(name: &str, content: &str) -> Vec<String> {
    let mut found = Vec::new();
    if name.ends_with(".rs") {
        found.extend(source_complaints(name, content));
    }
    // The lock file names the registry that cargo always names.
    if name != "Cargo.lock" && !name.ends_with("/Cargo.lock") {
        for (i, line) in content.lines().enumerate() {
            for word in MARKS.iter().chain(REGISTRIES).chain(PRIVATE_FOLDERS) {
                if line.contains(word) {
                    found.push(format!("{name}:{}: `{word}` must not stay", i + 1));
                }
            }
        }
    }
    found
}

fn source_complaints(name: &str, content: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is_test = name.ends_with("/tests.rs") || name.contains("/tests/");
    let lines = content.lines().count();
    if !is_test && lines > LINES_MAX {
        found.push(format!("{name}: {lines} lines, at most {LINES_MAX}"));
    }
    if !content.starts_with("//! ") {
        found.push(format!("{name}: does not open with a sentence that says what it does"));
    }
    for part in name.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            found.push(format!("{name}: `{part}` does not say what is inside"));
        }
    }
    found
}

/// The back-ticked paths of a document that lead nowhere.
pub(super) fn missing_paths(
    name: &str,
    content: &str,
    exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    for (i, line) in content.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            if is_path(quoted, exists) && !exists(quoted.trim_end_matches('/')) {
                found.push(format!("{name}:{}: there is no `{quoted}`", i + 1));
            }
        }
    }
    found
}

/// Whether a quoted text means a path of this repository: it is below a folder that exists, or looks like a source file.
fn is_path(quoted: &str, exists: &dyn Fn(&str) -> bool) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if quoted.starts_with(['/', '.', '-']) || !quoted.chars().all(plain) {
        return false;
    }
    match quoted.split_once('/') {
        Some((first, _)) => exists(first),
        None => quoted.ends_with(".rs") || quoted.ends_with(".toml") || quoted.ends_with(".md"),
    }
}

#[cfg(test)]
mod tests;
