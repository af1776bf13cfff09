//! The process with functions in it: draining, dying and telling while invocations are under way.

use std::io::Write as _;

use rustix::process::Signal;
use votive_control::address::Address;
use votive_control::client::{Client, ClientError, ClientSpec, Outcome};
use votive_control::tls::Identity;
use votive_control::v1;

use crate::bed::{Bed, PATIENCE};

/// Every case with its name.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("an_invocation_is_answered_and_counted", answered),
    ("sigterm_lets_an_invocation_finish_and_nothing_else_begin", drained),
    ("a_second_sigterm_ends_everything_at_once", ended_at_once),
    ("an_agent_that_is_killed_leaves_no_vmm_and_starts_again_clean", killed),
    ("nothing_of_a_tenant_is_in_the_log", silence),
];

/// What no log may hold.
pub(crate) const MARKER: &str = "7d0c-planted-marker-e1f4";

pub(crate) const INVOCATION: &str = "00000000-0000-4000-8000-000000000001";

/// Writes a function's ZIP with the marker in it; gives its path.
pub(crate) fn write_zip(bed: &Bed) -> String {
    let zip = bed.path("function.zip");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(&zip).unwrap());
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    writer.start_file("bootstrap", options).unwrap();
    writer.write_all(MARKER.as_bytes()).unwrap();
    writer.finish().unwrap();
    zip.to_str().unwrap().to_owned()
}

/// Drives an agent over its Unix socket.
pub(crate) struct Driver {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) client: Client,
}

impl Driver {
    pub(crate) fn new(bed: &Bed) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let identity = Identity::read(&bed.path("keys/operator")).unwrap();
        let address = Address::Unix { path: bed.path("s") };
        let spec = ClientSpec { address, server_name: None };
        let client = runtime.block_on(Client::connect(&spec, &identity)).unwrap();
        Self { runtime, client }
    }

    /// Makes a function known whose guest does what `handler` says; gives its version's id.
    pub(crate) fn register(&self, bed: &Bed, handler: &str, timeout_s: i64) -> String {
        let source = v1::code::Source::ZipPath(write_zip(bed));
        self.try_register(handler, timeout_s, source).unwrap()
    }

    /// The same, with code from there.
    pub(crate) fn try_register(
        &self,
        handler: &str,
        timeout_s: i64,
        source: v1::code::Source,
    ) -> Result<String, ClientError> {
        let request = v1::RegisterFunctionVersionRequest {
            account: String::from("012345678912"),
            function_name: format!("f-{handler}"),
            version: String::from("1"),
            runtime: String::from("provided"),
            handler: handler.to_owned(),
            memory_mb: 128,
            timeout: Some(prost_types::Duration { seconds: timeout_s, nanos: 0 }),
            environment: [(String::from("SECRET"), MARKER.to_owned())].into(),
            code: Some(v1::Code { source: Some(source) }),
            ..Default::default()
        };
        Ok(self.runtime.block_on(self.client.register(request))?.id)
    }

    /// Begins an invocation with `payload`; gives its answer as it comes.
    pub(crate) fn invoke(
        &self,
        version: &str,
        id: &str,
        payload: &str,
    ) -> votive_control::client::Answer {
        self.runtime.block_on(async {
            let reservation = self.client.reserve(version, id).await.unwrap();
            let start = v1::InvokeStart {
                token: reservation.token,
                invocation_id: id.to_owned(),
                function_version_id: version.to_owned(),
                client_context: format!("{{\"x\":\"{MARKER}\"}}"),
                log_tail: true,
                ..Default::default()
            };
            let payload = payload.to_owned().into_bytes();
            self.client.invoke(start, payload.into(), PATIENCE).await.unwrap()
        })
    }

    pub(crate) fn finish(&self, answer: votive_control::client::Answer) -> Outcome {
        self.runtime.block_on(answer.collect(1 << 20)).unwrap()
    }
}

