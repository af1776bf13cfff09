//! What stands for the internet: a namespace of its own behind a link of the host's, with servers that tell what they heard.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

/// Where its servers listen, on all addresses that it has.
pub const SERVER_PORT: u16 = 7000;
/// How long a datagram that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// There is room for so many side by side.
const NUMBER_MAX: u8 = 14;

/// The other side of a link of the host's.
#[derive(Debug)]
pub struct Internet {
    namespace: File,
    /// The host's link to it.
    pub uplink: String,
    /// The bridge that this link is a port of.
    bridge: Option<String>,
    /// The host's address on it.
    pub host: Ipv4Addr,
    /// The server that functions may reach.
    pub server: Ipv4Addr,
    /// A server in a network of one owner.
    pub private: Ipv4Addr,
    /// The server that a cloud's hosts get their credentials from.
    pub metadata: Ipv4Addr,
    sockets: (UdpSocket, TcpListener),
}

impl Internet {
    /// Makes one. The host has a route to each of its servers, so that no route is missing where something is refused.
    ///
    /// # Errors
    /// No right to, or no `ip`.
    pub fn new() -> Result<Self> {
        Self::make(false)
    }

    /// Makes one whose other side is on a bridge of the host's, which has the host's address. The server forwards what comes to
    /// it, as a router does: also to the host.
    ///
    /// # Errors
    /// No right to, or no `ip`.
    pub fn bridged() -> Result<Self> {
        Self::make(true)
    }

    fn make(bridged: bool) -> Result<Self> {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        ensure!(number < NUMBER_MAX, "too many networks in one program");
        let uplink = format!("out{number}");
        let on = |last: u8| Ipv4Addr::new(203, 0, 113, number * 16 + last);
        let (host, server) = (on(1), on(2));
        let private = Ipv4Addr::new(10, 9, 9, number);
        let metadata = Ipv4Addr::new(169, 254, 169, 254);
        let namespace = new_namespace()?;
        let process = std::process::id().to_string();
        let (datagrams, connections) = in_namespace(&namespace, || {
            ip(&format!("link add far type veth peer name {uplink} netns {process}"))?;
            ip("link set lo up")?;
            ip("link set far up")?;
            ip(&format!("address add {server}/28 dev far"))?;
            ip(&format!("address add {private}/32 dev far"))?;
            ip(&format!("address add {metadata}/32 dev far"))?;
            // Whoever wants to come in this way finds the host.
            ip(&format!("route add default via {host}"))?;
            if bridged {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            }
            let every = (Ipv4Addr::UNSPECIFIED, SERVER_PORT);
            let datagrams = UdpSocket::bind(every)?;
            datagrams.set_read_timeout(Some(PATIENCE))?;
            let connections = TcpListener::bind(every)?;
            connections.set_nonblocking(true)?;
            Ok((datagrams, connections))
        })?;
        let bridge = bridged.then(|| format!("lan{number}"));
        if let Some(bridge) = &bridge {
            ip(&format!("link add {bridge} type bridge"))?;
            ip(&format!("link set {bridge} up"))?;
            ip(&format!("link set {uplink} master {bridge}"))?;
        }
        ip(&format!("link set {uplink} up"))?;
        let own = bridge.as_deref().unwrap_or(&uplink);
        ip(&format!("address add {host}/28 dev {own}"))?;
        for other in [private, metadata] {
            let metric = u32::from(number) + 100;
            ip(&format!("route add {other}/32 via {server} dev {own} metric {metric}"))?;
        }
        let sockets = (datagrams, connections);
        Ok(Self { namespace, uplink, bridge, host, server, private, metadata, sockets })
    }

    /// The bridge that its other side is on.
    ///
    /// # Errors
    /// It is on none.
    pub fn bridge(&self) -> Result<&str> {
        self.bridge.as_deref().context("no bridge")
    }

    /// Addresses of its network that nobody has yet: those of guests' links on a bridge, six of them.
    #[must_use]
    pub fn links(&self) -> String {
        let [a, b, c, d] = self.host.octets();
        format!("{a}.{b}.{c}.{}/29", (d & 0xf0) + 8)
    }

