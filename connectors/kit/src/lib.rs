//! What several Tailwater connectors share.
//!
//! - [`backoff`]: how long to wait before the next try
//! - [`calendar`]: days as dates
//! - [`column_rules`]: masks, hashes and truncation of columns
//! - [`crash_point`]: named points at which a test may kill the process
//! - [`envelope`]: schemas and records of change events
//! - [`filters`]: which tables and columns are captured
//! - [`guardrail`]: how many tables a connector may capture
//! - [`heartbeat`]: records that say that a source is alive
//! - [`java_hash`]: the order of Java's maps and sets
//! - [`java_regex`]: regular expressions of Java
//! - [`json`]: values and schemas as the JSON of Kafka Connect
//! - [`merge`]: a batch of row changes, merged by key
//! - [`name_adjustment`]: names made valid for Avro
//! - [`notification`]: how far a snapshot is, told on a topic
//! - [`number_text`]: numbers as Java writes them
//! - [`pace`]: a rate that is not exceeded
//! - [`relational_config`]: what the keys of all relational sources say
//! - [`relational_fields`]: these keys, declared
//! - [`reselect`]: which values are read again that a log does not hold
//! - [`schema_cache`]: what is compiled from schemas
//! - [`schema_change`]: definitions of tables, told on a topic
//! - [`signals`]: requests to running sources: what they ask for, and by which channels they come
//! - [`snapshot_figures`]: how far a snapshot is, as figures
//! - [`stand_in`]: what is written for values that the source does not tell
//! - [`tls`]: encryption of connections
//! - [`topic_names`]: names of the topics of tables
//! - [`transaction`]: the order of events in transactions, and where these begin and end
//! - [`windows`]: chunks of a table reconciled with the log

#![warn(missing_docs)]

pub mod backoff;
pub mod calendar;
pub mod column_rules;
pub mod crash_point;
pub mod envelope;
pub mod filters;
pub mod guardrail;
pub mod heartbeat;
pub mod java_hash;
pub mod java_regex;
pub mod json;
pub mod merge;
pub mod name_adjustment;
pub mod notification;
pub mod number_text;
pub mod pace;
pub mod relational_config;
pub mod relational_fields;
pub mod reselect;
pub mod schema_cache;
pub mod schema_change;
pub mod signals;
pub mod snapshot_figures;
pub mod stand_in;
pub mod tls;
pub mod topic_names;
pub mod transaction;
pub mod windows;
