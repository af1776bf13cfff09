//! Demo functions.

use anyhow::Result;

use crate::cache::Cache;
use crate::progress::Progress;

pub(super) fn build(_: &Cache, _: &Progress) -> Result<()> {
    Ok(())
}
