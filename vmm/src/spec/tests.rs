//! Facts about the command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::{Strategy, any, proptest};

use super::{
    ConsoleSpec, DiskSpec, EncryptedDiskSpec, KernelMemory, LazyDiskSpec, NetSpec, Request,
    SpecError, ValidSpec, VmSpec,
};
use crate::descriptor::FileRef;
use crate::limiter::{Limit, Limits};

const LEAST: [&str; 6] = ["--kernel", "vmlinux", "--vcpus", "1", "--memory-mib", "128"];

fn validated(arguments: &[&str]) -> Result<ValidSpec, SpecError> {
    match VmSpec::read(arguments.iter().map(OsString::from))? {
        Request::Run(spec) => spec.validate(),
        other => panic!("{other:?} asks for no microVM"),
    }
}

/// The least spec with `more` behind it.
fn with(more: &[&str]) -> Result<ValidSpec, SpecError> {
    validated(&[&LEAST, more].concat())
}

/// The error that the least spec with `more` gives.
fn message(more: &[&str]) -> String {
    with(more).expect_err("the value is wrong").to_string()
}

#[test]
fn the_least_spec_has_an_entropy_device_and_nothing_else() {
    let spec = with(&[]).unwrap();
    assert_eq!(spec.kernel, FileRef::Path("vmlinux".into()));
    assert_eq!((spec.vcpus, spec.memory_bytes), (1, 128 << 20));
    assert!(spec.rng);
    assert!(spec.disks.is_empty() && spec.vsock.is_none() && spec.initrd.is_none());
    assert!(spec.console.is_none() && spec.marks.is_none() && spec.cmdline.is_empty());
    assert_eq!((spec.control, spec.deadline_ns, spec.cgroup), (None, None, None));
}

#[test]
fn a_full_spec_keeps_every_value_and_the_order_of_disks() {
    let spec = with(&[
        "--initrd=fd:3",
        "--cmdline",
        "a=b -- x y",
        "--disk",
        "path=/a,readonly",
        "--disk",
        "readonly,path=fd:4",
        "--disk",
        "path=/c,operations=500/25",
        "--vsock",
        "cid=3,path=/s,port=1024:fd:5,port=0:fd:6",
        "--net",
        "rx-bandwidth=1000,mac=02:ab:CD:00:ff:01,tap=fd:10,mtu=9000,tx-operations=7/9",
        "--no-rng",
        "--kernel-memory",
        "copied",
        "--console",
        "stdout",
        "--marks",
        "fd:7",
        "--control",
        "fd:8",
        "--deadline",
        "9223372036854775807",
        "--cgroup",
        "fd:9",
    ])
    .unwrap();
    let limits = Limits { bandwidth: None, operations: Limit::new(500, Some(25)) };
    let disk = |file, read_only| {
        let (lazy, encrypted, limits) = (None, None, Limits::default());
        DiskSpec { file, read_only, lazy, encrypted, limits }
    };
    assert_eq!(
        spec.disks,
        [
            disk(FileRef::Path("/a".into()), true),
            disk(FileRef::Fd(4), true),
            DiskSpec { limits, ..disk(FileRef::Path("/c".into()), false) }
        ]
    );
    let vsock = spec.vsock.unwrap();
    assert_eq!((vsock.cid, vsock.path), (3, Some("/s".into())));
    assert_eq!(vsock.ports, [(1024, 5), (0, 6)]);
    assert_eq!(spec.console, Some(ConsoleSpec::Stdout));
    assert_eq!(spec.cmdline, "a=b -- x y");
    assert_eq!((spec.initrd, spec.marks), (Some(FileRef::Fd(3)), Some(FileRef::Fd(7))));
    assert_eq!((spec.control, spec.cgroup), (Some(8), Some(FileRef::Fd(9))));
    assert_eq!(spec.deadline_ns, Some(i64::MAX as u64));
    let mac = [2, 0xab, 0xcd, 0, 0xff, 1];
    let receive = Limits { bandwidth: Limit::new(1000, None), operations: None };
    let send = Limits { bandwidth: None, operations: Limit::new(7, Some(9)) };
    assert_eq!(spec.net, Some(NetSpec { tap: 10, mac, mtu: 9000, receive, send }));
    assert!(!spec.rng);
    assert_eq!(spec.kernel_memory, Some(KernelMemory::Copied));
}

