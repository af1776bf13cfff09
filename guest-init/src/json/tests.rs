//! Tokens and escapes, against a reader of the standard library's world.

use proptest::prelude::*;

use super::*;

/// All tokens, or why there are not all.
fn read(text: &str) -> Result<Vec<Token<'_>>, JsonError> {
    let mut reader = Reader::new(text.as_bytes());
    let mut tokens = Vec::new();
    while let Some(token) = reader.next_token()? {
        tokens.push(token);
    }
    Ok(tokens)
}

#[test]
fn tokens_come_in_their_order() {
    let tokens = read(" {\"a\" : [1, -2.5e+3, true,false , null, \"x\"], \"b\":{}} ").unwrap();
    let text = |raw| Text { raw };
    assert_eq!(
        tokens,
        [
            Token::ObjectStart,
            Token::Key(text("a")),
            Token::ArrayStart,
            Token::Number("1"),
            Token::Number("-2.5e+3"),
            Token::Bool(true),
            Token::Bool(false),
            Token::Null,
            Token::String(text("x")),
            Token::ArrayEnd,
            Token::Key(text("b")),
            Token::ObjectStart,
            Token::ObjectEnd,
            Token::ObjectEnd,
        ]
    );
}

#[test]
fn what_is_no_json_is_refused() {
    for (text, error) in [
        ("", JsonError::End),
        (" ", JsonError::End),
        ("{", JsonError::End),
        ("[1", JsonError::End),
        ("[1,", JsonError::End),
        ("[1,]", JsonError::Malformed),
        ("{\"a\"", JsonError::End),
        ("{\"a\":", JsonError::End),
        ("{\"a\" 1}", JsonError::Malformed),
        ("{\"a\":1,}", JsonError::Malformed),
        ("{1:2}", JsonError::Malformed),
        ("[}", JsonError::Malformed),
        ("{]", JsonError::Malformed),
        ("1 2", JsonError::Malformed),
        ("01", JsonError::Malformed),
        ("-", JsonError::End),
        ("1.", JsonError::End),
        ("1.x", JsonError::Malformed),
        ("tru", JsonError::End),
        ("trux", JsonError::Malformed),
        ("\"\\x\"", JsonError::Malformed),
        ("\"\\u12", JsonError::End),
        ("\"\\u12g4\"", JsonError::Malformed),
        ("\"a\nb\"", JsonError::Malformed),
        ("\"a", JsonError::End),
    ] {
        assert_eq!(read(text), Err(error), "{text}");
    }
    let deep = DEPTH_MAX as usize;
    assert!(read(&format!("{}{}", "[".repeat(deep), "]".repeat(deep))).is_ok());
    assert_eq!(read(&"[".repeat(deep + 1)), Err(JsonError::Malformed));
    let mut reader = Reader::new(b"\"\xff\"");
    assert_eq!(reader.next_token(), Err(JsonError::Malformed));
}

#[test]
fn a_text_stands_for_its_characters() {
    let Token::String(text) = read("\"a\\n\\u00e9\\ud83d\\ude00\\ud83dx\\/\"").unwrap()[0] else {
        panic!("no text")
    };
    let expected = "a\n\u{e9}\u{1f600}\u{fffd}x/";
    assert_eq!(text.chars().collect::<String>(), expected);
    assert!(text.is(expected) && !text.is("a"));
    let mut buffer = [0; 64];
    assert_eq!(text.put(&mut buffer), Some(expected));
    assert_eq!(text.put(&mut [0; 4]), None);
    let Token::String(name) = read("\"Ma\\u0078Items\"").unwrap()[0] else { panic!("no text") };
    assert!(name.is_named("maxItems") && !name.is_named("maxItem"));
}

#[test]
fn a_skipped_value_is_used_up_whole() {
    let mut reader = Reader::new(b"[{\"a\":[1,{\"b\":[]}]},7]");
    assert_eq!(reader.require(), Ok(Token::ArrayStart));
    let token = reader.require().unwrap();
    reader.skip(token).unwrap();
    assert_eq!(reader.require(), Ok(Token::Number("7")));
    assert_eq!(integer(Token::Number("7"), 1..=7), Some(7));
    assert_eq!(integer(Token::Number("7"), 1..=6), None);
    assert_eq!(integer(Token::Number("7.0"), 1..=7), None);
}

fn escaped(bytes: &[u8]) -> String {
    let mut buffer = vec![0; bytes.len() * 6 + 8];
    let mut writer = Writer::new(&mut buffer);
    escape(&mut writer, bytes);
    let len = writer.finish().unwrap();
    assert_eq!(len, escaped_len(bytes));
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[test]
fn escapes_are_those_of_go() {
    assert_eq!(escaped(b"a\"\\\n\t\r\x08\x0c\x01"), "a\\\"\\\\\\n\\t\\r\\b\\f\\u0001");
    assert_eq!(escaped("<&>\u{2028}\u{e9}".as_bytes()), "\\u003c\\u0026\\u003e\\u2028\u{e9}");
    assert_eq!(escaped(b"a\xffb"), "a\u{fffd}b");
}

proptest! {
    #[test]
    fn what_is_escaped_reads_as_it_was(text in any::<String>()) {
        let json = format!("\"{}\"", escaped(text.as_bytes()));
        let tokens = read(&json).unwrap();
        let Token::String(read) = tokens[0] else { panic!("no text") };
        prop_assert!(read.is(&text));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(prop_oneof![
        prop::sample::select(b"{}[]:,\"\\u0123456789abcdef-+.eEtrufalsn \xc3\xa9".to_vec()), any::<u8>()
    ], 0..80)) {
        crate::exercise::json(&bytes);
    }
}
