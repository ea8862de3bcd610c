//! What several Tailwater connectors share.
//!
//! - [`merge`]: a batch of row changes, merged by key

#![warn(missing_docs)]

pub mod merge;
