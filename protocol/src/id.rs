//! Names that both sides use for the same thing.

use serde::{Deserialize, Serialize};

/// One invocation, the `Lambda-Runtime-Aws-Request-Id` of the Runtime API: the 16 bytes of a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InvocationId(pub [u8; 16]);

impl InvocationId {
    /// The length of the text form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub const TEXT_LEN: usize = 36;

    /// The text form, lower case (RFC 9562 section 4).
    #[must_use]
    pub fn to_text(self) -> [u8; Self::TEXT_LEN] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; Self::TEXT_LEN];
        let mut places = (0..Self::TEXT_LEN).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 0xf] {
                if let (Some(place), Some(digit)) = (places.next(), DIGITS.get(usize::from(nibble)))
                {
                    text[place] = *digit;
                }
            }
        }
        text
    }
}

impl core::fmt::Display for InvocationId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = self.to_text();
        f.write_str(core::str::from_utf8(&text).unwrap_or("?"))
    }
}
