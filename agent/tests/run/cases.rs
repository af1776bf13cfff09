//! The cases: what a guest does, and what `votive run` makes of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// Every case with its name.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("an_answer_is_printed_with_its_log_and_its_report", an_answer),
    ("json_output_holds_response_report_and_phases", json_output),
    ("a_6_mib_event_comes_back_whole", big_event),
    ("function_errors_end_in_their_json_and_exit_code_3", function_errors),
    ("time_out_is_told_in_bounded_time", time_out),
    ("a_runtime_that_cannot_be_killed_costs_the_microvm", reset_time_out),
    ("an_init_phase_that_fails_runs_again_inside_the_invocation", init_failures),
    ("a_microvm_that_is_lost_is_told_with_its_reason", lost_microvms),
    ("a_guest_that_breaks_the_protocol_is_ended", violations),
    ("what_is_wrong_is_refused_before_anything_starts", refusals),
    ("control_characters_of_a_log_reach_a_pipe_as_they_are", logs),
    ("sigterm_ends_everything_within_a_second", sigterm),
];

/// A folder that looks like one with images, and nothing else.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vmlinux", "init.cpio", "provided.erofs", "code.erofs"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn votive(&self, handler: &str, event: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_votive"));
        command.args(["run", "--runtime", "provided", "--handler", handler, "--event", event]);
        // The VMM is this program, which no jail has a loader for.
        command.args(["--jail", "off"]);
        command.arg("--images").arg(self.0.path());
        command.arg("--vmm").arg(std::env::current_exe().unwrap());
        command.arg("--code-image").arg(self.path("code.erofs"));
        command.args(["--timeout", "2", "--init-timeout", "1"]);
        command.env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        command
    }

    /// Fails if a process or a file is left.
    fn assert_nothing_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.path("tmp")).unwrap().collect();
        assert!(left.is_empty(), "temporary files are left: {left:?}");
        assert_eq!(processes_naming(self.0.path()), Vec::<String>::new());
    }
}

fn processes_naming(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|cmdline| String::from_utf8_lossy(&cmdline).replace('\0', " "))
        .filter(|cmdline| cmdline.contains(name))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a handler with the event `{"a":1}`; gives its exit code, standard output and standard error.
fn run(handler: &str) -> (i32, String, String) {
    let folder = Folder::new();
    let Output { status, stdout, stderr } = folder.votive(handler, r#"{"a":1}"#).output().unwrap();
    folder.assert_nothing_left();
    (status.code().unwrap(), text(&stdout), text(&stderr))
}

fn an_answer() {
    let (code, stdout, stderr) = run("echo");
    assert_eq!((code, stdout.as_str()), (0, "{\"a\":1}\n"), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines[0].starts_with("START RequestId: "), "{stderr}");
    assert!(lines[0].ends_with(" Version: $LATEST"), "{stderr}");
    assert!(lines[1].starts_with("END RequestId: "), "{stderr}");
    let report = lines[2];
    for field in
        [" ms\tBilled Duration: ", "\tMemory Size: 128 MB\tMax Memory Used: 41 MB\tInit Duration: "]
    {
        assert!(report.contains(field), "{report}");
    }
    for phase in ["process start", "KVM set-up", "kernel", "PID 1", "runtime init", "handler"] {
        assert!(lines.iter().any(|line| line.trim_start().starts_with(phase)), "{stderr}");
    }
}

fn json_output() {
    let folder = Folder::new();
    let output = folder.votive("echo", "[1,2]").args(["--json", "--quiet"]).output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["response"], json!([1, 2]));
    assert_eq!(object["functionError"], Value::Null);
    assert_eq!(object["report"]["memorySizeMB"], json!(128));
    assert_eq!(object["coldStart"]["phases"][1]["phase"], json!("process start"));
    assert!(object["coldStart"]["phases"][1]["ms"].as_f64().unwrap() >= 0.0);
    assert_eq!(text(&output.stderr), "");
    folder.assert_nothing_left();
}

fn big_event() {
    let folder = Folder::new();
    let event = format!("\"{}\"", "x".repeat(6 * 1024 * 1024 - 2));
    let file = folder.path("event.json");
    std::fs::write(&file, &event).unwrap();
    let at_file = format!("@{}", file.display());
    let output = folder.votive("echo", &at_file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout.strip_suffix(b"\n").unwrap() == event.as_bytes());

    std::fs::write(&file, format!("{event} ")).unwrap();
    let output = folder.votive("echo", &at_file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("RequestTooLarge: "), "{}", text(&output.stderr));
    folder.assert_nothing_left();
}

/// Checks the error that a handler ends in, and the status of its report.
fn check_error(handler: &str, error_type: &str, message: &str, status: &str) {
    let (code, stdout, stderr) = run(handler);
    assert_eq!(code, 3, "{handler}: {stderr}");
    let error: Value = serde_json::from_str(&stdout).unwrap();
    if !error_type.is_empty() {
        assert_eq!(error["errorType"], json!(error_type), "{handler}");
    }
    let told = error["errorMessage"].as_str().unwrap();
    let told = told.split_once(" Error: ").map_or(told, |(_, rest)| rest);
    assert_eq!(told, message, "{handler}");
    let report = stderr.lines().find(|line| line.starts_with("REPORT ")).unwrap();
    assert!(report.contains(status), "{handler}: {report}");
}

