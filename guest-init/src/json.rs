//! JSON (RFC 8259) without a heap: a reader that gives one token after the other, and the escapes of a writer.
//!
//! A general reader and none that fills in a type: what extensions send is checked value by value as AWS's emulator checks it
//! (names in any case, texts with escapes, values of any shape where nobody looks), which no reader without a heap offers.
//! Depth is limited and nothing recurses. The bytes come from the function's own processes.

#[cfg(test)]
mod tests;

use crate::http::Writer;

/// How deep values may be nested.
pub const DEPTH_MAX: u32 = 64;

/// Why bytes are no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// They end too early.
    End,
    /// Something stands where it must not, or is nested too deep.
    Malformed,
}

/// A text as it stands between its quotes: escapes are well-formed, the bytes UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a str,
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `{`
    ObjectStart,
    /// `}`
    ObjectEnd,
    /// `[`
    ArrayStart,
    /// `]`
    ArrayEnd,
    /// The name of an object's member; its value is next.
    Key(Text<'a>),
    /// A text.
    String(Text<'a>),
    /// A number, as it stands.
    Number(&'a str),
    /// `true` or `false`
    Bool(bool),
    /// `null`
    Null,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrArrayEnd,
    KeyOrObjectEnd,
    CommaOrEnd,
    Nothing,
}

/// Gives the tokens of one value.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// One bit a level, the lowest for the innermost: set for an object.
    objects: u64,
    depth: u32,
    expect: Expect,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, objects: 0, depth: 0, expect: Expect::Value }
    }

    /// The next token; nothing once the value is whole and nothing but white space follows.
    ///
    /// # Errors
    /// [`JsonError`]; there is no use in asking again.
    pub fn next_token(&mut self) -> Result<Option<Token<'a>>, JsonError> {
        let mut byte = self.peek();
        if self.expect == Expect::CommaOrEnd {
            match byte {
                Some(b',') => {
                    self.at += 1;
                    byte = self.peek();
                    self.expect = Expect::Value;
                    if self.in_object() {
                        return self.key(byte).map(Some);
                    }
                }
                Some(b'}') if self.in_object() => return Ok(Some(self.leave(Token::ObjectEnd))),
                Some(b']') if !self.in_object() => return Ok(Some(self.leave(Token::ArrayEnd))),
                None => return Err(JsonError::End),
                Some(_) => return Err(JsonError::Malformed),
            }
        }
        match (self.expect, byte) {
            (Expect::Nothing, None) => Ok(None),
            (Expect::Nothing, Some(_)) => Err(JsonError::Malformed),
            (_, None) => Err(JsonError::End),
            (Expect::KeyOrObjectEnd, Some(b'}')) => Ok(Some(self.leave(Token::ObjectEnd))),
            (Expect::KeyOrObjectEnd, _) => self.key(byte).map(Some),
            (Expect::ValueOrArrayEnd, Some(b']')) => Ok(Some(self.leave(Token::ArrayEnd))),
            (_, Some(byte)) => self.value(byte).map(Some),
        }
    }

    /// Uses up the rest of the value that `token` began.
    ///
    /// # Errors
    /// [`JsonError`], as [`Reader::next_token`].
    pub fn skip(&mut self, token: Token<'a>) -> Result<(), JsonError> {
        if !matches!(token, Token::ObjectStart | Token::ArrayStart) {
            return Ok(());
        }
        let outside = self.depth.saturating_sub(1);
        while self.depth > outside {
            self.next_token()?.ok_or(JsonError::End)?;
        }
        Ok(())
    }

    /// The value behind a key, or an array's next item.
    ///
    /// # Errors
    /// [`JsonError`], as [`Reader::next_token`].
    pub fn require(&mut self) -> Result<Token<'a>, JsonError> {
        self.next_token()?.ok_or(JsonError::End)
    }

    fn peek(&mut self) -> Option<u8> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let blank = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
        self.at += blank.count();
        self.bytes.get(self.at).copied()
    }

    fn in_object(&self) -> bool {
        self.depth > 0 && self.objects & 1 == 1
    }

    fn enter(&mut self, object: bool) -> Result<(), JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(JsonError::Malformed);
        }
        self.depth += 1;
        self.objects = (self.objects << 1) | u64::from(object);
        self.at += 1;
        self.expect = if object { Expect::KeyOrObjectEnd } else { Expect::ValueOrArrayEnd };
        Ok(())
    }

    fn leave(&mut self, token: Token<'a>) -> Token<'a> {
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
        self.after_value();
        token
    }

    fn after_value(&mut self) {
        self.expect = if self.depth == 0 { Expect::Nothing } else { Expect::CommaOrEnd };
    }

    fn key(&mut self, byte: Option<u8>) -> Result<Token<'a>, JsonError> {
        match byte {
            Some(b'"') => {}
            Some(_) => return Err(JsonError::Malformed),
            None => return Err(JsonError::End),
        }
        let text = self.text()?;
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return Err(JsonError::Malformed),
            None => return Err(JsonError::End),
        }
        self.expect = Expect::Value;
        Ok(Token::Key(text))
    }

    fn value(&mut self, byte: u8) -> Result<Token<'a>, JsonError> {
        let token = match byte {
            b'{' => {
                self.enter(true)?;
                return Ok(Token::ObjectStart);
            }
            b'[' => {
                self.enter(false)?;
                return Ok(Token::ArrayStart);
            }
            b'"' => Token::String(self.text()?),
            b't' => self.word("true", Token::Bool(true))?,
            b'f' => self.word("false", Token::Bool(false))?,
            b'n' => self.word("null", Token::Null)?,
            b'-' | b'0'..=b'9' => self.number()?,
            _ => return Err(JsonError::Malformed),
        };
        self.after_value();
        Ok(token)
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>, JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(token);
        }
        if word.as_bytes().starts_with(rest) {
            Err(JsonError::End)
        } else {
            Err(JsonError::Malformed)
        }
    }

    /// `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`
    fn number(&mut self) -> Result<Token<'a>, JsonError> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let digits = self.bytes.get(start..self.at).unwrap_or(&[]);
        Ok(Token::Number(core::str::from_utf8(digits).unwrap_or("")))
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        match (count, rest.first()) {
            (0, None) => Err(JsonError::End),
            (0, Some(_)) => Err(JsonError::Malformed),
            _ => Ok(()),
        }
    }

    /// A text, from its first quote to its last.
    fn text(&mut self) -> Result<Text<'a>, JsonError> {
        let start = self.at + 1;
        let mut at = start;
        loop {
            match self.bytes.get(at) {
                None => return Err(JsonError::End),
                Some(b'"') => break,
                Some(b'\\') => at += self.escape(at)?,
                Some(0..=0x1f) => return Err(JsonError::Malformed),
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        let raw = self.bytes.get(start..at).unwrap_or(&[]);
        match core::str::from_utf8(raw) {
            Ok(raw) => Ok(Text { raw }),
            Err(_) => Err(JsonError::Malformed),
        }
    }

    /// The length of the escape at `at`.
    fn escape(&self, at: usize) -> Result<usize, JsonError> {
        match self.bytes.get(at + 1) {
            None => Err(JsonError::End),
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
            Some(b'u') => {
                let digits = self.bytes.get(at + 2..).unwrap_or(&[]);
                let digits = digits.get(..4).unwrap_or(digits);
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(JsonError::Malformed);
                }
                if digits.len() == 4 { Ok(6) } else { Err(JsonError::End) }
            }
            Some(_) => Err(JsonError::Malformed),
        }
    }
}

