//! The contract between Tailwater's daemon and its connectors. No I/O, no driver.
//!
//! - [`schema`], [`value`], [`record`]: Kafka Connect's data model
//! - [`envelope`]: the change event as a view over a record
//! - [`config`], [`secret`], [`probe`]: declared configuration, secrets, what a probe finds
//! - [`source`], [`state`]: what captures changes, and where it resumes
//! - [`signal`]: requests to a source that runs
//! - [`sink`]: what writes records
//! - [`error`], [`metrics`]: kinds of failure, figures
//!
//! # How each kind of source fits
//!
//! **Logs of a database** (write-ahead log, binlog). One task reads the log in order. A batch ends at a
//! transaction's end, or inside a transaction with the count of its rows that are durable; that is its resume point.
//! The task maps batch numbers to log positions and confirms to the server what [`source::SourceContext::confirmed`] names.
//!
//! **Change streams.** The resume token of the last event of a batch is its state; an empty reply's token is an idle advance.
//!
//! **Polling queries.** The last value of the ordering columns is the state of the query's partition.
//!
//! **Files.** One source partition per file, its offset the place behind the last whole line.
//!
//! # How each kind of sink fits
//!
//! **Databases** write a batch and its position in one transaction and report
//! [`Progress::DurableWithPosition`](sink::Progress::DurableWithPosition). **Files and object stores** buffer, report
//! [`Progress::Accepted`](sink::Progress::Accepted), and make durable in [`SinkWriter::flush`](sink::SinkWriter::flush).

#![warn(missing_docs)]

pub mod config;
pub mod envelope;
pub mod error;
pub mod metrics;
pub mod probe;
pub mod record;
pub mod schema;
pub mod secret;
pub mod signal;
pub mod sink;
pub mod source;
pub mod state;
pub mod value;

pub use error::{Error, ErrorKind, Result, Scope};
pub use record::{Header, Headers, Record, SchemaAndValue, TopicPartition};
pub use schema::{Field, Kind, Schema, SchemaBuilder, SchemaId};
pub use secret::Secret;
pub use value::Value;
