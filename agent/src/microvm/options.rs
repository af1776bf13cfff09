//! A VMM's options: names and values, in which descriptors stand by the numbers that their receiver knows them by.

use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A part of an option's value.
#[derive(Debug)]
pub(super) enum Part {
    Text(String),
    Descriptor(OwnedFd),
}

/// Options in their order.
#[derive(Debug, Default)]
pub(super) struct Options(Vec<(&'static str, Vec<Part>)>);

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Options {
    /// An option with a text.
    pub(super) fn text(&mut self, name: &'static str, value: impl Display) {
        self.0.push((name, vec![Part::Text(value.to_string())]));
    }

    /// An option with a descriptor.
    pub(super) fn descriptor(&mut self, name: &'static str, descriptor: impl Into<OwnedFd>) {
        self.0.push((name, vec![Part::Descriptor(descriptor.into())]));
    }

    /// An option with several parts.
    pub(super) fn parts(&mut self, name: &'static str, parts: Vec<Part>) {
        self.0.push((name, parts));
    }

    /// The same, and then those.
    pub(super) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Names and values, in which the descriptors have the numbers from `first` on.
    pub(super) fn arguments(&self, first: i32) -> Vec<String> {
        let mut next = first;
        let mut value = |parts: &Vec<Part>| {
            let mut value = String::new();
            for part in parts {
                match part {
                    Part::Text(text) => value.push_str(text),
                    Part::Descriptor(_) => {
                        value.push_str(&format!("fd:{next}"));
                        next = next.saturating_add(1);
                    }
                }
            }
            value
        };
        self.0.iter().flat_map(|(name, parts)| [(*name).to_owned(), value(parts)]).collect()
    }

    /// The descriptors, in the order of their numbers.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let parts = self.0.iter().flat_map(|(_, parts)| parts);
        let descriptors = parts.filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Descriptor(descriptor) => Some(descriptor.as_fd()),
        });
        descriptors.collect()
    }

    /// The same, to be given away.
    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        let parts = self.0.into_iter().flat_map(|(_, parts)| parts);
        let descriptors = parts.filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Descriptor(descriptor) => Some(descriptor),
        });
        descriptors.collect()
    }
}