impl<'a> Text<'a> {
    /// The characters that the text stands for. Half a pair of surrogates is U+FFFD.
    pub fn chars(self) -> impl Iterator<Item = char> + Clone + 'a {
        let mut rest = self.raw;
        core::iter::from_fn(move || {
            let (char, behind) = next_char(rest)?;
            rest = behind;
            Some(char)
        })
    }

    /// Whether it stands for exactly `other`.
    #[must_use]
    pub fn is(self, other: &str) -> bool {
        self.chars().eq(other.chars())
    }

    /// Whether it stands for `other` in any case of its ASCII letters, as Go's JSON package looks for names.
    #[must_use]
    pub fn is_named(self, other: &str) -> bool {
        let lower = |char: char| char.to_ascii_lowercase();
        self.chars().map(lower).eq(other.chars().map(lower))
    }

    /// What it stands for, put into `buffer`; nothing if it does not fit.
    pub fn put(self, buffer: &mut [u8]) -> Option<&str> {
        let mut len = 0;
        for char in self.chars() {
            let place = buffer.get_mut(len..len + char.len_utf8())?;
            len += char.encode_utf8(place).len();
        }
        core::str::from_utf8(buffer.get(..len)?).ok()
    }
}

/// The first character of a raw text, and what stands behind it.
fn next_char(raw: &str) -> Option<(char, &str)> {
    let mut chars = raw.chars();
    let first = chars.next()?;
    if first != '\\' {
        return Some((first, chars.as_str()));
    }
    let char = match chars.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let rest = chars.as_str();
            let (unit, behind) = unit(rest)?;
            if let (0xd800..=0xdbff, Some(low)) = (unit, behind.strip_prefix("\\u"))
                && let Some((low @ 0xdc00..=0xdfff, behind)) = self::unit(low)
            {
                let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return Some((char::from_u32(code).unwrap_or('\u{fffd}'), behind));
            }
            return Some((char::from_u32(unit).unwrap_or('\u{fffd}'), behind));
        }
        other => other,
    };
    Some((char, chars.as_str()))
}

