//! Tailwater's PostgreSQL source.
//!
//! - [`lsn`]: places in the server's log
//! - [`replication`]: the connection that the server replicates over
//! - [`pgoutput`]: the messages of the server's own output plug-in
//! - [`types`]: values of every type, from text and from binary

pub mod lsn;
mod octets;
pub mod pgoutput;
pub mod replication;
pub mod types;
