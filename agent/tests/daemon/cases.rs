//! The process: starting, telling, refusing, ending. No function is needed for any of it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use rustix::process::Signal;
use votive_agent::posture::{Files, Flaw, Posture};
use votive_control::identity::Holder;
use votive_control::keys;

use crate::bed::Bed;

/// Every case with its name.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("readiness_is_told_when_everything_listens", ready),
    ("the_watchdog_hears_from_a_live_loop", watchdog),
    ("the_endpoint_answers_what_it_knows_and_bounds_the_rest", endpoint),
    ("the_endpoint_has_a_place_for_so_many", crowd),
    ("sigterm_drains_an_idle_worker_and_ends_with_0", sigterm),
    ("sigint_drains_too", sigint),
    ("a_lease_that_is_over_ends_the_process_with_0", lease_over),
    ("one_agent_uses_a_state_folder", lock),
    ("an_agent_that_was_killed_starts_again", killed),
    ("sighup_reads_the_certificates_again", renewal),
    ("a_host_without_kvm_is_refused_with_the_reason", no_kvm),
    ("a_flaw_of_the_host_is_refused_until_it_is_accepted_by_name", posture),
    ("what_is_wrong_is_told_and_nothing_starts", refusals),
    ("a_configuration_is_checked_with_its_files", checks),
    ("the_manual_and_the_help_tell_every_field", manual),
    ("the_journal_gets_priorities_and_no_time", journal),
];

