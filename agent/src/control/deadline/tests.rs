//! Values of the header.

use super::*;

#[test]
fn a_deadline_is_digits_and_a_unit() {
    for (value, duration) in [
        ("1S", Duration::from_secs(1)),
        ("0n", Duration::ZERO),
        ("15000m", Duration::from_secs(15)),
        ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ("2M", Duration::from_secs(120)),
        ("00000007u", Duration::from_micros(7)),
        ("5n", Duration::from_nanos(5)),
    ] {
        assert_eq!(parse(value.as_bytes()), Some(duration), "{value}");
    }
}

#[test]
fn nothing_else_is_a_deadline() {
    for value in
        ["", "S", "1", "1s", "-1S", "+1S", "1.5S", " 1S", "1S ", "100000000S", "1SS", "\u{661}S"]
    {
        assert_eq!(parse(value.as_bytes()), None, "{value:?}");
    }
}
