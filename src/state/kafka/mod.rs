//! The state of a worker in Kafka: Kafka Connect's own internal topics, in Connect's own formats (4.3, `KafkaConfigBackingStore`,
//! `KafkaOffsetBackingStore`, `KafkaStatusBackingStore`), so that a Connect cluster that was stopped is taken over where it
//! stands, and can take over again.
//!
//! - [`configs`]: connectors and what they should be doing
//! - [`offsets`]: where sources are
//! - [`statuses`]: what connectors and tasks are doing, and which topics they use
//!
//! Each is a table on a compacted topic: a key's last value holds, no value removes it. All texts are JSON as JsonConverter
//! writes it without schemas. Keys decide the partition as in the Java client (murmur2), so a value of ours follows
//! Connect's of the same key in the same partition.

pub mod configs;
pub mod offsets;
pub mod statuses;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::{Error, ErrorKind, Result};

pub use self::configs::KafkaConfigs;
pub use self::offsets::{KafkaOffsets, OffsetRecords, OffsetsOf};
pub use self::statuses::{KafkaStatuses, StatusChange, TopicUse};
use self::table::{Clients, Table, TableOptions};

/// The three tables of a worker.
#[derive(Clone)]
pub struct KafkaState {
    /// Connectors and what they should be doing
    pub configs: KafkaConfigs,
    /// Where sources are
    pub offsets: KafkaOffsets,
    /// What connectors and tasks are doing
    pub statuses: KafkaStatuses,
}

impl KafkaState {
    /// Checks what the worker file says about the internal topics, without I/O (I15).
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(worker: &ConfigValues) -> Result<(), ConfigReport> {
        let mut report = ConfigReport::default();
        TableOptions::all(worker, &mut report);
        if let Err(clients) = Clients::check(worker) {
            report.faults.extend(clients.faults);
        }
        if report.faults.is_empty() { Ok(()) } else { Err(report) }
    }

    /// Opens the internal topics that the worker file names, made where they are missing, and reads them to their end.
    /// `worker` are its flat keys, `worker_id` host and port of its REST API.
    ///
    /// # Errors
    /// `misconfigured` for settings that cannot work and for a topic that is not compacted, `unreadable` for a record that is
    /// none of Connect's, `unauthorised` where brokers refuse the connection, and those of Kafka.
    pub async fn open(worker: &ConfigValues, worker_id: &str) -> Result<Self> {
        let misconfigured = |report: ConfigReport| {
            let faults: Vec<_> = report.faults.iter().map(ToString::to_string).collect();
            Error::new(ErrorKind::Misconfigured, "read the settings of Kafka").because(faults.join("; "))
        };
        let mut report = ConfigReport::default();
        let [configs, offsets, statuses] = TableOptions::all(worker, &mut report);
        if !report.faults.is_empty() {
            return Err(misconfigured(report));
        }
        let clients = Arc::new(Clients::check(worker).map_err(misconfigured)?.open()?);
        clients.connect().await?;
        let (configs, offsets, statuses) = tokio::try_join!(
            Table::open(Arc::clone(&clients), configs),
            KafkaOffsets::open(Arc::clone(&clients), offsets),
            Table::open(clients, statuses)
        )?;
        Ok(Self { configs: KafkaConfigs::new(configs), offsets, statuses: KafkaStatuses::new(statuses, worker_id)? })
    }
}
