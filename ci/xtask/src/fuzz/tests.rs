//! Tests of what is read of a fuzzer's output and of cargo's.

use super::programs;
use super::report::{Stats, stats};

#[test]
fn figures_are_read_from_the_end_of_the_output() {
    let output = "#2\tINITED cov: 51 ft: 52 corp: 1/1b\nDone 4 runs in 61 second(s)\n\
                  stat::number_of_executed_units: 1234567\nstat::average_exec_per_sec:     20239\n\
                  stat::new_units_added:          97\nstat::slowest_unit_time_sec:    0\n\
                  stat::peak_rss_mb:              61\n";
    let expected = Stats { executions: 1_234_567, new_units: 97, peak_mib: 61 };
    assert_eq!(stats(output), Some(expected));
    assert_eq!(stats("Done 4 runs in 61 second(s)\n"), None);
    assert_eq!(stats(""), None);
}

#[test]
fn only_programs_are_targets() {
    let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"http\"},\"executable\":\"/x/http\"}\n\
                    {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"libc\"},\"executable\":null}\n\
                    nonsense\n{\"reason\":\"build-finished\",\"success\":true}\n";
    let found = programs(messages);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "http");
    assert_eq!(found[0].program.to_str(), Some("/x/http"));
}
