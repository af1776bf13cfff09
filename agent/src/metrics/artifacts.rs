//! What serving artifacts has come to, as metrics.

use metrics::{counter, gauge};

use super::{
    ARTIFACT_BYTES, ARTIFACT_CACHE_DAMAGED, ARTIFACT_CACHE_EVICTED, ARTIFACT_CACHE_HITS,
    ARTIFACT_CACHE_MISSES, ARTIFACT_CACHE_SIZE, ARTIFACT_CHUNKS, ARTIFACT_DISKS, ARTIFACT_IMAGES,
    ARTIFACT_LIES, ARTIFACT_MEMORY,
};
use crate::artifacts::ServeStats;

/// Sets every metric of artifacts. To be called before metrics are rendered.
#[expect(clippy::cast_precision_loss, reason = "what a host holds is far below 2^53")]
pub fn show(stats: &ServeStats) {
    for (name, value) in [
        (ARTIFACT_IMAGES, stats.images as f64),
        (ARTIFACT_DISKS, stats.disks as f64),
        (ARTIFACT_MEMORY, stats.bytes as f64),
        (ARTIFACT_CACHE_SIZE, stats.cache_bytes as f64),
    ] {
        gauge!(name).set(value);
    }
    for (name, value) in [
        (ARTIFACT_CHUNKS, stats.fetched.fetched),
        (ARTIFACT_BYTES, stats.fetched.fetched_bytes),
        (ARTIFACT_LIES, stats.fetched.refused),
        (ARTIFACT_CACHE_HITS, stats.cache.hits),
        (ARTIFACT_CACHE_MISSES, stats.cache.misses),
        (ARTIFACT_CACHE_DAMAGED, stats.cache.damaged),
        (ARTIFACT_CACHE_EVICTED, stats.cache.evicted),
    ] {
        counter!(name).absolute(value);
    }
}
