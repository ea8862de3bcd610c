//! What several Tailwater connectors share.
//!
//! - [`tls`]: encryption of connections

pub mod tls;
