//! Turns what a customer uploads into read-only images.
//!
//! A ZIP is hostile input: it is read with every limit of the contract applied to what actually comes out of it, laid
//! out below a folder that no entry can leave, and packed into an EROFS image whose bytes depend on the content alone.

pub mod erofs;
