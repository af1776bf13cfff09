//! The JSON of the events: envelope, time, numbers, records.

use votive_protocol::limits::STRING_MAX;

use crate::http::Writer;
use crate::json;

/// Room for any platform event: a trace, an ARN's worth of texts with every character escaped, a name, and what is around.
pub const EVENT_MAX: usize = 16 * STRING_MAX;

/// Writes one event of the kind `kind` at `realtime_ns`, its record by `record`.
pub fn envelope(
    writer: &mut Writer<'_>,
    realtime_ns: u64,
    kind: &str,
    record: impl FnOnce(&mut Writer<'_>),
) {
    writer.push(b"{\"time\":\"");
    push_time(writer, realtime_ns);
    writer.push(b"\",\"type\":\"");
    writer.push(kind.as_bytes());
    writer.push(b"\",\"record\":");
    record(writer);
    writer.push(b"}");
}

/// Bytes of an envelope around a record of `record_len` bytes.
#[must_use]
pub fn envelope_len(kind: &str, record_len: usize) -> usize {
    "{\"time\":\"2022-10-12T00:00:00.000Z\",\"type\":\"\",\"record\":}".len()
        + kind.len()
        + record_len
}

/// A JSON text.
pub fn push_text(writer: &mut Writer<'_>, text: &[u8]) {
    writer.push(b"\"");
    json::escape(writer, text);
    writer.push(b"\"");
}

/// A member whose value is a text, with the comma before it.
pub fn push_member(writer: &mut Writer<'_>, before: &str, text: &str) {
    writer.push(before.as_bytes());
    push_text(writer, text.as_bytes());
}

/// Nanoseconds as milliseconds with three decimals at most, as Go writes such a number.
pub fn push_ms(writer: &mut Writer<'_>, nanoseconds: u64) {
    let microseconds = nanoseconds / 1_000;
    writer.push_decimal(microseconds / 1_000);
    let mut rest = microseconds % 1_000;
    if rest == 0 {
        return;
    }
    writer.push(b".");
    for unit in [100, 10, 1] {
        if rest > 0 {
            writer.push_decimal(rest / unit);
            rest %= unit;
        }
    }
}

/// `2006-01-02T15:04:05.000Z`
pub fn push_time(writer: &mut Writer<'_>, realtime_ns: u64) {
    let milliseconds = realtime_ns / 1_000_000;
    let (days, of_day) = (milliseconds / 86_400_000, milliseconds % 86_400_000);
    let (year, month, day) = date(days);
    let padded = |writer: &mut Writer<'_>, number: u64, unit: u64| {
        let mut unit = unit;
        while unit > 0 {
            writer.push_decimal(number / unit % 10);
            unit /= 10;
        }
    };
    for (number, unit, behind) in [
        (year, 1_000, "-"),
        (month, 10, "-"),
        (day, 10, "T"),
        (of_day / 3_600_000, 10, ":"),
        (of_day / 60_000 % 60, 10, ":"),
        (of_day / 1_000 % 60, 10, "."),
        (of_day % 1_000, 100, "Z"),
    ] {
        padded(writer, number, unit);
        writer.push(behind.as_bytes());
    }
}

/// The date of a day since 1970-01-01 in the Gregorian calendar, counted in eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}
