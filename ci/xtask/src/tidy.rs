//! House rules that no compiler knows: sizes, names, marks left behind, what documents claim, and who may depend on what.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::subprocess;

mod boundaries;
mod dependencies;
mod names;
mod text;
mod unsafety;

/// Every complaint about the repository in `root`, one line each.
pub(crate) fn run(root: &Path) -> Result<Vec<String>> {
    let files = files(root)?;
    let mut complaints = Vec::new();
    for (name, content) in &files {
        complaints.extend(text::complaints(name, content));
        if matches!(name.as_str(), "README.md" | "ARCHITECTURE.md") {
            complaints.extend(text::missing_paths(name, content, &|path| root.join(path).exists()));
        }
    }
    let document = |wanted: &str| {
        let found = files.iter().find(|(name, _)| name == wanted);
        found.map_or("", |(_, content)| content.as_str())
    };
    complaints.extend(names::complaints(document(names::DOCUMENT), &files));
    complaints.extend(unsafety::complaints(&files));
    let manifests: Vec<_> =
        files.iter().filter(|(name, _)| name.ends_with("Cargo.toml")).cloned().collect();
    complaints.extend(dependencies::complaints(&manifests, document(dependencies::DOCUMENT))?);
    complaints.extend(boundaries::complaints(root)?);
    Ok(complaints)
}

/// Every text file that is committed or will be, by its path, with its content.
fn files(root: &Path) -> Result<Vec<(String, String)>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let listed = subprocess::output(&mut git)?;
    let named = listed.split('\0').filter(|name| !name.is_empty());
    // A file that was deleted and not yet committed is listed, and what is no text has no lines to judge.
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(root.join(name)).ok()?));
    Ok(named.filter_map(read).collect())
}
