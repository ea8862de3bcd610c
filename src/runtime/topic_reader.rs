//! Records of a topic as bytes, through the converters of its source: what `topic read` prints.

use std::time::Duration;

use tailwater_api::Result;
use tokio::sync::watch;

use super::worker::Worker;
use crate::converters::{ConvertedRecord, Converters};
use crate::topics::{PartitionReader, StoredRecord, TopicLog};

/// A topic of Kafka has other writers, of whose records nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Reads one partition of a topic, through the converters that its source named when the reader was made.
pub struct TopicReader {
    worker: Worker,
    records: Box<dyn PartitionReader>,
    changed: watch::Receiver<u64>,
    converters: Converters,
}

impl TopicReader {
    pub(super) fn new(worker: Worker, topics: &dyn TopicLog, converters: Converters, topic: &str, partition: u32) -> Self {
        Self { changed: topics.changed(), worker, records: topics.partition_reader(topic, partition), converters }
    }

    /// At most `limit` durable records from `offset` on, none at the end.
    ///
    /// # Errors
    /// The topic is unknown, or a record does not convert.
    pub async fn read(&mut self, offset: u64, limit: usize) -> Result<Vec<(StoredRecord, ConvertedRecord)>> {
        // What comes while it is read ends the next wait.
        self.changed.mark_unchanged();
        let records = self.records.read(offset, limit).await?;
        let convert = |stored: StoredRecord| {
            let converted = self.converters.convert(&stored.record)?;
            Ok((stored, converted))
        };
        records.into_iter().map(convert).collect()
    }

    /// Like [`TopicReader::read`], but waits at the end for more. None when the worker stops. Cancel-safe.
    ///
    /// # Errors
    /// As above.
    pub async fn follow(&mut self, offset: u64, limit: usize) -> Result<Vec<(StoredRecord, ConvertedRecord)>> {
        loop {
            let records = self.read(offset, limit).await?;
            if !records.is_empty() || self.worker.is_closing() {
                return Ok(records);
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, self.changed.changed()).await;
        }
    }
}
