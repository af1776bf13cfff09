//! What a benchmark found, as one JSON object a line.

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// One figure of one subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Which benchmark, e.g. `cold_boot.own.pid1`.
    pub bench: String,
    /// Whose figure: `votive`, `firecracker`, `qemu-microvm`.
    pub subject: String,
    /// The unit of `min`, `median` and `max`.
    pub unit: String,
    /// How many runs.
    pub n: usize,
    /// The smallest.
    pub min: f64,
    /// The middle one; of an even number, the lower of the two.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

/// The runs of one figure.
#[derive(Clone, Debug)]
pub struct Series {
    unit: &'static str,
    values: Vec<f64>,
}

impl Series {
    /// No runs yet, in `unit`.
    #[must_use]
    pub fn new(unit: &'static str) -> Self {
        Self { unit, values: Vec::new() }
    }

    /// Adds a run counted in whole units.
    pub fn push(&mut self, value: u64) {
        // Counts stay far below 2^53, above which an f64 would round them.
        self.push_real(value as f64);
    }

    /// Adds a run measured in fractions of a unit.
    pub fn push_real(&mut self, value: f64) {
        self.values.push(value);
        self.values.sort_by(f64::total_cmp);
    }

    /// The figure, if there was any run.
    #[must_use]
    pub fn figure(&self, bench: &str, subject: &str) -> Option<Figure> {
        let (min, max) = (*self.values.first()?, *self.values.last()?);
        let median = *self.values.get((self.values.len() - 1) / 2)?;
        Some(Figure {
            bench: bench.to_owned(),
            subject: subject.to_owned(),
            unit: self.unit.to_owned(),
            n: self.values.len(),
            min,
            median,
            max,
        })
    }
}

/// Ends `program` with what it `found`: the figures on standard output, or why there are none on standard error.
#[must_use]
pub fn end(program: &str, found: anyhow::Result<Vec<Figure>>) -> ExitCode {
    match found.and_then(|figures| print(&figures)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the last resort; there is nowhere to report that it is closed.
            let _ = writeln!(io::stderr(), "{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(figures: &[Figure]) -> anyhow::Result<()> {
    let lines = figures.iter().map(|figure| serde_json::to_string(figure).map(|line| line + "\n"));
    let text = lines.collect::<Result<String, _>>()?;
    Ok(io::stdout().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::Series;

    #[test]
    fn a_figure_has_the_middle_run() {
        let mut series = Series::new("ms");
        [3.0, 1.0, 2.0].into_iter().for_each(|value| series.push_real(value));
        let figure = series.figure("b", "s").unwrap();
        assert_eq!((figure.n, figure.min, figure.median, figure.max), (3, 1.0, 2.0, 3.0));
    }

    #[test]
    fn no_run_is_no_figure() {
        assert_eq!(Series::new("ms").figure("b", "s"), None);
    }
}
