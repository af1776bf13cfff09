//! The recorder behind the metrics, and their text.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::{ALL, Kind, bounds, describe};

/// How often values that wait are put into their histograms, so that they do not grow while nobody scrapes.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Renders what was counted.
#[derive(Clone, Debug)]
pub struct Exporter {
    handle: PrometheusHandle,
}

/// Why nothing is counted.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// The recorder refused its settings, or the process has one already.
    #[error("the metrics recorder cannot be installed")]
    Install(#[from] BuildError),
}

impl Exporter {
    /// Makes this process count, from now on. Handles that were made before count nothing.
    ///
    /// # Errors
    /// [`ExporterError`]
    pub fn install() -> Result<Self, ExporterError> {
        let handle = builder()?.install_recorder()?;
        describe();
        Ok(Self { handle })
    }

    /// Everything in Prometheus's text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// What has to be done every [`UPKEEP_INTERVAL`].
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

pub(super) fn builder() -> Result<PrometheusBuilder, BuildError> {
    let histograms = ALL.iter().filter(|metric| metric.kind == Kind::Histogram);
    histograms.into_iter().try_fold(PrometheusBuilder::new(), |builder, metric| {
        builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds(metric.name))
    })
}
