//! What microVMs reach by their network, and who reaches them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use votive_agent::network::addresses::{GUEST, Range};
use votive_control::v1;

use super::{alone, left};
use crate::cases::Case;
use crate::cases::pauses::block_on;
use crate::harness::worker::Environment;
use crate::harness::{Internet, SERVER_PORT, Version, Worker, counters, ip, reachable};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("a_function_without_a_network_has_nothing_but_loopback", none),
    ("of_twenty_microvms_with_a_network_each_reaches_the_internet_and_none_another", twenty),
    ("microvms_on_a_bridge_reach_their_gateway_and_none_another", bridged),
    ("a_vmm_that_was_started_ahead_takes_a_network", started_ahead),
    ("an_agent_that_is_killed_leaves_no_network_and_starts_again", killed),
];

const MICROVMS: u32 = 20;
const MICROVMS_ON_A_BRIDGE: u32 = 3;
/// Every function listens here, on all of its addresses.
const FUNCTION_PORT: u16 = 7001;
/// How long twenty may take to boot, on an emulated processor.
const BOOTS_MAX: Duration = Duration::from_secs(400);
/// How long the attempts of twenty may take, of which each takes seconds.
const ATTEMPTS_MAX: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);
/// How long the host tries to connect to what nobody may reach.
const TRY: Duration = Duration::from_secs(3);
const LINKS: &str = "198.18.7.0/24";
/// Limits of devices, and what a VMM is told of them.
const LIMITS: &[(&str, &str)] = &[
    ("limits.disk_bandwidth", "\"500MiB/1GiB\""),
    ("limits.disk_operations", "\"200000\""),
    ("limits.network_bandwidth", "\"64MiB\""),
    ("limits.network_packets", "\"70000/80000\""),
];
const DISK_LIMITS: &str = ",bandwidth=524288000/1073741824,operations=200000";
const NETWORK_LIMITS: &str = ",rx-bandwidth=67108864,rx-operations=70000/80000,tx-bandwidth=67108864,tx-operations=70000/80000";

/// A worker whose microVMs have a network, with these settings of it as well.
fn worker(settings: &[(&str, &str)]) -> Result<Worker> {
    let common = [
        ("network.dns", "[\"203.0.113.53\"]"),
        // Twenty at once on one emulated processor.
        ("environments.hang_timeout", "\"1m\""),
        ("environments.reservation_lifetime", "\"1m\""),
    ];
    Worker::bare(&[&common, settings].concat())
}

/// The same whose microVMs leave by an address translation.
fn by_nat(internet: &Internet, settings: &[(&str, &str)]) -> Result<Worker> {
    let (uplink, links) = (format!("\"{}\"", internet.uplink), format!("\"{LINKS}\""));
    let nat = [
        ("network.egress", "\"nat\""),
        ("network.uplink", uplink.as_str()),
        ("network.links", links.as_str()),
    ];
    worker(&[&nat, settings].concat())
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn none() -> Result<()> {
    let _alone = alone();
    let internet = Internet::new()?;
    let worker = Worker::bare(&[])?;
    let version = worker.register(&Version::tell()?.memory(128))?;
    let targets = [at(internet.server, SERVER_PORT), at(internet.metadata, 80)];
    let told = worker.invoke(&version, &json!({ "reach": targets }))?.response;
    for target in targets {
        // ENETUNREACH: there is no route, as there is no device.
        ensure!(told["reach"][target.to_string()] == "error 101", "{told}");
    }
    ensure!(left()?.is_empty(), "{:?}", left()?);
    worker.drain()
}

/// The addresses of all namespaces' links, as the host knows them.
fn link_addresses() -> Result<BTreeSet<Ipv4Addr>> {
    let routes = ip("route show scope link")?;
    let ours = routes.lines().filter(|line| line.contains(" dev vtv"));
    Ok(ours.filter_map(|line| line.split(' ').next()?.parse().ok()).collect())
}

/// The host's own addresses.
fn host_addresses() -> Result<BTreeSet<Ipv4Addr>> {
    let all = ip("-oneline -4 address show")?;
    let addresses = all.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" inet ")?;
        rest.split(['/', ' ']).next()?.parse().ok()
    });
    Ok(addresses.filter(|address: &Ipv4Addr| !address.is_loopback()).collect())
}

