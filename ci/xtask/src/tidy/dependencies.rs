//! The rule that each direct dependency has its reason in CONTRIBUTING.md, and each reason its dependency.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// The document with the table of reasons, and the heading it stands under.
pub(super) const DOCUMENT: &str = "CONTRIBUTING.md";
const HEADING: &str = "## Dependencies";

/// The tables of a manifest, or of one target in it, that name dependencies.
const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Compares the manifests, each a path and its text, with the document's text.
pub(super) fn complaints(manifests: &[(String, String)], document: &str) -> Result<Vec<String>> {
    let mut used = BTreeSet::new();
    let mut offered = BTreeSet::new();
    for (path, text) in manifests {
        let manifest: Table = toml::from_str(text).with_context(|| path.clone())?;
        collect(&manifest, &mut used);
        if let Some(Value::Table(workspace)) = manifest.get("workspace") {
            collect(workspace, &mut offered);
        }
    }
    let explained = explained(document);
    let not_in = |set: &BTreeSet<String>, name: &&String| !set.contains(*name);
    let mut found = Vec::new();
    for name in used.iter().filter(|name| not_in(&explained, name)) {
        found.push(format!("{DOCUMENT}: no row says why there is `{name}`"));
    }
    for name in explained.iter().filter(|name| not_in(&used, name)) {
        found.push(format!("{DOCUMENT}: a row explains `{name}`, which nothing depends on"));
    }
    for name in offered.iter().filter(|name| not_in(&used, name)) {
        found.push(format!("Cargo.toml: no member uses the workspace's dependency `{name}`"));
    }
    Ok(found)
}

/// Adds the names of all dependencies on crates that are not ours.
fn collect(table: &Table, into: &mut BTreeSet<String>) {
    for (name, value) in table {
        let Value::Table(inner) = value else { continue };
        if TABLES.contains(&name.as_str()) {
            into.extend(inner.keys().filter(|name| !name.starts_with("votive-")).cloned());
        } else if name == "target" {
            inner.values().filter_map(Value::as_table).for_each(|target| collect(target, into));
        }
    }
}

/// The crates that the first column of the document's table names.
fn explained(document: &str) -> BTreeSet<String> {
    let section = document.lines().skip_while(|line| *line != HEADING).skip(1);
    let rows = section.take_while(|line| !line.starts_with("## "));
    let cells = rows.filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
