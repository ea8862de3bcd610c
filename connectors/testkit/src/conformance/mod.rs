//! Suites that every connector must pass, written against the contract alone.
//!
//! A suite is an asynchronous function that takes the connector's configuration and what the test can do to the outside
//! world, and panics where a promise of the contract is broken.

pub mod sink;
pub mod source;

#[cfg(test)]
mod tests;
