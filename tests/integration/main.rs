//! Whole paths through the `tailwater` binary, on real servers.
//!
//! - [`harness`]: a running daemon, its REST API and its log; waiting for what must come true
//! - [`golden`]: recorded cases of Debezium and Kafka Connect, played and compared
//! - [`kills`]: SIGKILL at random under load
//! - [`kafka`]: topics in a real broker: its status topic, and a broker that is killed
//! - [`kafka_kills`]: the same with the topics in Kafka, at least once and exactly once
//! - [`durability`]: what is confirmed is durable, whatever stalls or fails
//! - [`bad_input`]: wrong input gets a clear error, and nothing is lost
//! - [`examples`]: every file of `config/examples` is valid
//! - [`demonstration`]: the demo ends with equal tables
//! - [`operation`]: container, installation, alert rules, dashboard and documents
//! - [`rest`]: the REST API and the directory of connector files of a running daemon
//! - [`access`]: TLS, users and roles, limits, the log of changes, secrets of the REST API
//! - [`clients`]: clients of the REST API that others wrote
//! - [`rereads`]: tables that are read anew into a target that has their rows
//! - [`infinities`]: infinite dates and times of the source are infinite in its copies
//! - [`snapshot`]: one shot of a source into a database
//! - [`takeover`]: from real Debezium and back
//! - [`cli`]: commands, their output and exit codes
//! - [`architecture`]: the direction of dependencies, and other rules of the tree
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod access;
mod architecture;
mod bad_input;
mod cli;
mod clients;
mod crash_points;
mod demonstration;
mod durability;
mod examples;
mod golden;
mod harness;
mod infinities;
mod kafka;
mod kafka_kills;
mod kills;
mod operation;
mod progress;
mod rereads;
mod rest;
mod signals;
mod snapshot;
mod takeover;
