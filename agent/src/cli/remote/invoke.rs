//! `votive invoke`: reserve, invoke, and print the response as it comes.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use votive_control::client::{Answer, Part, Patience};
use votive_control::v1;

use crate::cli::remote::{ConnectArguments, RemoteError, connect, parse_duration};
use crate::cli::{EXIT_FUNCTION_ERROR, as_json, read_event, shown};

/// The longest streamed response.
const RESPONSE_MAX: usize = 200 * 1024 * 1024;

#[derive(Args, Debug)]
pub(crate) struct InvokeArguments {
    /// The function version's id, as register and list print it
    #[arg(value_name = "ID")]
    id: String,
    /// The event: JSON, or @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    event: String,
    /// The invocation's id, a UUID; a new one if absent
    #[arg(long, value_name = "UUID")]
    invocation: Option<uuid::Uuid>,
    /// Print the end of the function's log and the figures of its REPORT line to standard error
    #[arg(long)]
    log_tail: bool,
    /// JSON for the function's client context
    #[arg(long, value_name = "JSON", default_value = "")]
    client_context: String,
    /// How often to try for room, with growing delays
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// How long the whole invocation may take, its start included
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "20m")]
    limit: Duration,
    #[command(flatten)]
    to: ConnectArguments,
}

pub(crate) async fn run(
    arguments: InvokeArguments,
    out: &mut (dyn Write + Send),
    log: &mut (dyn Write + Send),
) -> Result<u8, RemoteError> {
    let payload = Bytes::from(read_event(&arguments.event)?);
    let client = connect(&arguments.to).await?;
    let invocation = arguments.invocation.unwrap_or_else(uuid::Uuid::new_v4).to_string();
    let patience = Patience { attempts: arguments.attempts, ..Patience::default() };
    let reserved = client.reserve_patiently(&arguments.id, &invocation, patience).await?;
    let start = v1::InvokeStart {
        token: reserved.reservation.token,
        invocation_id: reserved.reservation.invocation_id,
        function_version_id: reserved.reservation.function_version_id,
        content_type: String::from("application/json"),
        client_context: arguments.client_context.clone(),
        log_tail: arguments.log_tail,
        ..Default::default()
    };
    let answer = client.invoke(start, payload, arguments.limit).await?;
    if arguments.to.json {
        print_object(answer, out).await
    } else {
        print_stream(answer, arguments.log_tail, out, log).await
    }
}

async fn print_object(answer: Answer, out: &mut (dyn Write + Send)) -> Result<u8, RemoteError> {
    let outcome = answer.collect(RESPONSE_MAX).await?;
    let object = json!({
        "response": as_json(&outcome.payload),
        "functionError": (!outcome.end.function_error.is_empty())
            .then_some(&outcome.end.function_error),
        "errorType": (!outcome.end.error_type.is_empty()).then_some(&outcome.end.error_type),
        "errorDetails": (!outcome.end.error_details.is_empty())
            .then(|| as_json(&outcome.end.error_details)),
        "endOfResponse": shown::end_of_response(&outcome.end),
        "release": shown::release(&outcome.release),
    });
    writeln!(out, "{object}")?;
    Ok(exit_code(&outcome.end))
}

async fn print_stream(
    mut answer: Answer,
    log_tail: bool,
    out: &mut (dyn Write + Send),
    log: &mut (dyn Write + Send),
) -> Result<u8, RemoteError> {
    let mut code = 0;
    while let Some(part) = answer.next().await? {
        match part {
            Part::Started(_) | Part::Head(_) => {}
            Part::Payload(piece) => {
                out.write_all(&piece)?;
                out.flush()?;
            }
            Part::End(end) => {
                writeln!(out)?;
                if !end.error_type.is_empty() {
                    writeln!(log, "votive: the function failed: {}", end.error_type)?;
                    log.write_all(&end.error_details)?;
                }
                code = exit_code(&end);
            }
            Part::Release(release) if log_tail => {
                log.write_all(&release.log_tail)?;
                let report = release.report.as_ref().map(shown::report).unwrap_or_default();
                writeln!(log, "{}", shown::to_text(&report))?;
            }
            Part::Release(_) => {}
        }
    }
    Ok(code)
}

fn exit_code(end: &v1::InvokeEnd) -> u8 {
    if end.function_error.is_empty() { 0 } else { EXIT_FUNCTION_ERROR }
}
