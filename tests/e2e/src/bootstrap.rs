//! A custom runtime that behaves as its handler's name says: the program `votive-probe`.
//!
//! It speaks the Runtime API over plain sockets, so that it can also break its rules.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getpid, kill_process};

mod inspect;
mod reach;
mod tell;

/// The most that a buffered response may have.
const RESPONSE_MAX: usize = 6 * 1024 * 1024 + 100;

/// Serves invocations until something, perhaps on purpose, goes wrong.
#[must_use]
pub fn main() -> ExitCode {
    match serve() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("bootstrap: {error:#}");
            ExitCode::from(70)
        }
    }
}

fn serve() -> Result<u8> {
    // A container image's is an argument of its entry point.
    let handler = std::env::var("_HANDLER").ok().or_else(|| std::env::args().nth(1));
    let handler = handler.context("no _HANDLER")?;
    match handler.as_str() {
        "init-error" => {
            let body = br#"{"errorMessage":"no such thing","errorType":"Function.NoSuchThing"}"#;
            let head = "Lambda-Runtime-Function-Error-Type: Function.NoSuchThing\r\n";
            Request::post("/runtime/init/error", head, body).send()?;
            return Ok(1);
        }
        "init-exit" => return Ok(4),
        "init-hang" => wait_for_ever(),
        "spin" => tell::spin(),
        _ => {}
    }
    loop {
        let next = Request::get("/runtime/invocation/next").send()?;
        let id = next.header("lambda-runtime-aws-request-id").context("no request id")?.to_owned();
        if let Some(code) = invoke(&handler, &id, &next)? {
            return Ok(code);
        }
    }
}

/// Answers one invocation; `Some` ends the runtime.
fn invoke(handler: &str, id: &str, next: &Response) -> Result<Option<u8>> {
    let path = format!("/runtime/invocation/{id}/response");
    match handler {
        "inspect" => expect_accepted(&path, inspect::report(next).to_string().as_bytes())?,
        "throw" => {
            let path = format!("/runtime/invocation/{id}/error");
            let body = br#"{"errorMessage":"thrown","errorType":"Thrown","stackTrace":[]}"#;
            let head = "Lambda-Runtime-Function-Error-Type: Function.Thrown\r\n";
            Request::post(&path, head, body).send()?;
        }
        "exit-0" => return Ok(Some(0)),
        "exit-3" => return Ok(Some(3)),
        "killed" => {
            kill_process(getpid(), Signal::KILL)?;
            wait_for_ever();
        }
        "aborted" => {
            kill_process(getpid(), Signal::ABORT)?;
            wait_for_ever();
        }
        "hang" => {
            println!("hanging");
            wait_for_ever();
        }
        "fill" => fill_memory(),
        "oversized" => {
            let body = vec![b'x'; RESPONSE_MAX + 1];
            let response = Request::post(&path, "", &body).send()?;
            println!("oversized: {}", response.status);
        }
        "largest" => expect_accepted(&path, &largest())?,
        "twice" => {
            expect_accepted(&path, b"\"first\"")?;
            let second = Request::post(&path, "", b"\"second\"").send()?;
            println!("second answer: {}", second.status);
        }
        "streaming" => {
            let body = b"6\r\n\"strea\r\n5\r\nming\"\r\n0\r\n\r\n";
            let head = "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n";
            Request::post(&path, head, body).send()?;
        }
        "exit-after-answer" => {
            expect_accepted(&path, b"\"answered\"")?;
            return Ok(Some(9));
        }
        "log" => {
            // Enough for several frames, and a last line without an end.
            for line in 0..5000 {
                println!("line {line:04} of the log");
            }
            eprint!("no end");
            expect_accepted(&path, b"null")?;
        }
        "tell" | "spin" => return tell::invoke(id, next),
        "processes" => expect_accepted(&path, inspect::process_limit().to_string().as_bytes())?,
        "disk" => expect_accepted(&path, inspect::fill_disk().to_string().as_bytes())?,
        _ => expect_accepted(&path, &next.body)?,
    }
    Ok(None)
}

/// A JSON string that is exactly as long as a response may be.
#[must_use]
pub fn largest() -> Vec<u8> {
    let mut body = vec![b'z'; RESPONSE_MAX];
    body[0] = b'"';
    body[RESPONSE_MAX - 1] = b'"';
    body
}

fn expect_accepted(path: &str, body: &[u8]) -> Result<()> {
    let response = Request::post(path, "Content-Type: application/json\r\n", body).send()?;
    if response.status != 202 {
        bail!("{path}: {} {}", response.status, String::from_utf8_lossy(&response.body));
    }
    Ok(())
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

fn fill_memory() {
    let mut kept = Vec::new();
    loop {
        // Every page is written, so that each costs memory.
        kept.push(vec![0x55_u8; 1024 * 1024]);
    }
}

struct Request<'a> {
    method: &'static str,
    path: &'a str,
    head: &'a str,
    body: &'a [u8],
}

/// What the Runtime API answered.
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl<'a> Request<'a> {
    fn get(path: &'a str) -> Self {
        Self { method: "GET", path, head: "", body: b"" }
    }

    fn post(path: &'a str, head: &'a str, body: &'a [u8]) -> Self {
        Self { method: "POST", path, head, body }
    }

    fn send(&self) -> Result<Response> {
        let host = std::env::var("AWS_LAMBDA_RUNTIME_API").context("no AWS_LAMBDA_RUNTIME_API")?;
        let mut stream = TcpStream::connect(&host)?;
        let (method, path, head) = (self.method, self.path, self.head);
        let length = if head.contains("chunked") || method == "GET" {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", self.body.len())
        };
        let head = format!(
            "{method} /2018-06-01{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}{length}\r\n"
        );
        stream.write_all(head.as_bytes())?;
        // A body that is too large is answered before all of it was read: then writing fails, and the answer is there.
        let written = stream.write_all(self.body);
        let response = read_response(BufReader::new(stream));
        written.or_else(|error| response.is_ok().then_some(()).ok_or(error))?;
        response
    }
}

fn read_response(mut stream: BufReader<TcpStream>) -> Result<Response> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).context("no status")?.parse()?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Ok(0), |(_, value)| value.parse::<usize>())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Response { status, headers, body })
}
