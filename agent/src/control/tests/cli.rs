//! The commands of `votive` against a worker that is played.

use clap::Parser;
use serde_json::Value;
use votive_control::identity::Role;

use super::harness::{Channel, INVOCATION, register};
use crate::cli::remote::{RemoteCommand, execute};
use crate::cli::{EXIT_FAILURE, EXIT_FUNCTION_ERROR, EXIT_THROTTLED, EXIT_USAGE};
use crate::control::ControlLimits;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: RemoteCommand,
}

/// Runs a command as this role over the Unix socket: its exit code, its output and what it complained about.
async fn votive(channel: &Channel, role: &str, words: &[&str]) -> (u8, String, String) {
    let connect = channel.unix.to_string();
    let identity = channel.keys(role).display().to_string();
    let own = ["votive"].iter().chain(words).copied();
    let words = own.chain(["--connect", &connect, "--identity", &identity]);
    let arguments = Arguments::try_parse_from(words).unwrap();
    let (mut out, mut log) = (Vec::new(), Vec::new());
    let code = execute(arguments.command, &mut out, &mut log).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(out), text(log))
}

async fn json(channel: &Channel, role: &str, words: &[&str]) -> Value {
    let words: Vec<_> = words.iter().chain(&["--json"]).copied().collect();
    let (code, out, log) = votive(channel, role, &words).await;
    assert_eq!((code, log.as_str()), (0, ""), "{words:?}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn each_command_prints_what_the_worker_says() {
    let channel = Channel::start(ControlLimits::default()).await;
    let status = json(&channel, "observer", &["status"]).await;
    assert_eq!(status["workerId"], "played");
    assert_eq!(status["lease"]["state"], "ACTIVE");
    assert_eq!(status["lease"]["remaining"], "3599.5s");
    assert_eq!(status["capacity"]["memoryMb"], 1024);
    let (code, text, _) = votive(&channel, "observer", &["status"]).await;
    assert_eq!(code, 0);
    assert!(
        text.lines().any(|line| line.split_whitespace().eq(["lease.state", "ACTIVE"])),
        "{text}"
    );

    let words = ["lease", "grant", "--duration", "14h"];
    assert_eq!(json(&channel, "orchestrator", &words).await["state"], "ACTIVE");
    let words =
        ["functions", "register", "--name", "f", "--runtime", "provided", "--handler", "echo"];
    let words: Vec<_> = words.into_iter().chain(["--zip", "code.zip", "--env", "A=B"]).collect();
    let id = json(&channel, "orchestrator", &words).await["id"].as_str().unwrap().to_owned();
    assert_eq!(json(&channel, "observer", &["functions", "list"]).await[0]["id"], id);
    let set = json(&channel, "orchestrator", &["provisioned", "set", &id, "2"]).await;
    assert_eq!((&set["requested"], &set["status"]), (&2.into(), &"IN_PROGRESS".into()));
    assert_eq!(json(&channel, "observer", &["provisioned", "get", &id]).await["requested"], 0);
    let all = json(&channel, "observer", &["environments", "list"]).await;
    assert_eq!((&all[0]["state"], &all[0]["processId"]), (&"IDLE".into(), &42.into()));
    let environment = all[0]["id"].as_str().unwrap();
    let one = json(&channel, "observer", &["environments", "get", environment]).await;
    assert_eq!(one, all[0]);
    let ended = json(&channel, "operator", &["environments", "destroy", environment]).await;
    assert_eq!(ended["endingFor"], "operator-request");
    let removed = json(&channel, "orchestrator", &["functions", "remove", &id]).await;
    assert_eq!(removed["environments"], 1);
    assert_eq!(json(&channel, "orchestrator", &["drain"]).await["state"], "DRAINING");
    channel.stop().await;
}

#[tokio::test]
async fn invoke_prints_the_response_and_tells_failures_apart() {
    let channel = Channel::start(ControlLimits::default()).await;
    let client = channel.client(Role::Orchestrator).await;
    let echo = register(&client, "echo").await;
    let fail = register(&client, "fail").await;
    let full = register(&client, "throttle 9").await;
    let event = "{\"n\": 1}";

    let invoke = ["invoke", &echo, "--event", event, "--invocation", INVOCATION, "--log-tail"];
    let (code, out, log) = votive(&channel, "orchestrator", &invoke).await;
    assert_eq!((code, out.as_str()), (0, "{\"n\": 1}\n"));
    assert!(log.starts_with("START\nEND\n") && log.contains("billedDurationMs"), "{log}");
    let object = json(&channel, "orchestrator", &["invoke", &echo, "--event", event]).await;
    assert_eq!(object["response"]["n"], 1);
    assert_eq!(object["release"]["outcome"], "REUSED");

    let (code, out, log) =
        votive(&channel, "orchestrator", &["invoke", &fail, "--event", event]).await;
    assert_eq!((code, out.as_str()), (EXIT_FUNCTION_ERROR, "{\"n\": 1}\n"));
    assert_eq!(log, "votive: the function failed: Function.Unknown\n");

    let words = ["invoke", &full, "--event", event, "--attempts", "2"];
    let (code, out, log) = votive(&channel, "orchestrator", &words).await;
    assert_eq!((code, out.as_str()), (EXIT_THROTTLED, ""));
    assert!(log.contains("TooManyRequestsException"), "{log}");

    for (event, expected) in [("{", EXIT_USAGE), ("@/nowhere", EXIT_USAGE)] {
        let words = ["invoke", &echo, "--event", event];
        assert_eq!(votive(&channel, "orchestrator", &words).await.0, expected);
    }
    channel.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_said_in_one_line() {
    let channel = Channel::start(ControlLimits::default()).await;
    let cases: [(&str, &[&str], u8, &str); 4] = [
        (
            "observer",
            &["drain"],
            EXIT_FAILURE,
            "AccessDeniedException: the call needs the role orchestrator",
        ),
        (
            "observer",
            &["environments", "get", "x"],
            EXIT_USAGE,
            "InvalidParameterValueException: environment_id",
        ),
        ("nobody", &["status"], EXIT_FAILURE, "cannot read"),
        ("worker", &["status"], EXIT_FAILURE, "is of role worker, which is not for this side"),
    ];
    for (role, words, expected, told) in cases {
        let (code, out, log) = votive(&channel, role, words).await;
        assert_eq!((code, out.as_str()), (expected, ""), "{words:?}: {log}");
        assert!(log.starts_with("votive: ") && log.contains(told), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    channel.stop().await;
}
