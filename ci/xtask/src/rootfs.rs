//! Runtime images.

use anyhow::Result;

use crate::cache::Cache;
use crate::progress::Progress;

/// Builds the runtime images and the demo's functions.
pub(crate) fn build(_cache: &Cache, _progress: &Progress) -> Result<()> {
    Ok(())
}
