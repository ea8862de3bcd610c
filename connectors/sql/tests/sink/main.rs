//! The SQL sink on real databases: SQLite files and a PostgreSQL server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod column_types;
mod configuration;
mod conformance;
mod harness;
mod positions;
mod refusals;
mod rows;
