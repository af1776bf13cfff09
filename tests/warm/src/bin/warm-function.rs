//! The Rust function that is measured, on the unmodified runtime client.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(|event: LambdaEvent<Value>| async move {
        Ok::<Value, Error>(votive_warm::handler::echo(event.payload))
    }))
    .await
}
