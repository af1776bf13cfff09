//! Reading `kernel-config/*.config` and checking a kernel's final configuration against them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One file of options that serve one purpose.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    /// File name, such as `30-virtio.config`; fragments apply in the order of their names.
    pub(crate) name: String,
    /// The file's text.
    pub(crate) text: String,
}

/// All fragments of a folder, in order.
pub(crate) fn read_folder(folder: &Path) -> Result<Vec<Fragment>> {
    let mut fragments = Vec::new();
    for item in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "config") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fragments.push(Fragment { name, text: fs::read_to_string(&path)? });
        }
    }
    fragments.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(fragments)
}

/// What the fragments ask for and `config` does not say, one line each.
pub(crate) fn unmet(fragments: &[Fragment], config: &str) -> Vec<String> {
    let actual: BTreeMap<&str, &str> = config.lines().filter_map(setting).collect();
    let mut wanted = BTreeMap::new();
    for fragment in fragments {
        for (option, value) in fragment.text.lines().filter_map(setting) {
            wanted.insert(option, (value, fragment.name.as_str()));
        }
    }
    let mut lines = Vec::new();
    for (option, (value, name)) in wanted {
        // An option whose dependencies are off is not listed at all, which is as good as `n`.
        let found = actual.get(option).copied().unwrap_or("n");
        if found != value {
            lines.push(format!("{name}: {option} should be {value}, is {found}"));
        }
    }
    lines
}

/// The option and the value that a line sets; `n` for "is not set".
fn setting(line: &str) -> Option<(&str, &str)> {
    if let Some(rest) = line.strip_prefix("# CONFIG_") {
        let option = rest.strip_suffix(" is not set")?;
        return Some((option, "n"));
    }
    line.strip_prefix("CONFIG_")?.split_once('=')
}

#[cfg(test)]
mod tests;
