//! Facts about the filters: how short they are, and that a call without its entry kills.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use super::table::{
    self, Argument, Call, KINDS, Kinds, MAIN, MAIN_WITH_PATH, Rule, SETUP, TABLE, VCPU,
};
use super::{Filter, install, install_program, renounce_new_rights};

#[path = "../../build/filters.rs"]
mod filters;
#[path = "../../build/graph.rs"]
mod graph;

/// Set in a process that is to make a call under a filter: kind, what it leaves out, call, each argument.
const ORDER: &str = "VOTIVE_TEST_CALL";

fn calls(kind: Kinds) -> BTreeSet<&'static str> {
    let has = |call: &&Call| call.rules.iter().any(|rule| rule.kinds & kind != 0);
    TABLE.iter().filter(has).map(|call| call.name).collect()
}

#[test]
fn the_lists_are_short() {
    assert!(TABLE.len() <= 30, "{}", TABLE.len());
    assert_eq!(calls(Kinds::MAX).len(), TABLE.len());
    assert!(calls(VCPU).len() <= 10, "{:?}", calls(VCPU));
    assert!(TABLE.is_sorted_by_key(|call| call.number));
    // What none may ever have.
    for name in ["open", "openat", "execve", "clone3", "mprotect", "ptrace", "sendmsg", "fcntl"] {
        assert!(!calls(Kinds::MAX).contains(name), "{name}");
    }
    for name in ["socket", "connect", "accept4", "unlink"] {
        assert!(!calls(SETUP).contains(name) && !calls(MAIN).contains(name), "{name}");
    }
}

#[test]
fn the_second_stage_takes_the_same_with_a_path_and_without() {
    let without = filters::narrowing(TABLE, SETUP, MAIN);
    let with = filters::narrowing(TABLE, table::SETUP_WITH_PATH, MAIN_WITH_PATH);
    let words = |program: &seccompiler::BpfProgram| -> Vec<_> {
        program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()
    };
    assert_eq!(words(&without), words(&with));
}

/// What the kernel passes to a filter, as words: number, architecture, instruction pointer, arguments.
type Data = [u32; 16];

/// What `program` decides of a call, and in how many steps.
fn decided(program: &[seccompiler::sock_filter], data: &Data) -> (u32, usize) {
    let (mut at, mut word) = (0, 0);
    for steps in 1.. {
        let step = &program[at];
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        at += 1 + match step.code {
            0x06 => return (step.k, steps),
            0x20 => {
                word = data[step.k as usize / 4];
                0
            }
            0x05 => step.k as usize,
            0x15 => jump(word == step.k),
            0x35 => jump(word >= step.k),
            code => panic!("{code:#x}"),
        };
    }
    unreachable!("it jumps forward only")
}

/// A call of x86-64 with these arguments.
fn data(number: u32, arguments: [u64; 6]) -> Data {
    let mut data = [number, 0xc000_003e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (words, argument) in data[4..].chunks_mut(2).zip(arguments) {
        words.copy_from_slice(&[argument as u32, (argument >> 32) as u32]);
    }
    data
}

#[test]
fn a_shortened_filter_decides_the_same_in_fewer_steps() {
    let known: Vec<u32> = TABLE
        .iter()
        .flat_map(|call| call.rules)
        .flat_map(|rule| rule.arguments.iter().map(|it| it.value))
        .flat_map(|value| [value, value.wrapping_sub(1), value.wrapping_add(1)])
        .chain([0, 1, u32::MAX])
        .collect();
    let filters = KINDS.map(|(kind, _)| filters::allowing(TABLE, kind, |_, _| false));
    for long in filters.into_iter().chain([filters::narrowing(TABLE, SETUP, MAIN)]) {
        let short = graph::shortened(&long);
        assert!(short.len() * 2 < long.len(), "{} of {}", short.len(), long.len());
        let same = |data: &Data| {
            let ((short, steps), (long, _)) = (decided(&short, data), decided(&long, data));
            assert_eq!(short, long, "{data:x?}");
            steps
        };
        let all: usize = (0..450).map(|number| same(&data(number, [0; 6]))).sum();
        assert!(all <= 450 * 10, "{all} steps");
        // Numbers of x32 and of nobody, too.
        for number in (0..1_000).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
            same(&data(number, [0; 6]));
            let mut other = data(number, [0; 6]);
            other[1] = 0x4000_0003;
            same(&other);
        }
        for call in TABLE {
            let number = u32::try_from(call.number).unwrap();
            for argument in 0..6 {
                for value in &known {
                    for background in [0, u64::MAX] {
                        let mut arguments = [background; 6];
                        arguments[argument] = u64::from(*value);
                        same(&data(number, arguments));
                    }
                }
            }
            // Where two arguments are compared, one alone decides nothing.
            for rule in call.rules {
                let whole = arguments(rule);
                same(&data(number, whole));
                for (at, value) in (0..6).flat_map(|at| known.iter().map(move |value| (at, value)))
                {
                    let mut one_other = whole;
                    one_other[at] = u64::from(*value);
                    same(&data(number, one_other));
                }
            }
        }
    }
}

