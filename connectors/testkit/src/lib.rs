//! Conformance suites, real servers as handles and a fault proxy for Tailwater's tests.
//!
//! - [`postgres`]: throwaway PostgreSQL servers
//! - [`servers`]: where servers come from, and what a test does without them

#![warn(missing_docs)]

pub mod postgres;
pub mod servers;

pub use postgres::{PostgresServer, Version};
pub use servers::required_or_skip;
