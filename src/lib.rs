//! Tailwater's daemon.
//!
//! - [`cli`]: the commands: run, check, probe, snapshot, connector, topic
//! - [`config`]: worker file, connector files, secret providers, the watched directory
//! - [`connectors`]: the list of compiled-in connectors
//! - [`runtime`]: worker, tasks, ledger, recovery, dead letters, memory budget
//! - [`topics`]: the topic log, embedded today
//! - [`state`]: connector configurations, target states and consumer positions
//! - [`transforms`]: record to record
//! - [`converters`]: record to bytes
//! - [`rest`]: the Kafka Connect API and ours
//! - [`telemetry`]: logs and metrics

pub mod cli;
pub mod config;
pub mod connectors;
pub mod converters;
pub mod rest;
pub mod runtime;
pub mod state;
pub mod telemetry;
pub mod topics;
pub mod transforms;
