//! What a command line means, and what is refused of it.

use super::*;

fn read(line: &str) -> Result<Request, SpecError> {
    JailSpec::read(line.split_whitespace().map(OsString::from))
}

fn refused(line: &str) -> String {
    match read(line) {
        Err(error) => error.to_string(),
        Ok(request) => panic!("{line}: {request:?}"),
    }
}

#[test]
fn a_whole_line_is_read() {
    let line = "--uid 70000 --gid 70001 --program fd:9 --name /a/vmm --cgroup fd:10 --netns fd:11 --keep 3-6 --kvm fd:7 \
                --userfaultfd fd:8 --socket fd:12 --parent 77 --limit nofile=99 --limit nproc=9 --limit fsize=512 \
                --without landlock -- --kernel fd:3 --help -- x";
    let Ok(Request::Make(spec)) = read(line) else { panic!("{:?}", read(line)) };
    let expected = JailSpec {
        uid: 70_000,
        gid: 70_001,
        program: Some(9),
        cgroup: Some(10),
        netns: Some(11),
        keep: Some(3..=6),
        kvm: Some(7),
        userfaultfd: Some(8),
        socket: Some(12),
        parent: Some(77),
        limits: Limits { nofile: 99, nproc: 9, fsize: 512 },
        landlock: false,
        name: CString::from(c"/a/vmm"),
        arguments: ["--kernel", "fd:3", "--help", "--", "x"]
            .map(|word| CString::new(word).unwrap())
            .to_vec(),
    };
    assert_eq!(*spec, expected);
    assert_eq!(spec.kept().collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let Ok(Request::Make(spec)) = read("--uid 5 --gid 6 --check --without cgroup") else {
        panic!("refused")
    };
    assert_eq!((spec.limits, spec.landlock, spec.kept().count()), (Limits::default(), true, 0));
    assert_eq!(read("--help"), Ok(Request::Help));
    assert_eq!(read("--uid 1 --version"), Ok(Request::Version));
}

#[test]
fn every_wrong_value_is_named_with_what_is_allowed() {
    for (line, expected) in [
        ("--uid 0", "--uid: 0 is not allowed; allowed: 1 to 4294967294"),
        ("--uid 4294967295", "--uid: 4294967295 is not allowed; allowed: 1 to 4294967294"),
        ("--gid +5", "--gid: +5 is not allowed; allowed: 1 to 4294967294"),
        ("--gid -1", "--gid: -1 is not allowed; allowed: 1 to 4294967294"),
        ("--program 9", "--program: 9 is not allowed; allowed: fd:N with N from 3 to 1048575"),
        (
            "--program fd:2",
            "--program: fd:2 is not allowed; allowed: fd:N with N from 3 to 1048575",
        ),
        (
            "--kvm fd:1048576",
            "--kvm: fd:1048576 is not allowed; allowed: fd:N with N from 3 to 1048575",
        ),
        (
            "--keep 5-4",
            "--keep: 5-4 is not allowed; allowed: FIRST-LAST, each from 3 to 1048575, 128 at most",
        ),
        (
            "--keep 2-4",
            "--keep: 2-4 is not allowed; allowed: FIRST-LAST, each from 3 to 1048575, 128 at most",
        ),
        (
            "--keep 3-131",
            "--keep: 3-131 is not allowed; allowed: FIRST-LAST, each from 3 to 1048575, 128 at most",
        ),
        ("--name=", "--name:  is not allowed; allowed: 1 to 4096 bytes"),
        ("--parent 0", "--parent: 0 is not allowed; allowed: a process id, 1 to 4194304"),
        ("--limit core=1", "--limit: core=1 is not allowed; allowed: nofile=N, nproc=N or fsize=N"),
        (
            "--limit nofile=",
            "--limit: nofile= is not allowed; allowed: nofile=N, nproc=N or fsize=N",
        ),
        ("--without uts", "--without: uts is not allowed; allowed: landlock, cgroup"),
        ("--uid 1 --uid 1", "--uid is given twice; once is allowed"),
        ("--root", "unknown argument --root; --help lists what is allowed"),
        ("-h", "unknown argument -h; --help lists what is allowed"),
        ("x", "unknown argument x; --help lists what is allowed"),
        ("--uid", "--uid: a value is missing, or not taken"),
        ("--gid 1", "--uid is missing; 1 to 4294967294"),
        ("--uid 1", "--gid is missing; 1 to 4294967294"),
        ("--uid 1 --gid 1", "--program is missing; one of --program and --check is needed"),
        (
            "--uid 1 --gid 1 --check",
            "--cgroup is missing; one of --cgroup and --without cgroup is needed",
        ),
    ] {
        assert_eq!(refused(line), expected, "{line}");
    }
    assert_eq!(refused("--check=1"), "--check: a value is missing, or not taken");
}

#[test]
fn no_descriptor_is_named_twice() {
    let line = |rest| format!("--uid 1 --gid 1 --program fd:3 --without cgroup {rest}");
    for rest in ["--socket fd:3", "--keep 3-5", "--keep 4-6 --kvm fd:5", "--kvm fd:4 --netns fd:4"]
    {
        let error = refused(&line(rest));
        assert!(error.ends_with(" is named twice; once is allowed"), "{rest}: {error}");
    }
}

#[test]
fn arguments_are_bounded_and_need_a_program() {
    let line = "--uid 1 --gid 1 --program fd:3 --without cgroup --";
    let few = format!("{line} {}", "x ".repeat(MAX_ARGUMENTS));
    assert!(read(&few).is_ok());
    assert!(refused(&format!("{few} y")).contains("256 arguments"));
    assert!(refused(&format!("{line} {}", "x".repeat(MAX_ARGUMENT_BYTES))).contains("16384 bytes"));
    let checked = refused("--uid 1 --gid 1 --check --without cgroup -- x");
    assert_eq!(checked, "arguments are given where no program is executed");
}