/// Four hexadecimal digits.
fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, behind) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, behind))
}

/// A whole number within `range`; nothing if the token is anything else.
#[must_use]
pub fn integer(token: Token<'_>, range: core::ops::RangeInclusive<u64>) -> Option<u64> {
    let Token::Number(digits) = token else { return None };
    digits.parse().ok().filter(|number| range.contains(number))
}

/// Writes `bytes` as the inside of a text, with the escapes that Go's JSON package uses; what is no UTF-8 becomes U+FFFD.
pub fn escape(writer: &mut Writer<'_>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), |piece| writer.push(piece));
        if !chunk.invalid().is_empty() {
            writer.push("\u{fffd}".as_bytes());
        }
    }
}

/// Bytes that [`escape`] writes for `bytes`.
#[must_use]
pub fn escaped_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), |piece| len += piece.len());
        if !chunk.invalid().is_empty() {
            len += '\u{fffd}'.len_utf8();
        }
    }
    len
}

/// Gives `text` in pieces, with escapes.
fn escape_text(text: &str, mut give: impl FnMut(&[u8])) {
    let mut rest = text;
    while let Some(at) = rest.find(needs_escape) {
        let (plain, behind) = rest.split_at(at);
        give(plain.as_bytes());
        let mut chars = behind.chars();
        if let Some(char) = chars.next() {
            give_escaped(char, &mut give);
        }
        rest = chars.as_str();
    }
    give(rest.as_bytes());
}

fn needs_escape(char: char) -> bool {
    char < ' ' || matches!(char, '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

fn give_escaped(char: char, give: &mut impl FnMut(&[u8])) {
    match char {
        '"' => give(b"\\\""),
        '\\' => give(b"\\\\"),
        '\n' => give(b"\\n"),
        '\r' => give(b"\\r"),
        '\t' => give(b"\\t"),
        '\u{8}' => give(b"\\b"),
        '\u{c}' => give(b"\\f"),
        other => {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let code = u32::from(other);
            let mut text = *b"\\u0000";
            for (place, shift) in text.iter_mut().skip(2).zip([12, 8, 4, 0]) {
                let nibble = (code >> shift) & 0xf;
                *place = DIGITS.get(nibble as usize).copied().unwrap_or(b'0');
            }
            give(&text);
        }
    }
}
