//! Facts about filters.