/// What microVMs are told to try.
struct Targets {
    server: SocketAddr,
    own: BTreeSet<SocketAddr>,
    links: BTreeSet<SocketAddr>,
    host: BTreeSet<SocketAddr>,
    others: BTreeSet<SocketAddr>,
}

fn twenty() -> Result<()> {
    let _alone = alone();
    let internet = Internet::new()?;
    let worker = by_nat(&internet, &[])?;
    let callers = all_pairs(&internet, &worker, MICROVMS, link_addresses)?;
    ensure!(callers.len() == MICROVMS as usize, "{callers:?}");
    ensure!(callers.iter().all(|caller| *caller == internet.host), "{callers:?}");
    println!("dropped on the host: {:?}", counters()?);
    worker.drain()?;
    ensure!(left()?.is_empty(), "{:?}", left()?);
    ensure!(!internet.forwards()?, "the uplink still forwards");
    Ok(())
}

fn bridged() -> Result<()> {
    let _alone = alone();
    let internet = Internet::bridged()?;
    let links = internet.links();
    let worker = worker(&[
        ("network.egress", "\"bridge\""),
        ("network.bridge", &format!("\"{}\"", internet.bridge()?)),
        ("network.gateway", &format!("\"{}\"", internet.server)),
        ("network.links", &format!("\"{links}\"")),
        ("network.ready", "1"),
    ])?;
    let range: Range = links.parse()?;
    // The first and the last of a range are nobody's.
    let links = || Ok((1..7).filter_map(|index| range.nth(index)).collect());
    let callers = all_pairs(&internet, &worker, MICROVMS_ON_A_BRIDGE, links)?;
    let own: BTreeSet<_> = callers.iter().collect();
    ensure!(own.len() == MICROVMS_ON_A_BRIDGE as usize, "{callers:?}");
    ensure!(own.iter().all(|caller| range.contains(Range::of(**caller))), "{callers:?}");
    ensure!(!internet.forwards()?, "the host forwards");
    worker.drain()?;
    ensure!(left()?.is_empty(), "{:?}", left()?);
    Ok(())
}

/// Has so many microVMs try each other and all else, at the same time, and everybody else try them; gives whom the internet
/// heard.
fn all_pairs(
    internet: &Internet,
    worker: &Worker,
    count: u32,
    links: impl Fn() -> Result<BTreeSet<Ipv4Addr>>,
) -> Result<Vec<Ipv4Addr>> {
    let version = Version::tell()?.memory(128).timeout(300).arguments(["--version", "1"]);
    let version = worker.register(&version)?;
    // Something that answers on each of the host's addresses: whoever reaches one of them will know.
    let _listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT))?;
    block_on(provision(worker, &version, count))?;
    let links = links()?;
    ensure!(links.len() >= count as usize, "{links:?}");
    let [gateway, next_hop] = [Ipv4Addr::new(192, 0, 0, 1), Ipv4Addr::new(192, 0, 0, 6)];
    let targets = Targets {
        server: at(internet.server, SERVER_PORT),
        own: [Ipv4Addr::LOCALHOST, GUEST].map(|it| at(it, FUNCTION_PORT)).into(),
        links: links.iter().map(|link| at(*link, FUNCTION_PORT)).collect(),
        host: host_addresses()?.into_iter().map(|it| at(it, SERVER_PORT)).collect(),
        others: [gateway, next_hop, internet.metadata, internet.private]
            .map(|it| at(it, SERVER_PORT))
            .into(),
    };
    check_namespaces(worker, count)?;
    let answers = block_on(ask_all(worker, &version, &targets, count))?;
    report(&answers, &targets, count)?;

    // The other way: everybody listens, and the host and the internet hear nobody.
    let links: Vec<_> = targets.links.iter().copied().collect();
    let (host, outside) = (reachable(&links, TRY), internet.reaches(&links, TRY)?);
    ensure!(host.is_empty() && outside.is_empty(), "host {host:?}, internet {outside:?}");
    println!("of {} links the host reaches 0, the internet 0", links.len());
    let callers = internet.callers()?;
    Ok(callers.iter().filter_map(|caller| as_ipv4(caller.ip())).collect())
}

