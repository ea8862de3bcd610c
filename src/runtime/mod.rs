//! Runs connectors: the worker and its tasks.
//!
//! - [`worker`]: all connectors of this process, and the changes that a user makes
//! - `connector`: one connector: what it should do, its tasks
//! - [`offsets`]: where connectors stand, and moving it
//! - [`guarantee`]: how often a change gets through
//! - [`validation`]: checking a configuration that nobody runs yet
//! - `supervisor`: one task over its lifetime: runs, waits, runs again
//! - `source_task`, `sink_task`: one run of a task
//! - [`settings`]: the keys that the runtime reads
//! - [`plugin`]: connectors with their types erased
//! - `signals`: requests on their way to a running task
//! - [`recovery`]: what happens after an error
//! - `record_errors`: refused records and dead letters
//! - `ledger`: what is in flight, and how far it is finished
//! - [`statuses`]: what connectors do, told to others
//! - [`topic_reader`]: records of a topic as they are shown
//! - `budget`: memory of records in flight

mod budget;
mod connector;
pub mod guarantee;
mod ledger;
pub mod offsets;
pub mod plugin;
mod record_errors;
pub mod recovery;
pub mod settings;
mod signals;
mod sink_task;
mod source_task;
pub mod statuses;
mod supervisor;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod topic_reader;
pub mod validation;
pub mod worker;
