//! The records of an extended tar header (POSIX.1-2001, pax): `length key=value\n`.

use crate::erofs::Timestamp;

/// What a pax header says about the entry after it, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) user: Option<u64>,
    pub(super) group: Option<u64>,
    pub(super) modified: Option<Timestamp>,
    /// Extended attributes by their full names, in the order of the records.
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    /// The entry is a sparse file in one of GNU's ways.
    pub(super) sparse: bool,
}

/// Reads all records. Those that nobody here needs are dropped; nothing if one is malformed.
pub(super) fn parse(mut records: &[u8]) -> Option<Pax> {
    let mut pax = Pax::default();
    while !records.is_empty() {
        let space = records.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = decimal(&records[..space])?.try_into().ok()?;
        let (record, rest) = records.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let key = str::from_utf8(&record[..equals]).ok()?;
        add(&mut pax, key, &record[equals + 1..])?;
        records = rest;
    }
    Some(pax)
}

fn add(pax: &mut Pax, key: &str, value: &[u8]) -> Option<()> {
    // An empty value takes back what came before.
    let number = || if value.is_empty() { Some(None) } else { decimal(value).map(Some) };
    let text = || if value.is_empty() { None } else { Some(value.to_vec()) };
    match key {
        "path" => pax.path = text(),
        "linkpath" => pax.target = text(),
        "size" => pax.size = number()?,
        "uid" => pax.user = number()?,
        "gid" => pax.group = number()?,
        "mtime" => pax.modified = if value.is_empty() { None } else { Some(timestamp(value)?) },
        _ if key.starts_with("GNU.sparse.") => pax.sparse = true,
        _ => {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                pax.xattrs.push((name.to_owned(), value.to_vec()));
            }
        }
    }
    Some(())
}

/// Digits and nothing else.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a sign and any number of digits after the point, of which nine count.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let digits = text.get(point + 1..).unwrap_or_default();
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| digits.get(i).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, i| sum * 10 + digit(i));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => {
            Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds }
        }
    })
}

#[cfg(test)]
mod tests;
