//! The Rust function that is measured, the same on both sides: what comes in goes out.

use serde_json::Value;

/// Answers with the event.
#[must_use]
pub fn echo(event: Value) -> Value {
    event
}

/// An event whose JSON is 1 KiB.
#[must_use]
pub fn event() -> Vec<u8> {
    let around = serde_json::json!({ "payload": "" }).to_string().len();
    serde_json::json!({ "payload": "x".repeat(1024 - around) }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_event_is_one_kibibyte() {
        assert_eq!(super::event().len(), 1024);
    }
}
