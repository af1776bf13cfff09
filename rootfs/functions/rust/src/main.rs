//! The demo's custom runtime: a `bootstrap` that greets, and sums up a list of numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(handler)).await
}

/// Answers `{"name": string, "numbers": [number]}`, both optional.
async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (event, context) = event.into_parts();
    let numbers: Vec<f64> =
        event["numbers"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let mut summary = json!({ "count": numbers.len() });
    if let Some(first) = numbers.first().copied() {
        summary["mean"] = json!(numbers.iter().sum::<f64>() / numbers.len() as f64);
        summary["min"] = json!(numbers.iter().copied().fold(first, f64::min));
        summary["max"] = json!(numbers.iter().copied().fold(first, f64::max));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let remaining = Duration::from_millis(context.deadline).saturating_sub(now);
    Ok(json!({
        "greeting": format!("Hello, {}", event["name"].as_str().unwrap_or("world")),
        "numbers": summary,
        "runtime": "lambda_runtime, static Rust",
        "requestId": context.request_id,
        "remainingMs": u64::try_from(remaining.as_millis())?,
    }))
}
