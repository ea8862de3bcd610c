//! What several Tailwater connectors share.
//!
//! - [`backoff`]: how long to wait before the next try

#![warn(missing_docs)]

pub mod backoff;