fn ready() {
    let bed = Bed::new();
    let mut agent = bed.start();
    assert!(bed.path("s").exists());
    let mode = std::fs::metadata(bed.path("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(agent.get("/healthz"), (200, String::from("alive\n")));
    assert_eq!(agent.get("/readyz"), (200, String::from("active\n")));
    let status = agent.await_notice("STATUS=");
    assert_eq!(status, "STATUS=active; 0 busy, 0 idle; the lease ends in 13h 59m");
    let remaining = agent.metric("votive_worker_lease_remaining_seconds").unwrap();
    assert!((50_000.0..50_400.0).contains(&remaining), "{remaining}");
    assert_eq!(agent.metric("votive_worker_lease_duration_seconds"), Some(50_400.0));
    assert_eq!(agent.metric("votive_worker_state{state=\"active\"}"), Some(1.0));
    assert_eq!(agent.metric("votive_worker_state{state=\"draining\"}"), Some(0.0));
    assert_eq!(agent.metric("votive_environments{state=\"idle\"}"), Some(0.0));
    assert_eq!(agent.metric("votive_capacity_environments{kind=\"total\"}"), Some(1000.0));
}

fn watchdog() {
    let bed = Bed::new();
    let mut agent = bed.start_with(|command| {
        command.env("WATCHDOG_USEC", "300000");
    });
    for _ in 0..5 {
        agent.await_notice("WATCHDOG=1");
    }
}

fn endpoint() {
    let bed = Bed::new();
    let agent = bed.start();
    let (status, text) = agent.get("/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("# TYPE votive_worker_lease_remaining_seconds gauge\n"), "{text}");
    assert!(text.contains("# HELP votive_build_info "), "{text}");
    assert_eq!(agent.get("/").0, 404);
    assert_eq!(agent.get("/metrics/../etc").0, 404);
    let head = "HEAD /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = agent.raw(head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let post =
        "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let answer = agent.raw(post.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    assert!(agent.raw(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
    assert!(agent.raw(many.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert!(
        agent.raw(b"\x16\x03\x01\x00\xff\x01").is_empty()
            || agent.raw(b"GET\r\n\r\n").starts_with("HTTP/1.1 400 ")
    );
    let counted = "votive_metrics_requests_total{path=\"/metrics\",status=\"405\"}";
    assert_eq!(agent.metric(counted), Some(1.0));
    assert_eq!(
        agent.metric("votive_metrics_requests_total{path=\"other\",status=\"404\"}"),
        Some(2.0)
    );
}

fn crowd() {
    let bed = Bed::new();
    let agent = bed.start();
    // Each says the beginning of a head, and is waited for.
    let crowd: Vec<_> = (0..32)
        .map(|_| {
            let mut stream = agent.connect();
            stream.write_all(b"GET /").unwrap();
            stream
        })
        .collect();
    assert_eq!(agent.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"), "");
    drop(crowd);
    let refused = (0..).find_map(|_| {
        let answer = agent.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let line = answer
            .lines()
            .find_map(|l| l.strip_prefix("votive_metrics_connections_refused_total "))?;
        Some(line.parse::<f64>().unwrap())
    });
    assert!(refused.unwrap() >= 1.0);
}

fn sigterm() {
    ends_with_0(Signal::TERM);
}

fn sigint() {
    ends_with_0(Signal::INT);
}

fn ends_with_0(signal: Signal) {
    let bed = Bed::new();
    let mut agent = bed.start();
    agent.signal(signal);
    agent.await_notice("STOPPING=1");
    assert_eq!(agent.wait(), 0, "{}", agent.log());
    assert!(!bed.path("s").exists());
    bed.await_nobody();
}

fn lease_over() {
    let bed = Bed::new();
    bed.configure(
        "lease.duration = \"8s\"\nlease.longest_invocation = \"1s\"\n\
         environments.reservation_lifetime = \"100ms\"\n",
    );
    let mut agent = bed.start();
    agent.await_notice("STOPPING=1");
    assert_eq!(agent.wait(), 0, "{}", agent.log());
}

fn lock() {
    let bed = Bed::new();
    let agent = bed.start();
    let output = bed.output(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = format!("another agent (process {}) uses the state folder", agent.id());
    assert!(text.contains(&expected), "{text}");
    assert_eq!(agent.get("/readyz").0, 200);
    assert!(bed.path("s").exists());
}

fn killed() {
    let bed = Bed::new();
    let mut agent = bed.start();
    agent.signal(Signal::KILL);
    assert_eq!(agent.wait(), -9);
    assert!(bed.path("s").exists());
    std::fs::write(bed.path("state/.tmp-left"), "x").unwrap();
    std::fs::create_dir(bed.path("state/.tmp-folder")).unwrap();
    let mut agent = bed.start();
    assert!(!bed.path("state/.tmp-left").exists());
    assert!(!bed.path("state/.tmp-folder").exists());
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait(), 0);
}

fn renewal() {
    let bed = Bed::new();
    let mut agent = bed.start();
    std::fs::rename(bed.path("keys/worker"), bed.path("keys/old")).unwrap();
    agent.signal(Signal::HUP);
    let line = agent.line("the certificates stay as they were");
    assert!(line["error"].as_str().unwrap().contains("keys/worker"), "{line}");
    let keys = bed.path("keys");
    keys::issue(&keys, Holder::Worker, &[], 7, &keys.join("worker"), SystemTime::now()).unwrap();
    agent.signal(Signal::HUP);
    agent.line("the certificates were read again");
    assert_eq!(agent.get("/readyz").0, 200);
}

fn no_kvm() {
    let bed = Bed::new();
    let vmm = bed.path("vmm.sh");
    std::fs::write(&vmm, "#!/bin/sh\necho kvm=emulated loop_ns=20000000\n").unwrap();
    std::fs::set_permissions(&vmm, PermissionsExt::from_mode(0o755)).unwrap();
    let text = std::fs::read_to_string(bed.path("agent.toml")).unwrap();
    let own = bed.path("vmm");
    let text = text.replace(own.to_str().unwrap(), vmm.to_str().unwrap());
    std::fs::write(bed.path("agent.toml"), text).unwrap();
    let output = bed.output(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("not started: this KVM emulates guest kernel code"), "{text}");
    assert!(text.contains("use a host with VMX or SVM"), "{text}");
    assert!(!bed.path("state").exists());
}

/// On a host without any flaw, this shows that none is made up.
fn posture() {
    let flaws = Posture::of(&Files::of_this_host()).flaws;
    let configured = |line: &str| {
        let bed = Bed::new();
        let text = std::fs::read_to_string(bed.path("agent.toml")).unwrap();
        std::fs::write(bed.path("agent.toml"), text.replace("host.posture = \"warn\"", line))
            .unwrap();
        bed
    };
    if !flaws.is_empty() {
        let output = configured("").output(&[]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        for (flaw, seen) in &flaws {
            assert!(text.contains(&format!("{}: {seen}", flaw.name())), "{text}");
        }
    }
    let names: Vec<_> = flaws.iter().map(|(flaw, _)| flaw.name()).collect();
    let bed = configured(&format!("host.accept = {names:?}"));
    let agent = bed.start();
    for flaw in Flaw::ALL {
        let series = format!("votive_host_flaws{{flaw=\"{}\"}}", flaw.name());
        let there = names.contains(&flaw.name());
        assert_eq!(agent.metric(&series), Some(f64::from(u8::from(there))), "{series}");
    }
}

fn refusals() {
    let cases: [(&str, i32, &str); 6] = [
        ("nonsense", 2, "agent.toml is wrong"),
        ("lease.duration = \"15h\"", 2, "lease.duration: 15h is not allowed; 1s to 14h are"),
        (
            "lease.duratoin = \"1h\"",
            2,
            "lease.duratoin: there is no such field; did you mean duration?",
        ),
        ("host.accept = 7", 2, "host.accept"),
        ("[control]\nunix_socket = \"/s\"", 2, "agent.toml is wrong"),
        ("capacity.memory = \"1KiB\"", 2, "192MiB to 1024TiB are"),
    ];
    for (more, code, expected) in cases {
        let bed = Bed::new();
        bed.configure(more);
        for arguments in [&[][..], &["check-config"]] {
            let output = bed.output(arguments);
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{more}: {text}");
            assert!(text.contains(expected), "{more}: {text}");
        }
        assert!(!bed.path("state").exists(), "{more}");
    }
    let bed = Bed::new();
    std::fs::remove_file(bed.path("agent.toml")).unwrap();
    let output = bed.output(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("agent.toml cannot be read"));
    assert_eq!(bed.output(&["--nonsense"]).status.code(), Some(2));
}

/// Something done to a bed before it is checked.
type Damage = fn(&Bed);

fn checks() {
    let bed = Bed::new();
    let output = bed.output(&["check-config"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.lines().all(|line| line.starts_with("ok ")), "{text}");
    let damages: [(&str, Damage, &str); 9] = [
        (
            "no kernel",
            |bed| std::fs::remove_file(bed.path("images/vmlinux")).unwrap(),
            "NO  kernel",
        ),
        ("no ELF", |bed| std::fs::write(bed.path("images/vmlinux"), "MZ..").unwrap(), "NO  kernel"),
        (
            "no runtime",
            |bed| std::fs::remove_file(bed.path("images/provided.erofs")).unwrap(),
            "holds no runtime's image",
        ),
        (
            "no EROFS",
            |bed| std::fs::write(bed.path("images/provided.erofs"), "x").unwrap(),
            "NO  runtime",
        ),
        (
            "empty initramfs",
            |bed| std::fs::write(bed.path("images/init.cpio"), "").unwrap(),
            "is empty",
        ),
        (
            "public image",
            |bed| mode(bed, "images/init.cpio", 0o666),
            "can be changed by every user",
        ),
        ("no keys", |bed| std::fs::remove_dir_all(bed.path("keys/worker")).unwrap(), "NO  keys"),
        ("public key", |bed| mode(bed, "keys/worker/key.pem", 0o644), "NO  keys"),
        (
            "socket is a file",
            |bed| std::fs::write(bed.path("s"), "").unwrap(),
            "is there and is no socket",
        ),
    ];
    for (name, damage, expected) in damages {
        let bed = Bed::new();
        damage(&bed);
        let output = bed.output(&["check-config"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.contains(expected), "{name}: {text}");
        assert_eq!(text.matches("NO  ").count(), 1, "{name}: {text}");
        let refused = bed.output(&[]);
        assert_eq!(refused.status.code(), Some(1), "{name}");
    }
    let bed = Bed::new();
    std::fs::create_dir(bed.path("state")).unwrap();
    mode(&bed, "state", 0o755);
    let output = bed.output(&["check-config"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("NO  state"), "{text}");
}

fn mode(bed: &Bed, name: &str, mode: u32) {
    std::fs::set_permissions(bed.path(name), PermissionsExt::from_mode(mode)).unwrap();
}

fn manual() {
    let bed = Bed::new();
    let page = String::from_utf8(bed.output(&["man"]).stdout).unwrap();
    let help = String::from_utf8(bed.output(&["--help"]).stdout).unwrap();
    let markdown = String::from_utf8(bed.output(&["config-reference"]).stdout).unwrap();
    for section in votive_agent::config::reference::sections() {
        assert!(page.contains(&format!(".SS [{}]", section.name)), "{}", section.name);
        assert!(help.contains(&format!("\n[{}]  ", section.name)), "{}", section.name);
        for field in section.fields {
            assert!(markdown.contains(&format!("| `{}` |", field.name)), "{}", field.name);
            assert!(help.contains(&format!("\n  {} (", field.name)), "{}", field.name);
            assert!(page.contains(&format!("\\fB{}\\fR (", field.name)), "{}: {page}", field.name);
        }
    }
    assert!(help.lines().all(|line| line.chars().count() <= 160), "{help}");
}

fn journal() {
    let bed = Bed::new();
    bed.configure("");
    let text = std::fs::read_to_string(bed.path("agent.toml")).unwrap();
    std::fs::write(bed.path("agent.toml"), text.replace("\"json\"", "\"text\"")).unwrap();
    let log = std::fs::File::create(bed.path("log")).unwrap();
    let stat = rustix::fs::fstat(&log).unwrap();
    let held = bed.lock();
    let status = bed
        .command()
        .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
        .stderr(log)
        .status()
        .unwrap();
    drop(held);
    assert_eq!(status.code(), Some(1));
    let text = std::fs::read_to_string(bed.path("log")).unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("<3>"), "{text}");
    assert!(last.contains("another agent"), "{text}");
    assert!(text.lines().all(|line| line.starts_with('<') && !line.contains('\u{1b}')), "{text}");
}