/// What a call of this rule's is made with: its arguments as they must be, and nothing that does anything elsewhere.
fn arguments(rule: &Rule) -> [u64; 6] {
    let mut all = [u64::MAX, 0, 0, 0, 0, 0];
    for Argument { index, value, .. } in rule.arguments {
        all[usize::from(*index)] = u64::from(*value);
    }
    all
}

/// Makes a call in a process of its own under the filter of `kind` less rule `without` of the call.
fn ended(kind: Kinds, call: &Call, without: Option<usize>, arguments: [u64; 6]) -> ExitStatus {
    let without = without.map_or(-1, |at| i64::try_from(at).unwrap());
    let mut order = format!("{kind} {} {without}", call.number);
    for argument in arguments {
        write!(order, " {argument}").unwrap();
    }
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "seccomp::tests::makes_a_call_that_it_was_told", "--nocapture"])
        .env(ORDER, order)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap()
}

#[test]
fn makes_a_call_that_it_was_told() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let numbers: Vec<i128> = order.split(' ').map(|word| word.parse().unwrap()).collect();
    let (kind, number, without) = (numbers[0] as Kinds, numbers[1] as i64, numbers[2]);
    let all: Vec<u64> = numbers[3..].iter().map(|argument| *argument as u64).collect();
    let program = filters::allowing(TABLE, kind, |call, rule| {
        let place = call.rules.iter().position(|other| std::ptr::eq(other, rule));
        call.number == number && place.map(|at| at as i128) == Some(without)
    });
    let program: Vec<libc::sock_filter> = graph::shortened(&program)
        .iter()
        .map(|it| libc::sock_filter { code: it.code, jt: it.jt, jf: it.jf, k: it.k })
        .collect();
    renounce_new_rights().unwrap();
    install_program(&program).unwrap();
    // SAFETY: the call has a descriptor, an address or a process that is none, so that it does nothing.
    unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) };
}

/// Calls that do more than fail when they are made with nothing of sense, whose entry the tests of whole machines use.
const NOT_ALONE: [&str; 2] = ["rt_sigreturn", "exit_group"];

#[test]
fn each_entry_allows_its_call_and_without_it_the_call_kills() {
    for call in TABLE.iter().filter(|call| !NOT_ALONE.contains(&call.name)) {
        for (at, rule) in call.rules.iter().enumerate() {
            let (kind, _) = KINDS.iter().find(|(kind, _)| rule.kinds & kind != 0).unwrap();
            let alone = |other: &Rule| {
                std::ptr::eq(other, rule) || other.kinds & kind == 0 || !other.arguments.is_empty()
            };
            assert!(call.rules.iter().all(alone), "{}: a rule makes another one idle", call.name);
            let what = format!("{} of {kind:#x}: {}", call.name, rule.why);
            let allowed = ended(*kind, call, None, arguments(rule));
            assert_eq!(allowed.code(), Some(0), "{what}: {allowed:?}");
            let killed = ended(*kind, call, Some(at), arguments(rule));
            assert_eq!(killed.signal(), Some(libc::SIGSYS), "{what}: {killed:?}");
            // Each argument that is checked is: with another value the rule is none.
            for Argument { index, .. } in rule.arguments {
                let mut wrong = arguments(rule);
                wrong[usize::from(*index)] = 0x7654_3210;
                let killed = ended(*kind, call, None, wrong);
                assert_eq!(killed.signal(), Some(libc::SIGSYS), "{what}, argument {index}");
            }
        }
    }
}