/// Checks that the jail of each VMM has its guest's namespace, and nobody else's.
fn check_namespaces(worker: &Worker, count: u32) -> Result<()> {
    let mut seen = BTreeSet::from([fs::read_link("/proc/self/ns/net")?]);
    let environments = worker.environments()?;
    ensure!(environments.len() == count as usize, "{environments:?}");
    for environment in &environments {
        let process = environment.process.context("no process")?;
        let place = PathBuf::from(format!("/proc/{}", process.as_raw_nonzero()));
        let namespace = fs::read_link(place.join("ns/net"))?;
        ensure!(seen.insert(namespace.clone()), "{process:?} is in {namespace:?} with another");
        let devices = devices(environment)?;
        ensure!(devices.contains("tap0:") && devices.contains("up:"), "{devices}");
        ensure!(fs::read_dir(place.join("root"))?.next().is_none(), "{process:?} is in no jail");
    }
    Ok(())
}

fn as_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

async fn provision(worker: &Worker, version: &str, count: u32) -> Result<()> {
    let client = worker.connect().await?;
    let started = Instant::now();
    client.set_provisioned(version, count).await?;
    while client.provisioned(version).await?.available < count {
        ensure!(started.elapsed() < BOOTS_MAX, "{:#?}", client.provisioned(version).await?);
        tokio::time::sleep(LOOK).await;
    }
    println!("{count} microVMs with a network after {:.1?}", started.elapsed());
    Ok(())
}

/// Has all of them try all targets at the same time.
async fn ask_all(
    worker: &Worker,
    version: &str,
    targets: &Targets,
    count: u32,
) -> Result<Vec<Value>> {
    let client = worker.connect().await?;
    let mut under_way = Vec::new();
    for number in 0..count {
        let invocation = format!("00000000-0000-4000-8000-{number:012x}");
        let reserved = client.reserve(version, &invocation).await?;
        ensure!(!reserved.cold, "{reserved:?}");
        under_way.push(v1::InvokeStart {
            token: reserved.token,
            invocation_id: reserved.invocation_id,
            function_version_id: reserved.function_version_id,
            ..Default::default()
        });
    }
    let silent = targets.links.iter().chain(&targets.host).chain(&targets.others);
    let silent: Vec<_> = silent.collect();
    let open: Vec<_> = targets.own.iter().chain([&targets.server]).collect();
    let event = json!({ "reach": open, "silent": silent }).to_string().into_bytes();
    let mut answers = Vec::new();
    for start in under_way {
        answers.push(client.invoke(start, event.clone().into(), ATTEMPTS_MAX).await?);
    }
    let mut told = Vec::new();
    for answer in answers {
        let outcome = answer.collect(1 << 16).await?;
        told.push(serde_json::from_slice(&outcome.payload)?);
    }
    Ok(told)
}

/// Prints what each of them reached, and checks that it was itself, the server and nothing else.
fn report(answers: &[Value], targets: &Targets, count: u32) -> Result<()> {
    let groups = [
        ("itself", targets.own.clone()),
        ("internet", BTreeSet::from([targets.server])),
        ("links of all", targets.links.clone()),
        ("the host", targets.host.clone()),
        ("gateway, metadata, private", targets.others.clone()),
    ];
    print!("{:<10}", "microVM");
    groups.iter().for_each(|(name, _)| print!("{name:>28}"));
    println!();
    let mut wrong = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        let told: BTreeMap<SocketAddr, String> =
            serde_json::from_value(answer["reach"].clone()).with_context(|| format!("{answer}"))?;
        print!("{number:<10}");
        for (name, group) in &groups {
            let open: Vec<_> =
                group.iter().filter(|it| told.get(*it).is_some_and(|it| it == "open")).collect();
            print!("{:>28}", format!("{} of {}", open.len(), group.len()));
            let wanted = match *name {
                "itself" | "internet" => group.len(),
                _ => 0,
            };
            // Silence, and no answer that would tell that somebody is there.
            let silent = group.iter().filter(|it| told.get(*it).is_some_and(|it| it == "silent"));
            if open.len() != wanted || (wanted == 0 && silent.count() != group.len()) {
                wrong.push(format!("microVM {number}, {name}: {told:?}"));
            }
        }
        println!();
        ensure!(answer["resolver"] == "nameserver 203.0.113.53", "{answer}");
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(answers.len() == count as usize, "{} answers", answers.len());
    let boots: BTreeSet<_> = answers.iter().map(|answer| answer["boot"].to_string()).collect();
    ensure!(boots.len() == answers.len(), "{} guests answered", boots.len());
    Ok(())
}

