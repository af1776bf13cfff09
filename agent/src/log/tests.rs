//! Lines out of pieces.

use proptest::prelude::*;

use super::*;

#[test]
fn lines_are_put_together_from_pieces_and_kept_apart_by_stream() {
    let mut cutter = LineCutter::default();
    assert_eq!(cutter.push(LogStream::Stdout, b"one\ntw"), [b"one".to_vec()]);
    assert!(cutter.push(LogStream::Stderr, b"error").is_empty());
    assert_eq!(cutter.push(LogStream::Stdout, b"o\n\n"), [b"two".to_vec(), b"".to_vec()]);
    assert_eq!(cutter.flush(), [(LogStream::Stderr, b"error".to_vec())]);
    assert!(cutter.flush().is_empty());
}

#[test]
fn a_line_without_an_end_is_cut_at_its_limit() {
    let mut cutter = LineCutter::default();
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.append(&mut cutter.push(LogStream::Stdout, &vec![b'x'; LOG_LINE_MAX / 2]));
    }
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.len() == LOG_LINE_MAX));
    assert_eq!(cutter.flush()[0].1.len(), LOG_LINE_MAX / 2);
}

#[test]
fn control_characters_become_visible() {
    let line = b"a\x1b]0;title\x07b\tc\r\xc2\x9b31m\xff";
    assert_eq!(without_controls(line), "a^[]0;title^Gb\tc^M\u{fffd}31m\u{fffd}".as_bytes());
}

proptest! {
    #[test]
    fn no_byte_is_lost_or_made_up(text in "[a-c\n]{0,80}", cut in 1..9_usize) {
        let mut cutter = LineCutter::default();
        let mut lines = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            lines.append(&mut cutter.push(LogStream::Stdout, piece));
        }
        lines.extend(cutter.flush().into_iter().map(|(_, line)| line));
        let expected: Vec<_> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
        prop_assert_eq!(lines, expected);
    }
}
