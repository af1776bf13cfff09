//! Measures votive and its peers side by side: exact instructions and VM exits in the lab, milliseconds natively.

pub mod boot;
pub mod clock;
pub mod cold_boot;
pub mod isolation;
pub mod kvm_setup;
pub mod report;
pub mod subject;
pub mod tracefs;
