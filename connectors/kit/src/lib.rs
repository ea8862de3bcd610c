//! What several Tailwater connectors share.
//!
//! - [`envelope`]: schemas and records of change events
//! - [`json`]: values and schemas as the JSON of Kafka Connect
//! - [`number_text`]: numbers as Java writes them
//! - [`stand_in`]: what is written for values that the source does not tell

pub mod envelope;
pub mod json;
pub mod number_text;
pub mod stand_in;
