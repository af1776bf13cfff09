//! The function versions of a world: few, so that they get in each other's way.

use std::sync::Arc;

use votive_agent::function::FunctionSpec;
use votive_agent::report::LogFormat;
use votive_agent::worker::registry::{Version, VersionImages};

/// All versions that a world may register. The first two have one name: each registration of one retires the other.
#[must_use]
pub(crate) fn all() -> Vec<Version> {
    [
        ("alpha", "$LATEST", 1, 128, 0, 3),
        ("alpha", "$LATEST", 2, 128, 0, 3),
        ("alpha", "1", 1, 128, 2, 3),
        // It has the name of the one before, and another content.
        ("alpha", "1", 9, 128, 2, 3),
        ("beta", "7", 3, 256, 0, 30),
        ("gamma", "1", 4, 1024, 0, 900),
    ]
    .into_iter()
    .filter_map(|(name, version, code, memory_mb, concurrency_limit, timeout_s)| {
        let mut spec = FunctionSpec::new("provided", "echo");
        spec.name = String::from(name);
        spec.version = String::from(version);
        spec.memory_mb = memory_mb;
        spec.timeout_s = timeout_s;
        Some(Version {
            function: Arc::new(spec.validate().ok()?),
            code_sha256: [code; 32],
            log_format: LogFormat::Text,
            concurrency_limit,
            images: Arc::new(VersionImages::default()),
        })
    })
    .collect()
}
