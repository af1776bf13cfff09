//! What a function reaches: connections to many addresses at once, and a server of its own that others may try.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Once;
use std::time::Duration;

use serde_json::{Value, json};

/// Where every function that is asked what it reaches listens, on all of its addresses.
const OWN_PORT: u16 = 7001;
/// How long a connection may take to be made, on a crowded host that is emulated.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection is tried that must not be made: four times its first packet is sent.
const SILENCE: Duration = Duration::from_secs(8);
/// A thread each: small ones.
const STACK_BYTES: usize = 64 * 1024;

static LISTENING: Once = Once::new();

/// Connects to each address of two lists, to the second's not for long; gives `open`, `refused`, `silent` or the system's error
/// number for each.
pub(super) fn attempts(open: &Value, silent: &Value) -> Value {
    LISTENING.call_once(listen);
    let read = |addresses: &Value| -> Vec<SocketAddr> {
        serde_json::from_value(addresses.clone()).unwrap_or_default()
    };
    let open = read(open).into_iter().map(|address| (address, PATIENCE));
    let silent = read(silent).into_iter().map(|address| (address, SILENCE));
    let tries = open.chain(silent).map(|(address, patience)| {
        let connect = move || outcome(&TcpStream::connect_timeout(&address, patience));
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(connect);
        (address.to_string(), thread)
    });
    let tries: Vec<_> = tries.collect();
    let outcomes = tries.into_iter().map(|(address, thread)| {
        let joined = thread.ok().and_then(|thread| thread.join().ok());
        (address, joined.unwrap_or_else(|| String::from("no thread")))
    });
    json!(outcomes.collect::<BTreeMap<_, _>>())
}

fn outcome(connected: &std::io::Result<TcpStream>) -> String {
    match connected {
        Ok(_) => String::from("open"),
        Err(error) => match (error.kind(), error.raw_os_error()) {
            (ErrorKind::TimedOut, _) => String::from("silent"),
            (ErrorKind::ConnectionRefused, _) => String::from("refused"),
            (_, Some(number)) => format!("error {number}"),
            (kind, None) => kind.to_string(),
        },
    }
}

fn listen() {
    let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, OWN_PORT)) else { return };
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
        }
    });
}