#[test]
fn every_wrong_value_is_refused_with_its_field_itself_and_what_is_allowed() {
    let long = "x".repeat(2000);
    let many: String = (0..17).map(|port| format!(",port={port}:fd:{}", port + 3)).collect();
    let nine = ["--disk", "path=/d"].repeat(9);
    let lazy = "--disk=path=/a,readonly,presence=";
    let mac = "mac=02:00:00:00:00:01";
    let cases: &[(&[&str], &[&str])] = &[
        (&["--initrd", ""], &["--initrd:", "\"\"", "fd:N"]),
        (&["--initrd", "fd:2"], &["--initrd:", "fd:2", "from 3"]),
        (&["--initrd", "fd:-1"], &["--initrd:", "fd:-1", "from 3"]),
        (&["--initrd", "fd:99999999999"], &["--initrd:", "fd:99999999999", "1048575"]),
        (&["--kernel-memory", "huge"], &["--kernel-memory:", "huge", "demand, mapped, copied"]),
        (&["--cmdline", "a\nb"], &["--cmdline:", "a\\nb", "printable"]),
        (&["--cmdline", &long], &["--cmdline:", "xxx", "1500"]),
        (&["--net", "tap=fd:3"], &["--net:", "tap=fd:3", "mac="]),
        (&["--net", "mac=02:00:00:00:00:01"], &["--net:", "tap=fd:N"]),
        (&["--net", "tap=fd:3,tap=fd:4"], &["--net:", "tap=fd:N"]),
        (&["--net", &format!("{mac},tap=/dev/net/tun")], &["--net tap:", "/dev/net/tun", "fd:N"]),
        (&["--net", &format!("{mac},tap=fd:3,mtu=1279")], &["--net mtu:", "1279", "1280 to"]),
        (&["--net", &format!("{mac},tap=fd:3,mtu=65522")], &["--net mtu:", "65522", "65521"]),
        (&["--net", &format!("{mac},tap=fd:3,name=a")], &["--net:", "name=a", "[,mtu=M]"]),
        (&["--net", "tx-bandwidth=0"], &["--net tx-bandwidth:", "\"0\"", "RATE from 1"]),
        (&["--net", "rx-operations=1/0"], &["--net rx-operations:", "1/0", "[/BURST]"]),
        (&["--net", "tx-operations=1,tx-operations=1"], &["--net:", "tx-operations=1"]),
        (&["--disk", "path=/a,template=/b"], &["--disk:", "template=FILE"]),
        (&["--disk", "path=/a,encrypted,readonly"], &["--disk:", "encrypted without either"]),
        (&["--disk", "path=/a,encrypted,encrypted"], &["--disk:", "encrypted"]),
        (&["--disk", "path=/a,encrypted=yes"], &["--disk:", "[,encrypted"]),
        (&["--disk", "path=/a,encrypted,template="], &["--disk template:", "\"\""]),
        (&["--disk", "path=fd:3,encrypted,template=fd:3"], &["fd:3 twice"]),
        (&[&format!("{lazy}fd:3,requests=fd:4,encrypted")], &["--disk:", "without either"]),
        (&["--disk", "path=/a,bandwidth=100/4"], &["--disk bandwidth:", "100/4", "RATE/20"]),
        (&["--disk", "path=/a,operations="], &["--disk operations:", "\"\""]),
        (&["--disk", "path=/a,operations=1/2/3"], &["--disk operations:", "1/2/3"]),
        (&["--disk", "path=/a,bandwidth=1099511627777"], &["--disk bandwidth:", "at most"]),
        (&["--disk", "path=/a,bandwidth=1,bandwidth=1"], &["--disk:", "path=FILE"]),
        (&["--net", "tap=fd:3,mac=02:00:00:00:00"], &["--net mac:", "six pairs"]),
        (&["--net", "tap=fd:3,mac=02:00:00:00:00:01:02"], &["--net mac:", "six pairs"]),
        (&["--net", "tap=fd:3,mac=02:00:00:00:00:+1"], &["--net mac:", "six pairs"]),
        (&["--net", "tap=fd:3,mac=03:00:00:00:00:01"], &["--net mac:", "group"]),
        (&["--net", "tap=fd:3,mac=00:00:00:00:00:00"], &["--net mac:", "00:00:00:00:00:00"]),
        (&["--disk", "/a"], &["--disk:", "/a", "path=FILE"]),
        (&["--disk", "readonly"], &["--disk:", "readonly", "path=FILE"]),
        (&["--disk", "path=/a,path=/b"], &["--disk:", "path=/a,path=/b", "path=FILE"]),
        (&["--disk", "path=/a,readwrite"], &["--disk:", "readwrite", "[,readonly]"]),
        (&["--disk", "path=/a,readonly=yes"], &["--disk:", "readonly=yes", "[,readonly]"]),
        (&["--disk", "path"], &["--disk:", "path=FILE"]),
        (&["--disk", "path=/a,presence=fd:3,requests=fd:4"], &["--disk:", "only with readonly"]),
        (&["--disk", "path=/a,readonly,presence=fd:3"], &["--disk:", "and requests"]),
        (&["--disk", "path=/a,readonly,requests=fd:3"], &["--disk:", "and requests"]),
        (&["--disk", "path=/a,readonly,timeout-ms=5"], &["--disk:", "and requests"]),
        (&["--disk", "path=/a,readonly,reads=fd:5"], &["--disk:", "and requests"]),
        (&[&format!("{lazy}fd:3,requests=fd:4,reads=fd:2")], &["--disk reads:", "fd:2"]),
        (&[&format!("{lazy}fd:3,requests=fd:4,reads=fd:4")], &["--fd:", "fd:4 twice", "once"]),
        (
            &[&format!("{lazy}/b,requests=fd:4")],
            &["--disk presence:", "\"/b\"", "fd:N with N from 3"],
        ),
        (
            &[&format!("{lazy}fd:3,requests=fd:2")],
            &["--disk requests:", "fd:2", "fd:N with N from 3"],
        ),
        (&[&format!("{lazy}fd:3,requests=fd:3")], &["--fd:", "fd:3 twice", "once"]),
        (
            &[&format!("{lazy}fd:3,requests=fd:4,timeout-ms=0")],
            &["--disk timeout-ms:", "1 to 600000"],
        ),
        (
            &[&format!("{lazy}fd:3,requests=fd:4,timeout-ms=600001")],
            &["--disk timeout-ms:", "600001"],
        ),
        (&[&format!("{lazy}fd:3,requests=fd:4,timeout-ms")], &["--disk:", "timeout-ms=T"]),
        (&[&format!("{lazy}fd:3,requests=fd:4,presence=fd:5")], &["--disk:", "presence=fd:N"]),
        (&["--disk", "path="], &["--disk path:", "\"\"", "a path"]),
        (&nine, &["--disk:", "9 disks", "at most 8"]),
        (&["--vsock", "path=/s"], &["--vsock:", "path=/s", "cid=N"]),
        (&["--vsock", "cid=2"], &["--vsock cid:", "\"2\"", "3 to 4294967294"]),
        (&["--vsock", "cid=4294967295"], &["--vsock cid:", "4294967295", "3 to"]),
        (&["--vsock", "cid=03"], &["--vsock cid:", "\"03\"", "3 to"]),
        (&["--vsock", "cid=3,cid=4"], &["--vsock:", "cid=3,cid=4", "cid=N"]),
        (&["--vsock", "cid=3,path="], &["--vsock path:", "\"\"", "96 bytes"]),
        (&["--vsock", &format!("cid=3,path={long}")], &["--vsock path:", "xxx", "96 bytes"]),
        (&["--vsock", "cid=3,port=1:4"], &["--vsock port:", "1:4", "P:fd:M"]),
        (&["--vsock", "cid=3,port=1:fd:0"], &["--vsock port:", "fd:0", "N from 3"]),
        (
            &["--vsock", "cid=3,port=1:fd:4,port=1:fd:5"],
            &["--vsock port:", "1:fd:5", "each P once"],
        ),
        (&["--vsock", &format!("cid=3{many}")], &["--vsock port:", "16:fd:19", "at most 16"]),
        (&["--console", ""], &["--console:", "\"\"", "stdout"]),
        (&["--marks", "fd:x"], &["--marks:", "fd:x", "fd:N"]),
        (&["--marks", "fd:9", "--initrd", "fd:9"], &["--fd:", "fd:9 twice", "once"]),
        (&["--net", &format!("{mac},tap=fd:9"), "--initrd", "fd:9"], &["fd:9 twice", "once"]),
        (&["--control", "fd:9", "--initrd", "fd:9"], &["--fd:", "fd:9 twice", "once"]),
        (&["--cgroup", "fd:9", "--initrd", "fd:9"], &["--fd:", "fd:9 twice", "once"]),
        (&["--control", "/run/socket"], &["--control:", "/run/socket", "fd:N"]),
        (&["--control", "fd:2"], &["--control:", "fd:2", "from 3"]),
        (&["--deadline", "0"], &["--deadline:", "\"0\"", "CLOCK_BOOTTIME", "1 to"]),
        (&["--deadline", "-1"], &["--deadline:", "-1", "1 to"]),
        (&["--deadline", "9223372036854775808"], &["--deadline:", "775808", "775807"]),
        (&["--deadline", "18446744073709551616"], &["--deadline:", "551616", "775807"]),
        (&["--cgroup", ""], &["--cgroup:", "a path"]),
        (&["--frobnicate"], &["unknown option", "--frobnicate", "--help"]),
        (&["-k"], &["unknown option", "-k", "--help"]),
        (&["stray"], &["unexpected argument", "stray", "only options"]),
        (&["--kernel", "b"], &["--kernel is given twice", "once"]),
        (&["--rng", "--no-rng"], &["--no-rng is given twice", "once"]),
        (&["--rng=yes"], &["--rng:", "takes no value"]),
        (&["--marks"], &["--marks:", "missing"]),
    ];
    for (more, parts) in cases {
        let message = message(more);
        for part in *parts {
            assert!(message.contains(part), "{more:?} gave {message:?}, which lacks {part:?}");
        }
        assert!(message.len() < 400 && !message.contains('\n'), "{message}");
    }
}

