//! Tests of the table of metrics, of what counts, and of the text.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics::with_local_recorder;

use super::exporter::builder;
use super::function::{Concurrency, FunctionMetrics, ProvisionedEnvironments, admitted};
use super::{ALL, FUNCTIONS_MAX, Kind, OTHER_FUNCTION, bounds, describe, markdown};

/// Runs `count` with a recorder of its own; gives the text.
fn rendered(count: impl FnOnce()) -> String {
    let recorder = builder().unwrap().build_recorder();
    let handle = recorder.handle();
    with_local_recorder(&recorder, || {
        describe();
        count();
    });
    handle.render()
}

/// The samples of a text, `name{labels}` to value. Fails on anything that the format does not know.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut typed = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(_, help)| !help.is_empty()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_owned()), "two types: {line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let stem = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|stem| typed.contains(*stem)));
            assert!(typed.contains(stem.unwrap_or(name)), "no type before: {line}");
            assert!(!series.contains('{') || series.ends_with("\"}"), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut seen = BTreeSet::new();
    for metric in ALL {
        let name = metric.name;
        assert!(seen.insert(name), "{name} is there twice");
        assert!(name.starts_with("votive_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert_eq!(name.contains("_seconds"), metric.unit == metrics::Unit::Seconds, "{name}");
        assert!(metric.help.ends_with('.'), "{name}");
        assert!(!metric.labels.contains(&"le"), "{name}");
    }
}

#[test]
fn histogram_bounds_rise() {
    for metric in ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
        assert!(bounds(metric.name).is_sorted_by(|a, b| a < b), "{}", metric.name);
    }
}

#[test]
fn a_metric_without_labels_is_there_before_anything_happened() {
    let samples = samples(&rendered(|| ()));
    for metric in ALL.iter().filter(|m| m.labels.is_empty() && m.kind != Kind::Histogram) {
        assert_eq!(samples.get(metric.name), Some(&0.0), "{}", metric.name);
    }
}

#[test]
fn invocations_are_counted_when_they_begin_and_errors_when_they_end() {
    let text = rendered(|| {
        let function = FunctionMetrics::new("012345678912", "counted", "1");
        for failed in [false, true, false] {
            function.started(Concurrency::OnDemand);
            function.ended(Concurrency::OnDemand, Duration::from_micros(2300), 3, failed);
        }
        function.started(Concurrency::OnDemand);
        function.throttled("ConcurrentInvocationLimitExceeded");
    });
    let samples = samples(&text);
    let of = |name: &str, more: &str| {
        let labels = r#"account="012345678912",function="counted",version="1""#;
        samples.get(&format!("{name}{{{labels}{more}}}")).copied()
    };
    assert_eq!(of("votive_invocations_total", ""), Some(4.0));
    assert_eq!(of("votive_errors_total", ""), Some(1.0));
    assert_eq!(of("votive_concurrent_executions", ""), Some(1.0));
    assert_eq!(of("votive_billed_milliseconds_total", ""), Some(9.0));
    assert_eq!(of("votive_duration_seconds_count", ""), Some(3.0));
    assert_eq!(of("votive_duration_seconds_bucket", r#",le="0.001""#), Some(0.0));
    assert_eq!(of("votive_duration_seconds_bucket", r#",le="0.0025""#), Some(3.0));
    assert!((of("votive_duration_seconds_sum", "").unwrap() - 0.0069).abs() < 1e-9);
    let reason = r#",reason="ConcurrentInvocationLimitExceeded""#;
    assert_eq!(of("votive_throttles_total", reason), Some(1.0));
    assert_eq!(of("votive_provisioned_concurrency_invocations_total", ""), None);
}

#[test]
fn provisioned_concurrency_and_its_spillover_are_told_apart() {
    let text = rendered(|| {
        let mut function = FunctionMetrics::new("012345678912", "kept", "2");
        function.provisioned(ProvisionedEnvironments { requested: 2, allocated: 2, available: 1 });
        function.started(Concurrency::Provisioned);
        function.started(Concurrency::Provisioned);
        function.started(Concurrency::Spillover);
        function.ended(Concurrency::Provisioned, Duration::from_millis(1), 1, false);
    });
    let samples = samples(&text);
    let of = |name: &str, more: &str| {
        let labels = r#"account="012345678912",function="kept",version="2""#;
        samples[&format!("{name}{{{labels}{more}}}")]
    };
    assert_eq!(of("votive_provisioned_concurrency_invocations_total", ""), 2.0);
    assert_eq!(of("votive_provisioned_concurrency_spillover_invocations_total", ""), 1.0);
    assert_eq!(of("votive_provisioned_concurrent_executions", ""), 1.0);
    assert_eq!(of("votive_concurrent_executions", ""), 2.0);
    let state = r#",state="available""#;
    assert_eq!(of("votive_provisioned_concurrency_environments", state), 1.0);
}

#[test]
fn hostile_label_values_cannot_break_the_text() {
    let text = rendered(|| {
        let name = "a\"} 1\nvotive_errors_total{x=\"\\";
        FunctionMetrics::new("1", name, "1").started(Concurrency::OnDemand);
    });
    let samples = samples(&text);
    let invocations: Vec<_> =
        samples.iter().filter(|(name, _)| name.starts_with("votive_invocations_total")).collect();
    assert_eq!(invocations.len(), 1, "{text}");
    assert!(!samples.keys().any(|name| name.starts_with("votive_errors_total{x")), "{text}");
}

#[test]
fn functions_beyond_the_limit_share_one_series() {
    let mut known = BTreeSet::new();
    let mut name = |i: usize| {
        let own = [String::from("012345678912"), format!("f-{i}"), String::from("1")];
        admitted(&mut known, own)[1].1.clone()
    };
    for i in 0..FUNCTIONS_MAX {
        assert_eq!(name(i), format!("f-{i}"));
    }
    assert_eq!(name(FUNCTIONS_MAX), OTHER_FUNCTION);
    assert_eq!(name(FUNCTIONS_MAX + 1), OTHER_FUNCTION);
    assert_eq!(name(7), "f-7");
}

#[test]
fn the_page_on_metrics_is_the_table() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let written = std::fs::read_to_string(page).unwrap();
    assert!(
        written == markdown(),
        "docs/metrics.md is not what `votive-agent metrics-reference` prints"
    );
}

#[test]
fn alerts_are_about_metrics_that_exist() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/votive-alerts.yml");
    let text = std::fs::read_to_string(file).unwrap();
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let mut named = 0;
    for word in words.filter(|word| word.starts_with("votive_")) {
        let stem = word.strip_suffix("_bucket").unwrap_or(word);
        assert!(ALL.iter().any(|metric| metric.name == stem), "{word}");
        named += 1;
    }
    assert!(named >= 8, "{named}");
}

#[test]
fn what_serving_artifacts_came_to_is_told() {
    let stats = crate::artifacts::ServeStats {
        images: 1,
        disks: 2,
        bytes: 3,
        cache_bytes: 4,
        fetched: votive_artifact::fetch::FetchStats { fetched: 5, fetched_bytes: 6, refused: 7 },
        cache: votive_artifact::cache::CacheStats { hits: 8, misses: 9, damaged: 10, evicted: 11 },
    };
    let text = rendered(|| {
        super::artifacts::show(&stats);
        // Told again, they are the same: these are no additions.
        super::artifacts::show(&stats);
    });
    let samples = samples(&text);
    let values: Vec<_> = [
        "images",
        "disks",
        "memory_bytes",
        "cache_bytes",
        "chunks_fetched_total",
        "fetched_bytes_total",
        "chunks_refused_total",
        "cache_hits_total",
        "cache_misses_total",
        "cache_damaged_total",
        "cache_evicted_total",
    ]
    .map(|name| samples[&format!("votive_artifact_{name}")])
    .into();
    assert_eq!(values, (1..=11).map(f64::from).collect::<Vec<_>>());
}
