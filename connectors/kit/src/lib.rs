//! What several Tailwater connectors share.
//!
//! - [`envelope`]: schemas and records of change events

pub mod envelope;
