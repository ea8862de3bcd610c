//! What stands in the cluster: topics, the ends of their partitions, and records as bytes.
//!
//! All of it waits for brokers.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tailwater_api::record::{Header, Headers, Record, SchemaAndValue};
use tailwater_api::{Result, Value};

use super::errors::failed;
use super::{KafkaLog, LOOK, PATIENCE};
use crate::topics::TopicInfo;

/// Topics of Kafka itself (4.3, `Topic`, `TopicBasedRemoteLogMetadataManagerConfig`).
const KAFKAS_OWN: [&str; 5] = [OFFSETS, "__transaction_state", "__share_group_state", "__cluster_metadata", "__remote_log_metadata"];
/// A topic that every cluster may have; it does not matter whether this one has.
pub(super) const OFFSETS: &str = "__consumer_offsets";

impl KafkaLog {
    /// The topics that `client` may see, with the numbers of their partitions, without Kafka's and Connect's own.
    pub(super) fn list<C: ConsumerContext>(&self, client: &BaseConsumer<C>) -> Result<Vec<(Arc<str>, usize)>> {
        let metadata = client.fetch_metadata(None, PATIENCE).map_err(|error| failed("list the topics", &error))?;
        let own = |name: &str| KAFKAS_OWN.contains(&name) || self.internal.iter().any(|internal| internal == name);
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none() && !own(topic.name()));
        let mut topics: Vec<_> = topics.map(|topic| (Arc::from(topic.name()), topic.partitions().len())).collect();
        topics.sort();
        Ok(topics)
    }

    pub(super) fn infos(&self) -> Result<Vec<TopicInfo>> {
        let mut infos = Vec::new();
        for (name, partitions) in self.list(&self.observer)? {
            let writer = self.uses.writer(&name);
            let offsets = |partition: usize| watermarks(&self.observer, &name, partition as u32);
            let partitions = (0..partitions).map(offsets).collect::<Result<_>>()?;
            infos.push(TopicInfo { log: self.log_id(&name), name, writer, partitions });
        }
        Ok(infos)
    }
}

/// First offset that is there, offset of the next record, as the isolation of `client` shows them.
///
/// A client that has just lost its brokers knows no partition, so one that is said to be unknown is asked for again.
pub(super) fn watermarks<C: ConsumerContext>(client: &BaseConsumer<C>, topic: &str, partition: u32) -> Result<(u64, u64)> {
    let (number, deadline) = (i32::try_from(partition).unwrap_or(i32::MAX), Instant::now() + PATIENCE);
    let (first, next) = loop {
        match client.fetch_watermarks(topic, number, PATIENCE) {
            Ok(found) => break found,
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition) && Instant::now() < deadline => {
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(failed(format!("look for the ends of {topic}-{partition}"), &error)),
        }
    };
    Ok((u64::try_from(first).unwrap_or(0), u64::try_from(next).unwrap_or(0)))
}

/// A message as it stands on its topic: bytes without a schema.
pub(super) fn raw(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Record {
    let bytes = |bytes: Option<&[u8]>| SchemaAndValue {
        schema: None,
        value: bytes.map_or(Value::Null, |bytes| Value::Bytes(bytes::Bytes::copy_from_slice(bytes))),
    };
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|header| Header { name: Arc::from(header.key), value: bytes(header.value) }).collect::<Vec<_>>());
    Record {
        topic,
        partition: u32::try_from(message.partition()).ok(),
        timestamp: message.timestamp().to_millis(),
        key: bytes(message.key()),
        value: bytes(message.payload()),
        headers: Headers::new(headers.unwrap_or_default()),
    }
}