#[test]
fn a_call_that_is_in_no_list_kills() {
    let call = |name, number| Call { name, number, rules: &[] };
    for call in [
        call("getpid", libc::SYS_getpid),
        call("openat", libc::SYS_openat),
        call("execve", libc::SYS_execve),
        call("mprotect", libc::SYS_mprotect),
        call("kill", libc::SYS_kill),
    ] {
        for (kind, _) in KINDS {
            let killed = ended(kind, &call, None, [u64::MAX; 6]);
            assert_eq!(killed.signal(), Some(libc::SIGSYS), "{} of {kind:#x}", call.name);
        }
    }
}

/// Set in a process that is to end in this way under a filter.
const END: &str = "VOTIVE_TEST_END";

#[test]
fn ends_as_it_was_told() {
    let Ok(how) = std::env::var(END) else { return };
    crate::deadline::prepare_end().unwrap();
    crate::exit::name_panics();
    crate::signals::explain_lost_pages().unwrap();
    crate::signals::leave_faults_to_the_kernel().unwrap();
    renounce_new_rights().unwrap();
    install(Filter::Setup).unwrap();
    install(Filter::Main).unwrap();
    match how.as_str() {
        "panic" => panic!("of no use"),
        "force" => {
            crate::deadline::end_soon(6).unwrap();
            loop {
                std::thread::park();
            }
        }
        // SAFETY: takes a number; the handler writes and ends the process.
        _ => unsafe { libc::syscall(libc::SYS_getppid) },
    };
}

#[test]
fn a_panic_and_an_end_by_force_keep_their_codes_under_the_last_filter() {
    let run = |how: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "seccomp::tests::ends_as_it_was_told", "--nocapture"])
            .env(END, how)
            .output()
            .unwrap()
    };
    let panicked = run("panic");
    assert_eq!(panicked.status.code(), Some(134), "{panicked:?}");
    let text = String::from_utf8(panicked.stderr).unwrap();
    assert!(text.contains("votive-vmm: of no use at ") && text.contains("tests.rs"), "{text}");
    assert_eq!(run("force").status.code(), Some(6));
    assert_eq!(run("getppid").status.signal(), Some(libc::SIGSYS));
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/seccomp.md");

/// The document's generated part.
fn tables() -> String {
    let mut text = String::from("| thread | system calls |\n| --- | --- |\n");
    for (kind, name) in KINDS {
        let calls = calls(kind);
        let names: Vec<String> = calls.iter().map(|call| format!("`{call}`")).collect();
        writeln!(text, "| {name} | {}: {} |", calls.len(), names.join(", ")).unwrap();
    }
    writeln!(text, "| all of them | {} |\n", TABLE.len()).unwrap();
    text.push_str("| system call | threads | only with | for |\n| --- | --- | --- | --- |\n");
    for call in TABLE {
        for rule in call.rules {
            let kinds = KINDS.iter().filter(|(kind, _)| rule.kinds & kind != 0);
            let kinds: Vec<&str> = kinds.map(|(_, name)| *name).collect();
            let shown: Vec<&str> = rule.arguments.iter().map(|it| it.shown).collect();
            let (kinds, shown) = (kinds.join(", "), shown.join("; "));
            writeln!(text, "| `{}` | {kinds} | {shown} | {} |", call.name, rule.why).unwrap();
        }
    }
    text
}

#[test]
fn the_document_has_the_table() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (head, old) = document.split_once("\n| thread |").unwrap();
    if std::env::var_os("VOTIVE_WRITE_DOCS").is_some() {
        std::fs::write(DOCUMENT, format!("{head}\n{}", tables())).unwrap();
    } else {
        let tables = tables();
        assert!(
            format!("| thread |{old}") == tables,
            "docs/seccomp.md is not the table's: run this test with VOTIVE_WRITE_DOCS=1"
        );
    }
}
