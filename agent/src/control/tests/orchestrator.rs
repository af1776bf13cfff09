//! The orchestrator of `docs/orchestrator.md`: the page's own code, with grpcio from its registry, against two sockets.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::harness::Channel;
use crate::control::ControlLimits;

/// The page, and the packages that it needs, each with its hash.
const PAGE: &str = include_str!("../../../../docs/orchestrator.md");
const REQUIREMENTS: &str = include_str!("../../../../docs/orchestrator-requirements.txt");
/// The command of the page that makes the client's code.
const PROTOC: &str = "python3 -m grpc_tools.protoc -I protocol/proto --python_out=. --grpc_python_out=. \
                      votive/worker/v1/worker.proto";

/// All blocks of the page in one language, in their order.
fn blocks(language: &str) -> String {
    let mut code = String::new();
    for part in PAGE.split("\n```").skip(1).step_by(2) {
        if let Some(block) = part.strip_prefix(&format!("{language}\n")) {
            code.push_str(block);
            code.push_str("\n\n");
        }
    }
    code
}

/// Runs a command and gives what it printed.
fn finish(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{complaints}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_orchestrator_of_the_page_leases_places_invokes_and_drains() {
    assert!(blocks("sh").contains(PROTOC), "the page makes the client's code in another way");
    let channel = Channel::start(ControlLimits::default()).await;
    let place = channel.place.path().to_owned();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let identity = channel.keys("orchestrator");
    let targets = [format!("localhost:{}", channel.port()), channel.unix.to_string()];
    // Python is waited for on another thread: this one serves it.
    let running = tokio::task::spawn_blocking(move || {
        let packages = votive_packages::python("orchestrator", REQUIREMENTS).unwrap();
        let generate =
            PROTOC.replace("protocol/proto", &root.join("protocol/proto").to_string_lossy());
        let mut words = generate.split_whitespace();
        let mut protoc = Command::new(words.next().unwrap());
        finish(protoc.args(words).current_dir(&place).env("PYTHONPATH", &packages));
        fs::write(place.join("orchestrator.py"), blocks("python")).unwrap();
        let mut python = Command::new("python3");
        python.arg("orchestrator.py").arg(&identity).arg("/srv/app.zip").args(&targets);
        finish(python.current_dir(&place).env("PYTHONPATH", &packages))
    });
    let printed = running.await.unwrap();
    let expected = "lease WORKER_STATE_ACTIVE\n\
                    lease WORKER_STATE_ACTIVE\n\
                    answer 8 ok 3 ms\n\
                    answer 3000002 ok 3 ms\n\
                    refused ResourceNotFoundException\n\
                    drain WORKER_STATE_DRAINING\n\
                    drain WORKER_STATE_DRAINING\n";
    assert_eq!(printed, expected);
    assert_eq!(channel.cuts(), []);
    channel.stop().await;
}
