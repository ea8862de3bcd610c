//! What several Tailwater connectors share.

pub mod filters;
pub mod relational_config;
