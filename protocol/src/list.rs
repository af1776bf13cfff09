//! Lists of byte strings without a heap.

use serde::{Deserialize, Serialize};

use crate::FrameError;

/// A list of byte strings, each ended by a NUL: environment variables (`KEY=VALUE`) or arguments.
///
/// Holding one from [`crate::HostFrame::decode`] proves that every item is ended by a NUL, and that the whole is within the
/// limit of its field. It does not prove that an item holds a `=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteList<'a>(#[serde(borrow)] &'a [u8]);

impl<'a> ByteList<'a> {
    /// Wraps `bytes`, in which every item must be ended by a NUL.
    ///
    /// # Errors
    /// [`FrameError::Unterminated`] if the last item has no NUL.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FrameError> {
        if bytes.last().is_some_and(|byte| *byte != 0) {
            return Err(FrameError::Unterminated);
        }
        Ok(Self(bytes))
    }

    /// The bytes, separators included.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The items, without their NULs.
    #[must_use]
    pub fn iter(self) -> ByteListIter<'a> {
        ByteListIter { rest: self.0 }
    }

    pub(crate) fn check(self, max: usize) -> Result<(), FrameError> {
        if self.0.len() > max {
            return Err(FrameError::FieldTooLong { len: self.0.len(), max });
        }
        Self::new(self.0).map(drop)
    }
}

impl<'a> IntoIterator for ByteList<'a> {
    type Item = &'a [u8];
    type IntoIter = ByteListIter<'a>;

    fn into_iter(self) -> ByteListIter<'a> {
        self.iter()
    }
}

/// The items of a [`ByteList`].
#[derive(Clone, Debug)]
pub struct ByteListIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ByteListIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == 0)?;
        let (item, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..)?;
        Some(item)
    }
}
