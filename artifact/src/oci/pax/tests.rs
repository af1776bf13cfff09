//! Records as tar writes them, and as nobody should.

use super::*;

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 3 + key.len() + value.len();
    let length = (1..5).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n);
    let mut record = format!("{} {key}=", length.unwrap()).into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

#[test]
fn values_may_hold_anything() {
    let value = b"\x01\n9 path=x\n\0=";
    let mut records = record("SCHILY.xattr.security.capability", value);
    records.extend(record("path", "päth".as_bytes()));
    records.extend(record("comment", b"left out"));
    let pax = parse(&records).unwrap();
    assert_eq!(pax.xattrs, [("security.capability".to_owned(), value.to_vec())]);
    assert_eq!(pax.path.as_deref(), Some("päth".as_bytes()));
}

#[test]
fn a_later_record_replaces_and_an_empty_one_takes_back() {
    let records = [record("size", b"1"), record("size", b"22"), record("uid", b"7")].concat();
    let pax = parse(&records).unwrap();
    assert_eq!((pax.size, pax.user), (Some(22), Some(7)));
    let pax = parse(&[records, record("size", b"")].concat()).unwrap();
    assert_eq!((pax.size, pax.user), (None, Some(7)));
}

#[test]
fn malformed_records_are_refused() {
    for records in [
        &b"x"[..],
        b"6 a=b",
        b"7 a=b\n",
        b"5 a=b\n",
        b"0 a=b\n",
        b"6 a:b\n",
        b"-6 a=b\n",
        b"99999999999999999999999 a=b\n",
        b"18446744073709551615 a=b\n",
        b"3 \n",
        b"1 ",
        b"10 size=-\n",
        b"11 mtime=x\n",
    ] {
        assert_eq!(parse(records), None, "{}", records.escape_ascii());
    }
    assert_eq!(parse(b"6 a=b\n"), Some(Pax::default()));
}

#[test]
fn times_before_1970_count_their_parts_forwards() {
    for (text, seconds, nanoseconds) in [
        ("0", 0, 0),
        ("1350244992.023960108", 1_350_244_992, 23_960_108),
        ("1350244992.3", 1_350_244_992, 300_000_000),
        ("-1.5", -2, 500_000_000),
        ("-3", -3, 0),
        ("1.1234567899", 1, 123_456_789),
        ("1.", 1, 0),
    ] {
        let found = timestamp(text.as_bytes());
        assert_eq!(found, Some(Timestamp { seconds, nanoseconds }), "{text}");
    }
    for text in ["", ".5", "1.x", "--1", "1e3", "99999999999999999999"] {
        assert_eq!(timestamp(text.as_bytes()), None, "{text}");
    }
}
