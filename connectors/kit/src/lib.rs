//! What several Tailwater connectors share.
//!
//! - [`envelope`]: schemas and records of change events
//! - [`filters`]: which tables and columns are captured
//! - [`relational_config`]: the keys that relational sources have in common
//! - [`tls`]: encryption of connections

pub mod envelope;
pub mod filters;
pub mod relational_config;
pub mod tls;