#[test]
fn numbers_are_refused_outside_their_range_and_in_other_spellings() {
    for (vcpus, good) in [
        ("1", true),
        ("32", true),
        ("0", false),
        ("33", false),
        ("+1", false),
        ("1 ", false),
        ("", false),
        ("0x1", false),
    ] {
        let spec = validated(&["--kernel", "k", "--vcpus", vcpus, "--memory-mib", "128"]);
        assert_eq!(spec.is_ok(), good, "{vcpus:?}");
    }
    for (memory, good) in
        [("127", false), ("128", true), ("10752", true), ("10753", false), ("4294967424", false)]
    {
        let spec = validated(&["--kernel", "k", "--vcpus", "1", "--memory-mib", memory]);
        assert_eq!(spec.is_ok(), good, "{memory:?}");
    }
}

#[test]
fn what_must_be_there_is_named_when_missing() {
    for field in ["--kernel", "--vcpus", "--memory-mib"] {
        let index = LEAST.iter().position(|argument| *argument == field).unwrap();
        let mut arguments = LEAST.to_vec();
        arguments.drain(index..index + 2);
        let message = validated(&arguments).expect_err("an option is missing").to_string();
        assert!(message.starts_with(&format!("{field} is missing; allowed: ")), "{message}");
    }
}

