//! What several Tailwater connectors share.
//!
//! - [`backoff`]: how long to wait before the next try
//! - [`envelope`]: schemas and records of change events
//! - [`json`]: values and schemas as the JSON of Kafka Connect
//! - [`number_text`]: numbers as Java writes them
//! - [`stand_in`]: what is written for values that the source does not tell

#![warn(missing_docs)]

pub mod backoff;
pub mod envelope;
pub mod json;
pub mod number_text;
pub mod stand_in;
