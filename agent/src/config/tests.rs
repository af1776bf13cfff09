//! Tests of the configuration: every wrong value with what is said about it, and the reference.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::place::{NoPlace, Places, Surroundings};
use super::value::{Bandwidth, HumanDuration, HumanSize, Listen, Operations, SocketPath};
use super::{
    Cgroups, Config, Egress, JailMode, LeaseSource, LogFormat, OnFlaw, parse::parse, reference,
};
use crate::microvm::{DeviceLimits, QueueLimits, Rate};
use crate::posture::Flaw;

/// The problems of a text, as they are shown.
fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse(""), Ok(Config::default()));
    assert_eq!(Config::default().problems(), vec![]);
}

#[test]
fn every_field_is_read() {
    let text = r#"
        [worker]
        id = "rack-7.host_3"
        state_dir = "/srv/votive"
        images = "/usr/lib/votive"
        vmm = "/usr/libexec/votive-vmm"
        [lease]
        source = "orchestrator"
        duration = "6h"
        longest_invocation = "5m"
        [capacity]
        environments = 50
        memory = "64GiB"
        vcpus = 128
        environments_per_function_version = 10
        boots = 24
        [environments]
        idle_timeout = "1h 30m"
        reservation_lifetime = "500ms"
        hang_timeout = "2s"
        cgroups = "required"
        cgroup_root = "/sys/fs/cgroup/votive"
        [isolation]
        shells = 3
        jail = "required"
        uids = "70000-170000"
        jailer = "/usr/libexec/votive-jailer"
        io_max = "8:16 rbps=1000000 wiops=50"
        [artifacts]
        store = "s3://bucket/votive"
        keys = "/srv/keys"
        cache = "/srv/cache"
        cache_size = "1GiB"
        memory = "2GiB"
        idle_timeout = "3m"
        read_timeout = "20s"
        [control]
        unix_socket = "/run/votive/s"
        tcp = "[2001:db8::1]:9443"
        keys = "/etc/keys"
        [metrics]
        listen = "off"
        [network]
        egress = "bridge"
        uplink = "eth1"
        bridge = "br0"
        gateway = "192.0.2.1"
        links = "192.0.2.128/25"
        dns = ["192.0.2.53"]
        deny = ["10.0.0.0/8"]
        allow = ["10.1.2.3"]
        ready = 8
        [limits]
        disk_bandwidth = "100MiB/1GiB"
        disk_operations = "5000/20000"
        network_bandwidth = "1GB"
        network_packets = "70000"
        [log]
        level = "warn,votive_agent::worker=debug"
        format = "json"
        [host]
        posture = "warn"
        accept = ["swap", "sibling-threads"]
    "#;
    let config = parse(text).unwrap();
    assert_eq!(config.worker.id.as_deref(), Some("rack-7.host_3"));
    assert_eq!(config.worker.state_dir, Some(PathBuf::from("/srv/votive")));
    assert_eq!(config.worker.images, Some(PathBuf::from("/usr/lib/votive")));
    assert_eq!(config.worker.vmm, Some(PathBuf::from("/usr/libexec/votive-vmm")));
    assert_eq!(config.lease.source, LeaseSource::Orchestrator);
    assert_eq!(config.lease.duration.0, Duration::from_secs(6 * 3600));
    assert_eq!(config.lease.longest_invocation.0, Duration::from_secs(300));
    assert_eq!(config.capacity.environments, 50);
    assert_eq!(config.capacity.memory, Some(HumanSize(64 << 30)));
    assert_eq!(config.capacity.vcpus, Some(128));
    assert_eq!(config.capacity.environments_per_function_version, 10);
    assert_eq!(config.capacity.boots, Some(24));
    assert_eq!(config.environments.idle_timeout.0, Duration::from_secs(5400));
    assert_eq!(config.environments.reservation_lifetime.0, Duration::from_millis(500));
    assert_eq!(config.environments.hang_timeout.0, Duration::from_secs(2));
    assert_eq!(config.environments.cgroups, Cgroups::Required);
    assert_eq!(config.environments.cgroup_root, Some(PathBuf::from("/sys/fs/cgroup/votive")));
    let isolation = crate::config::Isolation {
        jail: JailMode::Required,
        uids: "70000-170000".parse().unwrap(),
        jailer: Some(PathBuf::from("/usr/libexec/votive-jailer")),
        shells: 3,
        io_max: Some(String::from("8:16 rbps=1000000 wiops=50")),
    };
    assert_eq!(config.isolation, isolation);
    let artifacts = crate::config::Artifacts {
        store: Some(String::from("s3://bucket/votive")),
        keys: Some(String::from("/srv/keys")),
        cache: Some(PathBuf::from("/srv/cache")),
        cache_size: HumanSize(1 << 30),
        memory: Some(HumanSize(2 << 30)),
        idle_timeout: HumanDuration(Duration::from_secs(180)),
        read_timeout: HumanDuration(Duration::from_secs(20)),
    };
    assert_eq!(config.artifacts, artifacts);
    let socket = SocketPath::Path(PathBuf::from("/run/votive/s"));
    assert_eq!(config.control.unix_socket, Some(socket));
    assert_eq!(config.control.tcp.to_string(), "[2001:db8::1]:9443");
    assert_eq!(config.control.keys, Some(PathBuf::from("/etc/keys")));
    assert_eq!(config.metrics.listen, Listen::Off);
    let network = crate::config::Network {
        egress: Egress::Bridge,
        uplink: Some(String::from("eth1")),
        bridge: Some(String::from("br0")),
        gateway: Some(String::from("192.0.2.1")),
        links: String::from("192.0.2.128/25"),
        dns: vec![String::from("192.0.2.53")],
        deny: vec![String::from("10.0.0.0/8")],
        allow: vec![String::from("10.1.2.3")],
        ready: 8,
    };
    assert_eq!(config.network, network);
    let queue = |bandwidth, operations| QueueLimits { bandwidth, operations };
    let limits = DeviceLimits {
        disk: queue(Rate::new(100 << 20, Some(1 << 30)), Rate::new(5000, Some(20000))),
        network: queue(Rate::new(1_000_000_000, None), Rate::new(70_000, None)),
    };
    assert_eq!(config.limits.of_devices(), limits);
    assert_eq!(
        toml::to_string(&config.limits).unwrap().lines().next().unwrap(),
        "disk_bandwidth = \"100MiB/1GiB\""
    );
    assert_eq!(config.log.level, "warn,votive_agent::worker=debug");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.host.posture, OnFlaw::Warn);
    assert_eq!(config.host.accept, [Flaw::Swap, Flaw::SiblingThreads]);
    // The text above forgets no field.
    for section in reference::sections() {
        for field in section.fields {
            assert!(text.contains(&format!("{} =", field.name)), "{}", field.name);
        }
    }
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let config = Config::default();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text), Ok(config), "{text}");
}

