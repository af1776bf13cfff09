//! House rules that no compiler knows: sizes, names, marks left behind, paths in documents, and who may depend on what.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::subprocess;

mod boundaries;
mod text;

/// Every complaint about the repository in `root`, one line each.
pub(crate) fn run(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let listed = subprocess::output(&mut git)?;
    let mut complaints = Vec::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        // A file that was deleted and not yet committed is listed, and what is no text has no lines to judge.
        let Ok(content) = fs::read_to_string(root.join(name)) else { continue };
        complaints.extend(text::complaints(name, &content));
        if matches!(name, "README.md" | "ARCHITECTURE.md") {
            complaints
                .extend(text::missing_paths(name, &content, &|path| root.join(path).exists()));
        }
    }
    complaints.extend(boundaries::complaints(root)?);
    Ok(complaints)
}