#[test]
fn help_and_version_need_no_spec() {
    let read = |argument: &str| VmSpec::read([OsString::from(argument)]).unwrap();
    assert_eq!(read("--help"), Request::Help);
    assert_eq!(read("--version"), Request::Version);
}

#[test]
fn a_lazy_disk_has_its_descriptors_and_a_timeout() {
    let lazy = |text: &str| with(&["--disk", text]).unwrap().disks[0].lazy.clone();
    let expect =
        |timeout_ms| Some(LazyDiskSpec { presence: 4, requests: 5, reads: None, timeout_ms });
    let given = "path=fd:3,readonly,presence=fd:4,requests=fd:5,timeout-ms=600000";
    assert_eq!(lazy(given), expect(600_000));
    assert_eq!(lazy("requests=fd:5,presence=fd:4,readonly,path=/a"), expect(30_000));
    let recorded = lazy("path=/a,readonly,presence=fd:4,requests=fd:5,reads=fd:6").unwrap();
    assert_eq!(recorded.reads, Some(6));
    assert_eq!(lazy("path=/a,readonly"), None);
}

proptest! {
    #[test]
    fn no_argument_list_makes_the_reader_panic(
        arguments in proptest::collection::vec(argument(), 0..12)
    ) {
        if let Ok(Request::Run(spec)) = VmSpec::read(arguments) {
            let _ = spec.validate();
        }
    }
}

/// An argument that is likely to get past the first checks, or any bytes at all.
fn argument() -> impl Strategy<Value = OsString> {
    let likely = proptest::sample::select(vec![
        "--kernel",
        "--vcpus",
        "--memory-mib",
        "--disk",
        "--vsock",
        "--rng",
        "--cmdline",
        "128",
        "1",
        "path=/a,readonly",
        "cid=3,path=/s,port=1:fd:3",
        "fd:3",
        "--",
        "--disk=path=",
        "--disk=path=/a,readonly,presence=fd:4,requests=fd:5,timeout-ms=9",
    ])
    .prop_map(OsString::from);
    let any_bytes = proptest::collection::vec(any::<u8>(), 0..24).prop_map(OsString::from_vec);
    proptest::prop_oneof![3 => likely, 1 => any_bytes]
}

#[test]
fn an_encrypted_disk_may_have_a_template() {
    let encrypted = |text: &str| with(&["--disk", text]).unwrap().disks[0].encrypted.clone();
    assert_eq!(encrypted("path=/a"), None);
    assert_eq!(encrypted("path=/a,encrypted"), Some(EncryptedDiskSpec { template: None }));
    let template = Some(FileRef::Fd(4));
    let expect = Some(EncryptedDiskSpec { template });
    assert_eq!(encrypted("template=fd:4,encrypted,path=fd:3"), expect);
}
