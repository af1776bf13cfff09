//! Choosing kernel modules and the order in which they load, from what each module says about itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Copies the wanted modules and those they depend on into `into`, and writes their order to the file `order` there.
/// What is built into the kernel is not copied.
pub(crate) fn select(tree: &Path, wanted: &[&str], into: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    let mut built_in = String::new();
    for item in walkdir::WalkDir::new(tree) {
        let item = item?;
        let name = item.file_name().to_string_lossy();
        if let Some(name) = name.strip_suffix(".ko") {
            files.insert(canonical(name), item.path().to_path_buf());
        } else if name == "modules.builtin" {
            built_in = fs::read_to_string(item.path())?;
        }
    }
    let built_in: Vec<String> = built_in
        .lines()
        .filter_map(|line| Some(canonical(line.rsplit('/').next()?.strip_suffix(".ko")?)))
        .collect();
    let mut order = Vec::new();
    for name in wanted {
        let name = canonical(name);
        if !built_in.contains(&name) {
            add(&name, &files, &mut Vec::new(), &mut order)?;
        }
    }
    fs::create_dir_all(into)?;
    for name in &order {
        fs::copy(&files[name], into.join(format!("{name}.ko")))?;
    }
    let list: String = order.iter().map(|name| format!("{name}.ko\n")).collect();
    Ok(fs::write(into.join("order"), list)?)
}

/// Adds a module after those it depends on. `path` is how we came to it.
fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    path: &mut Vec<String>,
    order: &mut Vec<String>,
) -> Result<()> {
    if order.iter().any(|done| done == name) {
        return Ok(());
    }
    if path.iter().any(|above| above == name) {
        bail!("modules depend on each other: {}", path.join(" -> "));
    }
    let file = files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    path.push(name.to_owned());
    for needed in depends(&fs::read(file)?) {
        add(&needed, files, path, order)?;
    }
    path.pop();
    order.push(name.to_owned());
    Ok(())
}

/// The modules named in a module's `depends=` line.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return Vec::new();
    };
    let rest = &module[at + FIELD.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let names = String::from_utf8_lossy(&rest[..end]).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

/// File names use dashes where module names use underscores, and not always.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests;