#[test]
fn an_unknown_field_is_refused_with_the_name_that_was_meant() {
    let cases = [
        (
            "[lease]\nduratoin = \"1h\"",
            "line 2: lease.duratoin: there is no such field; did you mean duration?",
        ),
        ("[leese]\n", "line 1: leese: there is no such field; did you mean lease?"),
        (
            "[worker]\nstate-dir = \"/x\"",
            "line 2: worker.state-dir: there is no such field; did you mean state_dir?",
        ),
        (
            "[worker]\nkeys = \"/x\"",
            "line 2: worker.keys: there is no such field; did you mean control.keys?",
        ),
        (
            "idle_timeout = \"1h\"",
            "line 1: idle_timeout: there is no such field; did you mean environments.idle_timeout?",
        ),
        ("[log]\nzzzz = 1", "line 2: log.zzzz: there is no such field; there are: format, level"),
        (
            "zzzzzzzz = 1",
            "line 1: zzzzzzzz: there is no such field; there are: artifacts, capacity, control, environments, host, isolation, lease, limits, log, metrics, network, worker",
        ),
        (
            "log.\"le\\nvel\" = 1",
            "line 1: log.le\\nvel: there is no such field; did you mean level?",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn every_wrong_value_is_told_with_field_value_and_what_is_allowed() {
    let burst = "the burst at least a twentieth of the rate, such as";
    let bandwidth =
        format!("RATE or RATE/BURST, sizes of at most 1TiB, {burst} \"100MiB\" or \"100MiB/1GiB\"");
    let operations =
        format!("RATE or RATE/BURST, whole numbers, {burst} \"5000\" or \"5000/20000\"");
    let duration = r#"a duration with its unit, such as "14h", "1h 30m" or "500ms""#;
    let cases = [
        (
            "[lease]\nduration = \"14h 1s\"",
            String::from("line 2: lease.duration: 14h 1s is not allowed; 1s to 14h are"),
        ),
        (
            "[lease]\nduration = 14",
            format!("line 2: lease.duration: invalid type: integer `14`, expected {duration}"),
        ),
        (
            "[lease]\nduration = \"14\"",
            format!("line 2: lease.duration: invalid value: string \"14\", expected {duration}"),
        ),
        (
            "[lease]\nduration = \"-1h\"",
            format!("line 2: lease.duration: invalid value: string \"-1h\", expected {duration}"),
        ),
        (
            "[lease]\n\nlongest_invocation = \"16m\"",
            String::from("line 3: lease.longest_invocation: 16m is not allowed; 1s to 15m are"),
        ),
        (
            "[lease]\nduration = \"15m\"",
            String::from(
                "line 2: lease.duration: 15m is not allowed: a lease must last longer than the longest invocation, a \
                 reservation and the shutdown, 15m 11s in all",
            ),
        ),
        (
            "[lease]\nsource = \"me\"",
            String::from(
                "line 2: lease.source: unknown variant `me`, expected `self-issued` or `orchestrator`",
            ),
        ),
        (
            "[capacity]\nenvironments = 0",
            String::from("line 2: capacity.environments: 0 is not allowed; 1 to 10000 are"),
        ),
        (
            "[capacity]\nenvironments = -1",
            String::from(
                "line 2: capacity.environments: invalid value: integer `-1`, expected u32",
            ),
        ),
        (
            "[capacity]\nmemory = \"64MiB\"",
            String::from("line 2: capacity.memory: 64MiB is not allowed; 192MiB to 1024TiB are"),
        ),
        (
            "[capacity]\nmemory = \"64\"",
            String::from(
                "line 2: capacity.memory: invalid value: string \"64\", expected a size with its unit, such as \"64GiB\", \
                 \"512MiB\" or \"1.5GB\"",
            ),
        ),
        (
            "[capacity]\nvcpus = 60001",
            String::from("line 2: capacity.vcpus: 60001 is not allowed; 1 to 60000 are"),
        ),
        (
            "[capacity]\nenvironments_per_function_version = 0",
            String::from(
                "line 2: capacity.environments_per_function_version: 0 is not allowed; 1 to 10000 are",
            ),
        ),
        (
            "[environments]\nidle_timeout = \"0s\"",
            String::from("line 2: environments.idle_timeout: 0s is not allowed; 1s to 14h are"),
        ),
        (
            "[environments]\nreservation_lifetime = \"2m\"",
            String::from(
                "line 2: environments.reservation_lifetime: 2m is not allowed; 100ms to 1m are",
            ),
        ),
        (
            "[environments]\nhang_timeout = \"50ms\"",
            String::from("line 2: environments.hang_timeout: 50ms is not allowed; 100ms to 1m are"),
        ),
        (
            "[capacity]\nboots = 0",
            String::from("line 2: capacity.boots: 0 is not allowed; 1 to 10000 are"),
        ),
        (
            "[limits]\ndisk_bandwidth = \"100MiB/1MiB\"",
            format!(
                "line 2: limits.disk_bandwidth: invalid value: string \"100MiB/1MiB\", expected {bandwidth}"
            ),
        ),
        (
            "[limits]\ndisk_bandwidth = \"1000\"",
            format!(
                "line 2: limits.disk_bandwidth: invalid value: string \"1000\", expected {bandwidth}"
            ),
        ),
        (
            "[limits]\nnetwork_packets = \"0\"",
            format!(
                "line 2: limits.network_packets: invalid value: string \"0\", expected {operations}"
            ),
        ),
        (
            "[isolation]\nshells = 65",
            String::from("line 2: isolation.shells: 65 is not allowed; 0 to 64 are"),
        ),
        (
            "[isolation]\nuids = \"70000-71000\"\nshells = 1",
            String::from(
                "line 2: isolation.uids: 1001 users are not enough for capacity.environments = 1000 and 4 shells",
            ),
        ),
        (
            "[isolation]\nuids = \"70000-70999\"",
            String::from(
                "line 2: isolation.uids: 1000 users are not enough for capacity.environments = 1000",
            ),
        ),
        (
            "[isolation]\nio_max = \"8:0 rbps=-1\"",
            String::from(
                "line 2: isolation.io_max: \"8:0 rbps=-1\" is not allowed; MAJOR:MINOR and then rbps=, wbps=, riops= or \
                 wiops= with a number is",
            ),
        ),
        (
            "[environments]\ncgroups = true",
            String::from("line 2: environments.cgroups: wanted string or table"),
        ),
        (
            "[environments]\ncgroup_root = \"votive\"",
            String::from(
                "line 2: environments.cgroup_root: \"votive\" is not allowed; an absolute path is",
            ),
        ),
        (
            "[artifacts]\nstore = \"store\"\nkeys = \"/k\"",
            String::from("line 2: artifacts.store: \"store\" is not allowed; an absolute path is"),
        ),
        (
            "[artifacts]\nstore = \"s3://bucket\"\nkeys = \"k\"",
            String::from("line 3: artifacts.keys: \"k\" is not allowed; an absolute path is"),
        ),
        (
            "[artifacts]\nstore = \"/s\"\nkeys = \"http://k\"",
            String::from(
                "line 3: artifacts.keys: http://k names no key service: a folder, file:FOLDER or awskms:KEY is expected",
            ),
        ),
        (
            "[artifacts]\nstore = \"/s\"",
            String::from(
                "artifacts.keys: it is missing: nothing of artifacts.store can be read without it",
            ),
        ),
        (
            "[artifacts]\ncache = \"c\"",
            String::from("line 2: artifacts.cache: \"c\" is not allowed; an absolute path is"),
        ),
        (
            "[artifacts]\ncache_size = \"1MiB\"",
            String::from("line 2: artifacts.cache_size: 1MiB is not allowed; 16MiB to 1024TiB are"),
        ),
        (
            "[artifacts]\nmemory = \"1MiB\"",
            String::from("line 2: artifacts.memory: 1MiB is not allowed; 64MiB to 1024TiB are"),
        ),
        (
            "[artifacts]\nidle_timeout = \"0s\"",
            String::from("line 2: artifacts.idle_timeout: 0s is not allowed; 1s to 14h are"),
        ),
        (
            "[artifacts]\nread_timeout = \"10m\"",
            String::from("line 2: artifacts.read_timeout: 10m is not allowed; 1s to 9m are"),
        ),
        (
            "[worker]\nid = \"a b\"",
            String::from(
                "line 2: worker.id: \"a b\" is not allowed; 1 to 64 letters, digits, '.', '-' or '_' are",
            ),
        ),
        (
            "[worker]\nstate_dir = \"x\"",
            String::from("line 2: worker.state_dir: \"x\" is not allowed; an absolute path is"),
        ),
        (
            "[control]\ntcp = \"localhost\"",
            String::from(
                "line 2: control.tcp: invalid value: string \"localhost\", expected \"off\" or an address with its port, such \
                 as \"127.0.0.1:9464\"",
            ),
        ),
        (
            "[control]\nunix_socket = \"off\"",
            String::from(
                "line 2: control.unix_socket: \"off\" is not allowed when control.tcp is off too: nobody could drive the worker",
            ),
        ),
        (
            "[control]\nunix_socket = \"s\"",
            String::from(
                "line 2: control.unix_socket: invalid value: string \"s\", expected \"off\" or an absolute path of at most \
                 107 bytes, such as \"/run/votive/control.sock\"",
            ),
        ),
        (
            "[host]\nposture = \"ok\"",
            String::from("line 2: host.posture: unknown variant `ok`, expected `refuse` or `warn`"),
        ),
        (
            "[log]\nformat = \"xml\"",
            String::from("line 2: log.format: unknown variant `xml`, expected `text` or `json`"),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problems(text), [expected], "{text}");
    }
    let level = &problems("[log]\nlevel = \"votive=loud\"")[0];
    assert!(level.starts_with("line 2: log.level: \"votive=loud\" is not allowed ("), "{level}");
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let text = "[capacity]\nenvironments = 0\nvcpus = 0\n[lease]\nduration = \"20h\"\n";
    let fields: Vec<_> = parse(text).unwrap_err().into_iter().map(|p| (p.line, p.field)).collect();
    let expected = [(2, "capacity.environments"), (3, "capacity.vcpus"), (5, "lease.duration")];
    assert_eq!(fields, expected.map(|(line, field)| (Some(line), String::from(field))));
    let unknown = problems("[lease]\nx_y = 1\n[zz]\n[log]\nlevle = \"info\"");
    assert_eq!(unknown.len(), 3, "{unknown:?}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    for text in ["[lease", "a = ", "a = 1\na = 2", "\u{0}", "[lease]\n[lease]"] {
        let told = problems(text);
        assert!(told[0].starts_with("line "), "{told:?}");
        assert!(!told[0].contains('\n'), "{told:?}");
    }
}

#[test]
fn places_come_from_the_file_then_systemd_then_the_user() {
    let config = Config::default();
    let root =
        Surroundings { is_root: true, host_name: String::from("host"), ..Surroundings::default() };
    let expected = Places {
        worker_id: String::from("host"),
        state_dir: PathBuf::from("/var/lib/votive"),
        unix_socket: Some(PathBuf::from("/run/votive/control.sock")),
        keys: PathBuf::from("/etc/votive/keys/worker"),
        artifact_cache: PathBuf::from("/var/lib/votive/cache"),
    };
    assert_eq!(config.places(&root), Ok(expected));
    let systemd = Surroundings {
        state_directory: Some(PathBuf::from("/var/lib/a")),
        runtime_directory: Some(PathBuf::from("/run/a")),
        host_name: String::from("höst name"),
        ..Surroundings::default()
    };
    let places = config.places(&systemd).unwrap();
    assert_eq!(places.state_dir, PathBuf::from("/var/lib/a"));
    assert_eq!(places.unix_socket, Some(PathBuf::from("/run/a/control.sock")));
    assert_eq!(places.worker_id, "h-st-name");
    let user = Surroundings {
        home: Some(PathBuf::from("/home-of/u")),
        xdg_runtime: Some(PathBuf::from("/run/user/7")),
        ..Surroundings::default()
    };
    let places = config.places(&user).unwrap();
    assert_eq!(places.state_dir, PathBuf::from("/home-of/u/.local/state/votive"));
    assert_eq!(places.unix_socket, Some(PathBuf::from("/run/user/7/votive/control.sock")));
    let nothing = config.places(&Surroundings::default());
    assert_eq!(nothing, Err(NoPlace { field: "control.unix_socket" }));
}

#[test]
fn every_field_is_documented() {
    let sections = reference::sections();
    assert_eq!(sections.len(), 12);
    for section in sections {
        assert!(section.text.ends_with('.'), "{}", section.name);
        for field in section.fields {
            let name = format!("{}.{}", section.name, field.name);
            assert!(field.text.ends_with('.'), "{name}: {}", field.text);
            assert_ne!(field.kind, "null", "{name}");
            assert!(field.values.iter().all(|(_, meaning)| !meaning.is_empty()), "{name}");
            let listed = ["one of", "list of"].contains(&field.kind.as_str());
            assert_eq!(listed, !field.values.is_empty(), "{name}");
        }
    }
}

#[test]
fn the_page_on_the_configuration_is_the_reference() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let written = std::fs::read_to_string(page).unwrap();
    assert!(
        written == reference::markdown(),
        "docs/configuration.md is not what `votive-agent config-reference` prints"
    );
}

#[test]
fn the_example_is_right_and_tells_every_field() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/votive-agent.toml");
    let text = std::fs::read_to_string(example).unwrap();
    parse(&text).unwrap();
    // What is commented out is right too.
    let all: Vec<_> = text.lines().map(|line| line.strip_prefix("#").unwrap_or(line)).collect();
    let fields = all.iter().filter(|line| !line.starts_with(' ')).copied().collect::<Vec<_>>();
    parse(&fields.join("\n")).unwrap();
    for section in reference::sections() {
        assert!(fields.contains(&format!("[{}]", section.name).as_str()), "{}", section.name);
        for field in section.fields {
            let start = format!("{} = ", field.name);
            assert!(fields.iter().any(|line| line.starts_with(&start)), "{}", field.name);
        }
    }
}

proptest! {
    #[test]
    fn durations_are_read_as_they_are_written(nanoseconds in 0..u64::MAX) {
        let duration = HumanDuration(Duration::from_nanos(nanoseconds));
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
    }

    #[test]
    fn sizes_are_read_as_they_are_written(bytes in any::<u64>(), shift in 0..50_u32) {
        let size = HumanSize(bytes >> shift << shift);
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }

    #[test]
    fn rates_are_read_as_they_are_written(rate in 1..=1_u64 << 40, burst in proptest::option::of(any::<u64>())) {
        let Some(rate) = Rate::new(rate, burst.map(|burst| burst >> 24)) else { return Ok(()) };
        prop_assert_eq!(Bandwidth(rate).to_string().parse(), Ok(Bandwidth(rate)));
        prop_assert_eq!(Operations(rate).to_string().parse(), Ok(Operations(rate)));
    }

    #[test]
    fn no_text_makes_a_value_panic(text in "\\PC{0,40}|[-+.0-9eE a-zA-Z]{0,40}") {
        let _ = text.parse::<HumanDuration>();
        let _ = text.parse::<HumanSize>();
        let _ = text.parse::<Listen>();
        let _ = text.parse::<SocketPath>();
        let _ = text.parse::<Bandwidth>();
        let _ = text.parse::<Operations>();
    }

    #[test]
    fn no_text_makes_the_parser_panic_or_write_several_lines(text in "(\\[?(lease|log|worker|x)\\]?|[a-z_.=\"\\[\\]{}#0-9 -]{0,12}|\n|\\PC){0,30}") {
        if let Err(problems) = parse(&text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(!problem.to_string().contains('\n'));
            }
        }
    }
}
