//! Pauses: the guest stands still, all of it, and goes on as if nothing had been.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::guest::{Control, Guest, IDLE, LOAD, PATIENCE, Running, mark, start_second_vcpu, stop};

/// A page of the kernel's segment behind its code.
const COUNTER: u64 = LOAD + 0x1000;
/// What the second vCPU counts in.
const SECOND_COUNTER: u64 = 0x8800;
/// `inc word [0x8800]; jmp -6`, 16-bit.
const COUNT_SECOND: [u8; 8] = [0xff, 0x06, 0x00, 0x88, 0xeb, 0xfa, 0x90, 0x90];

/// Counts for ever in a register and in memory, and stops with code 9 should the two ever differ.
fn count() -> Vec<u8> {
    let counter = u32::try_from(COUNTER).unwrap().to_le_bytes();
    [
        // xor eax, eax; mov [counter], rax
        &[0x31, 0xc0, 0x48, 0x89, 0x04, 0x25][..],
        &counter,
        // inc rax; inc qword [counter]
        &[0x48, 0xff, 0xc0, 0x48, 0xff, 0x04, 0x25],
        &counter,
        // cmp rax, [counter]; je back to inc rax
        &[0x48, 0x3b, 0x04, 0x25],
        &counter,
        &[0x74, 0xeb],
        &stop(9),
    ]
    .concat()
}

/// Shows that nothing of the guest runs: its words of memory stay, its threads sleep and use no processor.
fn assert_stands_still(running: &Running, words: &[u64]) {
    let memory = running.memory();
    let look = || {
        let values: Vec<u64> = words.iter().map(|gpa| memory.word(*gpa)).collect();
        (values, running.vcpu_threads())
    };
    // The answer comes from the last thread that is on its way to sleep.
    let since = Instant::now();
    while !running.vcpu_threads().iter().all(|(state, _)| state == "S") {
        assert!(since.elapsed() < PATIENCE, "{:?}", running.vcpu_threads());
    }
    let before = look();
    // The guest counts to thousands in this time.
    let until = Instant::now() + Duration::from_millis(50);
    while Instant::now() < until {
        assert_eq!(look(), before);
    }
}

#[test]
fn a_paused_guest_makes_no_progress_and_goes_on_where_it_was() {
    let guest = Guest::new(&[&mark(1), &count()]).mapped();
    let (running, control) = guest.start_controlled();
    let mut last = 0;
    for _ in 0..5 {
        running.memory().wait_for_change(COUNTER, last);
        control.pause();
        assert_stands_still(&running, &[COUNTER]);
        last = running.memory().word(COUNTER);
        control.resume();
    }
    running.memory().wait_for_change(COUNTER, last);
    running.signal("TERM");
    running.wait().is(143, "signal 15");
}

#[test]
fn every_vcpu_of_a_guest_is_paused() {
    // The first two count, the other six were never started by the guest.
    let start = start_second_vcpu(COUNT_SECOND);
    let guest = Guest::shaped(&[&start, &mark(1), &count()], 8).mapped();
    let (running, control) = guest.start_controlled();
    let counters = [COUNTER, SECOND_COUNTER];
    for _ in 0..5 {
        for counter in counters {
            running.memory().wait_for_progress(counter);
        }
        control.pause();
        assert_eq!(running.vcpu_threads().len(), 8);
        assert_stands_still(&running, &counters);
        control.resume();
    }
    for counter in counters {
        running.memory().wait_for_progress(counter);
    }
    control.pause();
    running.signal("TERM");
    running.wait().is(143, "signal 15");
}

#[test]
fn a_halted_guest_pauses_and_resumes() {
    let guest = Guest::new(&[&mark(1), &IDLE]).mapped();
    let (running, control) = guest.start_controlled();
    control.pause();
    assert_stands_still(&running, &[]);
    control.resume();
    drop(control);
    running.wait().is(7, "control channel closed");
}

#[test]
fn ten_thousand_pauses_lose_nothing() {
    let guest = Guest::new(&[&mark(1), &count()]).mapped();
    let (running, control) = guest.start_controlled();
    let memory = running.memory();
    // Some hit vCPUs that have not left the pause before, some a guest that runs.
    for round in 0..10_000 {
        control.pause();
        control.resume();
        if round % 20 == 0 {
            memory.wait_for_progress(COUNTER);
        }
    }
    // Not a single count was lost or made twice, or the guest would have stopped with code 9.
    memory.wait_for_progress(COUNTER);
    drop(control);
    running.wait().is(7, "control channel closed");
}

#[test]
fn commands_sent_without_waiting_for_answers_are_all_answered_in_order() {
    let guest = Guest::new(&[&mark(1), &count()]).mapped();
    let (running, control) = guest.start_controlled();
    let writer = control.0.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..5_000 {
            std::io::Write::write_all(&mut &writer, b"prx").unwrap();
        }
    });
    let mut answers = vec![0; 15_000];
    (&control.0).read_exact(&mut answers).unwrap();
    sender.join().unwrap();
    assert!(answers.chunks(3).all(|answers| answers == b"pr?"));
    running.memory().wait_for_progress(COUNTER);
    drop(control);
    running.wait().is(7, "control channel closed");
}

