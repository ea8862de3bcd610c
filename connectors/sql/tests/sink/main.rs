//! The SQL sink on real databases: SQLite files and a PostgreSQL server.

mod configuration;
mod harness;
mod positions;
mod refusals;
mod rows;
mod types;