    /// The next datagram: who sent it, and what it says.
    ///
    /// # Errors
    /// None comes.
    pub fn hear(&self) -> Result<(SocketAddr, Vec<u8>)> {
        let mut buffer = vec![0; 2048];
        let (len, from) = self.sockets.0.recv_from(&mut buffer).context("no datagram came")?;
        buffer.truncate(len);
        Ok((from, buffer))
    }

    /// Answers somebody.
    ///
    /// # Errors
    /// The system's.
    pub fn answer(&self, to: SocketAddr, text: &[u8]) -> Result<()> {
        self.sockets.0.send_to(text, to)?;
        Ok(())
    }

    /// Who connected since the last call.
    ///
    /// # Errors
    /// The system's.
    pub fn callers(&self) -> Result<Vec<SocketAddr>> {
        let mut callers = Vec::new();
        loop {
            match self.sockets.1.accept() {
                Ok((_, caller)) => callers.push(caller),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(callers),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the host forwards what comes in by its link, or the bridge that it is on.
    ///
    /// # Errors
    /// The system's.
    pub fn forwards(&self) -> Result<bool> {
        let knob = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}/forwarding");
        for name in [Some(&self.uplink), self.bridge.as_ref()].into_iter().flatten() {
            if std::fs::read_to_string(knob(name))?.trim() == "1" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Runs something where its servers are.
    ///
    /// # Errors
    /// Its own.
    pub fn inside<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_namespace(&self.namespace, run)
    }

    /// Which of these it can connect to.
    ///
    /// # Errors
    /// The system's.
    pub fn reaches(&self, addresses: &[SocketAddr], wait: Duration) -> Result<Vec<SocketAddr>> {
        self.inside(|| Ok(reachable(addresses, wait)))
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        // It goes with its namespace at the latest.
        for name in [Some(&self.uplink), self.bridge.as_ref()].into_iter().flatten() {
            let _ = ip(&format!("link delete {name}"));
        }
    }
}

/// Which of these somebody answers at, all tried at once.
pub(crate) fn reachable(addresses: &[SocketAddr], wait: Duration) -> Vec<SocketAddr> {
    let tries = |address: &SocketAddr| {
        let address = *address;
        // Threads begin in the namespace of the thread that starts them.
        std::thread::spawn(move || TcpStream::connect_timeout(&address, wait).map(|_| address))
    };
    let tries: Vec<_> = addresses.iter().map(tries).collect();
    tries.into_iter().filter_map(|thread| thread.join().ok()?.ok()).collect()
}

fn new_namespace() -> Result<File> {
    let made = std::thread::spawn(|| {
        votive_tap::enter_new_namespace()?;
        File::open("/proc/thread-self/ns/net")
    });
    Ok(made.join().map_err(|_| anyhow!("a thread failed"))??)
}

/// Runs something in a thread that is in another network namespace.
///
/// # Errors
/// Its own, or no right to.
pub fn in_namespace<T: Send>(
    namespace: impl AsFd + Sync,
    run: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)?;
            run()
        });
        thread.join().map_err(|_| anyhow!("a thread failed"))?
    })
}

/// Runs `ip` with words.
pub(crate) fn ip(words: &str) -> Result<String> {
    let output = Command::new("ip").args(words.split(' ')).output().context("no program ip")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ip {words}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the rules of this thread's namespace have dropped, by `chain/comment`; tables whose names begin otherwise are not ours.
///
/// # Errors
/// No `nft`, or it says something else.
pub fn counters() -> Result<BTreeMap<String, u64>> {
    let output = Command::new("nft").args(["--json", "list", "ruleset"]).output();
    let output = output.context("no program nft")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let mut counters = BTreeMap::new();
    for object in listed["nftables"].as_array().context("no list")? {
        let rule = &object["rule"];
        let (Some(chain), Some(why)) = (rule["chain"].as_str(), rule["comment"].as_str()) else {
            continue;
        };
        if !rule["table"].as_str().is_some_and(|table| table.starts_with("votive")) {
            continue;
        }
        let expressions = rule["expr"].as_array().into_iter().flatten();
        let packets = expressions.filter_map(|it| it["counter"]["packets"].as_u64()).sum::<u64>();
        *counters.entry(format!("{chain}/{why}")).or_default() += packets;
    }
    Ok(counters)
}