fn function_errors() {
    check_error("throw", "ValueError", "boom", "Status: error\tError Type: Runtime.Unknown");
    check_error(
        "exit",
        "Runtime.ExitError",
        "Runtime exited without providing a reason",
        "Status: error",
    );
    let text = "Runtime exited with error: exit status 3";
    check_error("exit-3", "Runtime.ExitError", text, "Error Type: Runtime.ExitError");
    let text = "Runtime exited with error: signal: killed";
    check_error("killed", "Runtime.ExitError", text, "Error Type: Runtime.ExitError");
    check_error("out-of-memory", "Runtime.ExitError", text, "Error Type: Runtime.OutOfMemory");
    let text = "Response payload size exceeded maximum allowed payload size (6291556 bytes).";
    check_error("oversized", "Function.ResponseSizeTooLarge", text, "Status: error");
    let text = "the runtime's response was cut short";
    check_error("truncated", "Runtime.TruncatedResponse", text, "Status: error");
}

fn time_out() {
    let started = std::time::Instant::now();
    check_error(
        "hang",
        "Sandbox.Timedout",
        "Task timed out after 2.00 seconds",
        "Duration: 2000.00 ms\tBilled Duration: 2000 ms",
    );
    assert!(started.elapsed().as_secs() < 4);
}

fn reset_time_out() {
    let (code, stdout, stderr) = run("hang-hard");
    assert_eq!(code, 1, "{stderr}");
    // The caller was told when the time was up; what became of the microVM is the operator's to know.
    assert!(stdout.contains("Sandbox.Timedout"), "{stdout}");
    assert!(stderr.contains("the guest did not reset within 5 s"), "{stderr}");
}

fn init_failures() {
    check_error("init-error", "", "no module", "Error Type: Runtime.ImportModuleError");
    let text = "Runtime exited with error: exit status 1";
    check_error("init-exit", "Runtime.ExitError", text, "Error Type: Runtime.ExitError");
    check_error(
        "init-hang",
        "Sandbox.Timedout",
        "Task timed out after 2.00 seconds",
        "Status: timeout",
    );
    let (_, _, stderr) = run("init-error");
    for phase in ["init", "invoke"] {
        let tail = format!("Phase: {phase}\tStatus: error\tError Type: Runtime.ImportModuleError");
        assert!(stderr.contains(&tail), "{stderr}");
    }
}

fn lost_microvms() {
    for (handler, reason) in [
        ("vmm-fails", "a vCPU failed: vcpu 0: emulation failure at 0xfff0"),
        ("vmm-killed", "votive-vmm was killed by signal 9"),
        ("link-closed", "votive-vmm was killed by signal 9"),
    ] {
        let (code, stdout, stderr) = run(handler);
        assert_eq!(code, 1, "{handler}: {stderr}");
        let error: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(error["errorType"], json!("Sandbox.Failure"), "{handler}");
        assert!(stderr.contains(reason), "{handler}: {stderr}");
    }
    let (code, stdout, _) = run("fault");
    assert_eq!(code, 3);
    assert!(stdout.contains("Runtime.InvalidEntrypoint"), "{stdout}");
}

fn violations() {
    for (handler, expected, reason) in [
        ("garbage", 1, "bad frame: unknown frame kind 0x7f"),
        // The answer that was given stands; the second one costs the microVM.
        ("twice", 0, "a frame came out of order"),
        ("endless", 1, "the answer is longer than its limit"),
    ] {
        let (code, stdout, stderr) = run(handler);
        assert_eq!(code, expected, "{handler}: {stderr}");
        assert!(stderr.contains(&format!("broke the protocol: {reason}")), "{handler}: {stderr}");
        assert!(!stdout.contains("xxxx"), "{handler}: an answer that does not count was printed");
    }
}

fn refusals() {
    let folder = Folder::new();
    let check = |handler: &str, event: &str, extra: &[&str], expected: &str| {
        let output = folder.votive(handler, event).args(extra).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
        assert_eq!(text(&output.stdout), "");
    };
    check("echo", "{not json", &[], "InvalidRequestContent: the event is not JSON");
    check("echo", "", &[], "InvalidRequestContent");
    check("echo", "@/nowhere/at/all", &[], "the event in /nowhere/at/all cannot be read");
    check("a b", "{}", &[], "handler \"a b\"");
    check("echo", "{}", &["--memory", "127"], "memory 127 MB: 128 to 10240 MB are allowed");
    check("echo", "{}", &["--env", "AWS_REGION=x"], "the platform sets it");
    check("echo", "{}", &["--env", "A"], "KEY=VALUE is expected");
    folder.assert_nothing_left();
}

fn logs() {
    let (code, _, stderr) = run("logs");
    assert_eq!(code, 0);
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(&lines[1..4], ["one", "two \u{1b}[31mred", "no end"], "{stderr}");
    assert!(lines[4].starts_with("END "), "{stderr}");
}

fn sigterm() {
    let folder = Folder::new();
    let mut command = folder.votive("hang", "{}");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // Its START line tells that the invocation is under way.
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.starts_with("START "), "{line}");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let started = std::time::Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(started.elapsed().as_millis() < 1500);
    folder.assert_nothing_left();
}