#[test]
fn pauses_hit_port_reads_and_lose_none() {
    // xor eax, eax; in al, 0x80; cmp al, 0xff; je: a read that came to nothing stops with code 9. inc qword [counter] shows
    // that it goes on.
    let counter = u32::try_from(COUNTER).unwrap().to_le_bytes();
    let read = [
        &[0x48, 0xff, 0x04, 0x25][..],
        &counter,
        &[0x31, 0xc0, 0xe4, 0x80, 0x3c, 0xff, 0x74, 0xf0],
        &stop(9),
    ]
    .concat();
    let guest = Guest::new(&[&mark(1), &read]).mapped();
    let (running, control) = guest.start_controlled();
    let memory = running.memory();
    for round in 0..2_000 {
        control.pause();
        control.resume();
        if round % 10 == 0 {
            memory.wait_for_progress(COUNTER);
        }
    }
    drop(control);
    running.wait().is(7, "control channel closed");
}

#[test]
fn a_storm_of_pauses_hits_a_guest_with_two_vcpus() {
    let start = start_second_vcpu(COUNT_SECOND);
    let guest = Guest::shaped(&[&start, &mark(1), &count()], 3).mapped();
    let (running, control) = guest.start_controlled();
    let memory = running.memory();
    for round in 0..1_000 {
        control.pause();
        control.resume();
        if round % 10 == 0 {
            memory.wait_for_progress(COUNTER);
            memory.wait_for_progress(SECOND_COUNTER);
        }
    }
    drop(control);
    running.wait().is(7, "control channel closed");
}

#[test]
fn a_pause_while_the_machine_is_made_comes_true_and_the_guest_starts_after_it() {
    for _ in 0..20 {
        let guest = Guest::new(&[&mark(1), &count()]).mapped();
        let (running, control) = guest.spawn_controlled();
        control.pause();
        assert_stands_still(&running, &[COUNTER]);
        control.resume();
        let running = running.until_marked();
        running.memory().wait_for_progress(COUNTER);
        drop(control);
        running.wait().is(7, "control channel closed");
    }
}

#[test]
fn pauses_from_the_first_moment_on_do_not_keep_a_guest_from_its_end() {
    // 100,000 turns, then the end.
    let work = [0xb9, 0xa0, 0x86, 0x01, 0x00, 0xff, 0xc9, 0x75, 0xfc];
    let guest = Guest::new(&[&work, &stop(0)]);
    let (mut running, control) = guest.spawn_controlled();
    let since = Instant::now();
    while !running.has_ended() {
        assert!(since.elapsed() < PATIENCE);
        ask_until_gone(&control);
    }
    running.wait().is(0, "guest powered off");
}

/// Pauses and resumes for as long as somebody answers.
fn ask_until_gone(control: &Control) {
    let mut answer = [0];
    for command in [b"p", b"r"] {
        if std::io::Write::write_all(&mut &control.0, command).is_err()
            || (&control.0).read_exact(&mut answer).is_err()
        {
            return;
        }
        assert_eq!(&answer, command);
    }
}

#[test]
fn repeated_and_unknown_commands_are_harmless() {
    let guest = Guest::new(&[&mark(1), &count()]).mapped();
    let (running, control) = guest.start_controlled();
    for (command, answer) in [(b'r', b'r'), (b'p', b'p'), (b'p', b'p'), (b'x', b'?'), (0, b'?')] {
        assert_eq!(control.ask(command), answer);
    }
    assert_stands_still(&running, &[COUNTER]);
    control.resume();
    control.resume();
    running.memory().wait_for_progress(COUNTER);
    drop(control);
    running.wait().is(7, "control channel closed");
}

#[test]
fn a_peer_that_goes_ends_a_running_a_paused_and_a_halted_guest() {
    for code in [&count()[..], &IDLE] {
        for paused in [false, true] {
            let guest = Guest::new(&[&mark(1), code]);
            let (running, control) = guest.start_controlled();
            if paused {
                control.pause();
            }
            drop(control);
            running.wait().is(7, "control channel closed");
        }
    }
}

#[test]
fn a_paused_guest_still_hears_signals() {
    let guest = Guest::new(&[&mark(1), &count()]).mapped();
    let (running, control) = guest.start_controlled();
    control.pause();
    running.signal("INT");
    running.wait().is(130, "signal 2");
    drop(control);
}

#[test]
fn a_control_channel_that_is_no_socket_ends_with_1() {
    let guest = Guest::new(&[&stop(0)]);
    let script = "exec \"$0\" \"$@\" --control fd:3 3</dev/null";
    let output = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_votive-vmm")])
        .args(guest.arguments())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot open control fd:3"));
}
