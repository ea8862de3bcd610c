//! Runs connectors: the worker and its tasks.

pub mod worker;
