//! What several Tailwater connectors share.
//!
//! - [`envelope`]: schemas and records of change events
//! - [`json`]: values and schemas as the JSON of Kafka Connect
//! - [`stand_in`]: what is written for values that the source does not tell

pub mod envelope;
pub mod json;
pub mod stand_in;
