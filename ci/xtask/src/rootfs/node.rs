//! Node.js and npm packages in an image.

use std::path::Path;

use anyhow::Result;

use super::recipe::{Node, Recipe};
use crate::cache::Cache;

pub(super) fn install(_: &Node, _: &Recipe, _: &Cache, _: &Path, _: &Path) -> Result<()> {
    Ok(())
}