fn answered() {
    let bed = Bed::new();
    let agent = bed.start();
    let driver = Driver::new(&bed);
    let version = driver.register(&bed, "echo", 3);
    let outcome = driver.finish(driver.invoke(&version, INVOCATION, "{\"a\":1}"));
    assert_eq!(&outcome.payload[..], b"{\"a\":1}");
    let labels = "account=\"012345678912\",function=\"f-echo\",version=\"1\"";
    let metric = |name: &str| agent.metric(&format!("votive_{name}{{{labels}}}"));
    assert_eq!(metric("invocations_total"), Some(1.0));
    assert_eq!(metric("errors_total"), Some(0.0));
    assert_eq!(metric("duration_seconds_count"), Some(1.0));
    assert_eq!(metric("concurrent_executions"), Some(0.0));
    assert_eq!(agent.metric("votive_environments_created_total{reason=\"cold-start\"}"), Some(1.0));
}

fn drained() {
    let bed = Bed::new();
    let mut agent = bed.start();
    let driver = Driver::new(&bed);
    let version = driver.register(&bed, "hang", 2);
    let mut answer = driver.invoke(&version, INVOCATION, "{}");
    let started = driver.runtime.block_on(answer.next()).unwrap();
    assert!(started.is_some());
    agent.signal(Signal::TERM);
    agent.await_notice("STOPPING=1");
    while agent.line("the worker's state")["state"] != "draining" {}
    assert_eq!(agent.get("/readyz"), (503, String::from("draining\n")));
    assert_eq!(agent.get("/healthz").0, 200);
    let other = "00000000-0000-4000-8000-000000000002";
    let refused = driver.runtime.block_on(driver.client.reserve(&version, other)).unwrap_err();
    assert_eq!(refused.refusal().unwrap().name, "ResourceNotReadyException", "{refused}");
    let outcome = driver.finish(answer);
    assert_eq!(outcome.end.error_type, "Sandbox.Timedout");
    assert_eq!(agent.wait(), 0, "{}", agent.log());
    bed.await_nobody();
}

fn ended_at_once() {
    let bed = Bed::new();
    let mut agent = bed.start();
    let driver = Driver::new(&bed);
    let version = driver.register(&bed, "hang", 600);
    let answer = driver.invoke(&version, INVOCATION, "{}");
    agent.signal(Signal::TERM);
    agent.await_notice("STOPPING=1");
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait(), 143, "{}", agent.log());
    assert!(driver.runtime.block_on(answer.collect(1)).is_err());
    bed.await_nobody();
}

fn killed() {
    let bed = Bed::new();
    let mut agent = bed.start();
    let driver = Driver::new(&bed);
    let version = driver.register(&bed, "hang", 600);
    let _answer = driver.invoke(&version, INVOCATION, "{}");
    bed.await_processes(2);
    agent.signal(Signal::KILL);
    assert_eq!(agent.wait(), -9);
    bed.await_nobody();
    let mut agent = bed.start();
    let driver = Driver::new(&bed);
    let version = driver.register(&bed, "echo", 3);
    let outcome = driver.finish(driver.invoke(&version, INVOCATION, "[]"));
    assert_eq!(&outcome.payload[..], b"[]");
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait(), 0, "{}", agent.log());
    bed.await_nobody();
}

/// Everything that a tenant or an operator entrusts to the worker holds the marker, and everything is logged.
fn silence() {
    let bed = Bed::new();
    let mut agent = bed.start_with(|command| {
        command.env("VOTIVE_LOG", "trace");
    });
    let driver = Driver::new(&bed);
    for (number, handler) in ["echo", "throw", "exit-3", "logs"].into_iter().enumerate() {
        let version = driver.register(&bed, handler, 2);
        let id = format!("00000000-0000-4000-8000-00000000001{number}");
        let outcome = driver.finish(driver.invoke(&version, &id, &format!("[\"{MARKER}\"]")));
        if handler == "echo" {
            assert!(String::from_utf8_lossy(&outcome.payload).contains(MARKER));
        }
    }
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait(), 0);
    let log = agent.log();
    assert!(log.lines().count() > 100, "{log}");
    for line in log.lines() {
        assert!(!line.contains(MARKER), "{line}");
    }
    for file in ["keys/worker/key.pem", "keys/operator/key.pem"] {
        let key = std::fs::read_to_string(bed.path(file)).unwrap();
        let secret = key.lines().nth(1).unwrap();
        assert!(!log.contains(secret), "{file}");
    }
}
