//! The check of what faces a tenant: static, and within `ci/budgets.toml` in bytes and in crates.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::binaries::{self, Program};
use crate::progress::Progress;
use crate::subprocess;
use crate::workspace;

/// The programs that are sealed, each of which has a budget.
const PROGRAMS: [Program; 3] = [binaries::VMM, binaries::JAILER, binaries::INIT];

/// One `[[program]]` of `ci/budgets.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    name: String,
    /// The most that the stripped file may hold.
    bytes: u64,
    /// The most crates that it may consist of, itself not counted.
    crates: usize,
}

/// The part of `ci/budgets.toml` that is read here.
#[derive(Debug, Deserialize)]
struct Budgets {
    program: Vec<Budget>,
}

/// What one program is.
#[derive(Debug)]
struct Measured {
    bytes: u64,
    crates: usize,
    is_static: bool,
}

/// Builds the sealed programs and says what each is; an error names all that is over its budget.
pub(crate) fn check(progress: &Progress) -> Result<()> {
    let root = workspace::root()?;
    let text = fs::read_to_string(root.join("ci/budgets.toml")).context("ci/budgets.toml")?;
    let budgets: Budgets = toml::from_str(&text).context("ci/budgets.toml")?;
    let mut complaints = Vec::new();
    for program in PROGRAMS {
        let name = program.name();
        let budget = budgets.program.iter().find(|budget| budget.name == name);
        let budget = budget.with_context(|| format!("ci/budgets.toml has no {name}"))?;
        let measured = measure(&root, progress, program)?;
        progress.say(&format!(
            "{name}: {} of {} bytes, {} of {} crates",
            measured.bytes, budget.bytes, measured.crates, budget.crates
        ));
        complaints.extend(judge(budget, &measured));
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("; "));
    }
    Ok(())
}

fn measure(root: &Path, progress: &Progress, program: Program) -> Result<Measured> {
    let bytes = fs::read(binaries::compile(progress, program)?)?;
    let mut tree = workspace::cargo(root);
    tree.args(["tree", "--quiet", "--locked", "--package", program.package()]);
    tree.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let tree = subprocess::output(&mut tree)?;
    let crates: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != program.package())
        .collect();
    Ok(Measured {
        bytes: bytes.len() as u64,
        crates: crates.len(),
        is_static: has_no_interpreter(&bytes).context("not an ELF program")?,
    })
}

/// What is over the budget.
fn judge(budget: &Budget, measured: &Measured) -> Vec<String> {
    let Budget { name, bytes, crates } = budget;
    let mut found = Vec::new();
    if measured.bytes > *bytes {
        found.push(format!("{name} has {} bytes, at most {bytes}", measured.bytes));
    }
    if measured.crates > *crates {
        found.push(format!("{name} consists of {} crates, at most {crates}", measured.crates));
    }
    if !measured.is_static {
        found.push(format!("{name} is not static: it names an interpreter"));
    }
    found
}

/// Whether no program header of a 64-bit ELF file asks for a dynamic linker; `None` of anything else.
fn has_no_interpreter(file: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let bytes = |at: usize, len: usize| file.get(at..at.checked_add(len)?);
    let offset = usize::try_from(u64::from_le_bytes(bytes(32, 8)?.try_into().ok()?)).ok()?;
    let size = usize::from(u16::from_le_bytes(bytes(54, 2)?.try_into().ok()?));
    let count = usize::from(u16::from_le_bytes(bytes(56, 2)?.try_into().ok()?));
    for i in 0..count {
        let at = offset.checked_add(i.checked_mul(size)?)?;
        if u32::from_le_bytes(bytes(at, 4)?.try_into().ok()?) == INTERPRETER {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests;
