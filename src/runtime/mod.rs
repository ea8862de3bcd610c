//! Runs connectors: the worker and its tasks.

pub mod crash_point;
pub mod worker;
