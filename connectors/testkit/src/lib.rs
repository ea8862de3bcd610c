//! Conformance suites, real servers as handles and a fault proxy for Tailwater's tests.
//!
//! - [`conformance`]: what every connector must do
//! - [`connect`]: workers of Kafka Connect with Debezium
//! - [`fault_proxy`]: a TCP proxy that misbehaves when told to
//! - [`guard`]: ends a child process when the test dies
//! - [`kafka`]: throwaway Kafka brokers
//! - [`postgres`]: throwaway PostgreSQL servers
//! - [`servers`]: where servers come from, and what a test does without them

#![warn(missing_docs)]

mod child_process;
pub mod conformance;
pub mod connect;
pub mod fault_proxy;
pub mod guard;
pub mod kafka;
pub mod postgres;
pub mod servers;

pub use connect::ConnectWorker;
pub use fault_proxy::{Direction, Fault, FaultProxy};
pub use guard::Guard;
pub use kafka::KafkaBroker;
pub use postgres::{PostgresServer, Version};
pub use servers::required_or_skip;