fn started_ahead() -> Result<()> {
    let _alone = alone();
    let internet = Internet::new()?;
    let worker = by_nat(&internet, &[&[("isolation.shells", "1")], LIMITS].concat())?;
    let server = at(internet.server, SERVER_PORT);
    // Nobody knows the size before the first.
    for (number, taken) in [("1", 0.0), ("2", 1.0)] {
        let version = Version::tell()?.memory(128).arguments(["--version", number]);
        let version = worker.register(&version)?;
        let told = worker.invoke(&version, &json!({ "reach": [server] }))?.response;
        ensure!(told["reach"][server.to_string()] == "open", "{told}");
        ensure!(worker.metric("votive_shells_taken_total")? == taken, "{number}");
        worker.await_some("a VMM that waits", || {
            Ok((worker.metric("votive_shells")? >= 1.0).then_some(()))
        })?;
    }
    // The tap is all that it has of its guest's namespace.
    let devices: Vec<_> = worker.environments()?.iter().map(devices).collect::<Result<_>>()?;
    let has = |name: &str| devices.iter().filter(|devices| devices.contains(name)).count();
    ensure!(devices.len() == 2 && has("tap0:") == 1 && has("lo:") == 2, "{devices:?}");
    worker.drain()?;
    ensure!(left()?.is_empty(), "{:?}", left()?);
    Ok(())
}

/// Checks that the VMM of each environment was told the limits of its disks and its network device.
fn check_limits(worker: &Worker) -> Result<()> {
    for environment in worker.environments()? {
        let process = environment.process.context("no process")?;
        let line = fs::read_to_string(format!("/proc/{}/cmdline", process.as_raw_nonzero()))?;
        let words: Vec<_> = line.split('\0').collect();
        let values = |option: &str| {
            let pairs = words.windows(2).filter(|pair| pair[0] == option);
            pairs.map(|pair| pair[1]).collect::<Vec<_>>()
        };
        let (disks, networks) = (values("--disk"), values("--net"));
        ensure!(disks.len() >= 3 && disks.iter().all(|disk| disk.contains(DISK_LIMITS)), "{line}");
        ensure!(networks.len() == 1 && networks[0].ends_with(NETWORK_LIMITS), "{line}");
    }
    Ok(())
}

/// What is in the network namespace of an environment's VMM, as the kernel lists it.
fn devices(environment: &Environment) -> Result<String> {
    let process = environment.process.context("no process")?;
    Ok(fs::read_to_string(format!("/proc/{}/net/dev", process.as_raw_nonzero()))?)
}

fn killed() -> Result<()> {
    let _alone = alone();
    let internet = Internet::new()?;
    let mut worker = by_nat(&internet, LIMITS)?;
    let version = worker.register(&Version::tell()?.memory(128))?;
    let event = json!({ "reach": [at(internet.server, SERVER_PORT)] });
    let reached = |told: &Value| {
        ensure!(told["reach"][at(internet.server, SERVER_PORT).to_string()] == "open", "{told}");
        Ok(())
    };
    reached(&worker.invoke(&version, &event)?.response)?;
    check_limits(&worker)?;
    ensure!(!link_addresses()?.is_empty(), "no links");
    worker.signal(Signal::KILL)?;
    worker.wait()?;
    // The namespaces have no name, so that nobody needs to find them: they end with the last process, and their links too.
    worker.await_some("the end of all links", || Ok(link_addresses()?.is_empty().then_some(())))?;
    ensure!(
        !counters()?.is_empty() && internet.forwards()?,
        "nobody was there to remove the rules"
    );

    worker.begin()?;
    let version = worker.register(&Version::tell()?.memory(128))?;
    reached(&worker.invoke(&version, &event)?.response)?;
    worker.drain()?;
    ensure!(left()?.is_empty(), "{:?}", left()?);
    ensure!(!internet.forwards()?, "the uplink still forwards");
    Ok(())
}
