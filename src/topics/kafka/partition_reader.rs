//! Records of one partition for whoever only looks: `topic read`, the REST API, dead letters.
//!
//! A client of its own reads them. It is assigned to the partition and joins no group; it is made with the first read that finds
//! something, and kept for the next ones, for to connect takes far longer than to read.
//!
//! Where the end is, as the isolation of readers shows it, is asked before each read. librdkafka tells of an end, too, once, and behind
//! the records before it: the marker of a transaction takes an offset, so that the last record alone does not show the end. What it
//! told of an end is not true any more when records follow, so a client that has come to one, or may have, is assigned anew.
//!
//! librdkafka makes connections anew by itself and says each time that one was lost, which matters when no record comes for
//! [`PATIENCE`], and not before.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tailwater_api::{Error, ErrorKind, Result};

use super::client::Role;
use super::contents::{raw, watermarks};
use super::errors::{failed, kind};
use super::observer::{ObservingClient, observing_client};
use super::{KafkaLog, PATIENCE, blocking, drop_off_the_async_threads};
use crate::topics::{PartitionReader, StoredRecord};

/// Begins the names of groups that only look; they commit nothing and join nothing.
const GROUP_PREFIX: &str = "tailwater-look-";

pub(super) struct KafkaPartitionReader {
    partition: Partition,
    looking: Option<Looking>,
}

#[derive(Clone)]
struct Partition {
    log: KafkaLog,
    topic: Arc<str>,
    number: u32,
}

/// A client that is assigned to the partition.
struct Looking {
    client: ObservingClient,
    /// The offset that it reads next, while it has not come to an end
    next: Option<u64>,
}

impl KafkaPartitionReader {
    pub(super) fn new(log: KafkaLog, topic: Arc<str>, number: u32) -> Self {
        Self { partition: Partition { log, topic, number }, looking: None }
    }
}

impl PartitionReader for KafkaPartitionReader {
    fn read(&mut self, offset: u64, limit: usize) -> BoxFuture<'_, Result<Vec<StoredRecord>>> {
        // A client that has met an error, or whose read nobody waits for any more, is not used again.
        let (partition, mut looking) = (self.partition.clone(), self.looking.take());
        Box::pin(async move {
            let (looking, records) = blocking(move || {
                let records = partition.read(&mut looking, offset, limit)?;
                Ok((looking, records))
            })
            .await?;
            self.looking = looking;
            Ok(records)
        })
    }
}

impl Drop for KafkaPartitionReader {
    fn drop(&mut self) {
        if let Some(looking) = self.looking.take() {
            drop_off_the_async_threads(looking);
        }
    }
}

impl Partition {
    fn doing(&self) -> String {
        format!("read {}-{}", self.topic, self.number)
    }

    fn unknown(&self) -> Error {
        Error::new(ErrorKind::Missing, self.doing()).because("there is no such topic or partition")
    }

    fn read(&self, looking: &mut Option<Looking>, offset: u64, limit: usize) -> Result<Vec<StoredRecord>> {
        if looking.is_none() {
            let topics = self.log.list(&self.log.observer)?;
            let (_, partitions) = topics.into_iter().find(|(name, _)| *name == self.topic).ok_or_else(|| self.unknown())?;
            if self.number as usize >= partitions {
                return Err(self.unknown());
            }
        }
        let (first, end) = watermarks(&self.log.observer, &self.topic, self.number)?;
        let from = offset.max(first);
        if from >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let looking = match looking {
            Some(looking) => looking,
            None => looking.insert(Looking { client: self.client()?, next: None }),
        };
        let goes_on = looking.next.take() == Some(from);
        if !goes_on {
            self.assign(&looking.client, from)?;
        }
        let records = self.poll(&looking.client, (from, end), limit, goes_on)?;
        looking.next = records.last().map(|last| last.offset + 1).filter(|next| records.len() == limit && *next < end);
        Ok(records)
    }

    fn client(&self) -> Result<ObservingClient> {
        let mut config = self.log.options.client(Role::Consumer, None)?;
        config
            .set("group.id", format!("{GROUP_PREFIX}{}", uuid::Uuid::new_v4()))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", "1024");
        observing_client(&config)
    }

    fn assign(&self, client: &ObservingClient, from: u64) -> Result<()> {
        let mut assigned = TopicPartitionList::new();
        let number = i32::try_from(self.number).map_err(|_| self.unknown())?;
        let begin = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        let added = assigned.add_partition_offset(&self.topic, number, begin);
        added.and_then(|()| client.assign(&assigned)).map_err(|error| failed(self.doing(), &error))
    }

    /// Records from where the client is assigned to, up to `end`. What one that goes on tells of an end may be of the read before.
    fn poll(&self, client: &ObservingClient, (from, end): (u64, u64), limit: usize, mut goes_on: bool) -> Result<Vec<StoredRecord>> {
        let (mut records, mut lost): (Vec<StoredRecord>, _) = (Vec::new(), None);
        let mut deadline = Instant::now() + PATIENCE;
        while records.len() < limit {
            match client.poll(deadline.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    records.push(StoredRecord { partition: self.number, offset, record: raw(Arc::clone(&self.topic), &message) });
                    if offset + 1 >= end {
                        break;
                    }
                    deadline = Instant::now() + PATIENCE;
                }
                Some(Err(KafkaError::PartitionEOF(_))) if goes_on => {
                    self.assign(client, records.last().map_or(from, |last| last.offset + 1))?;
                    goes_on = false;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(|code| kind(code).is_transient()) => lost = Some(error),
                Some(Err(error)) => return Err(failed(self.doing(), &error)),
                None if Instant::now() >= deadline => {
                    return Err(match lost {
                        Some(error) => failed(self.doing(), &error),
                        None => Error::new(ErrorKind::TimedOut, self.doing()).because("no broker has answered"),
                    });
                }
                None => {}
            }
        }
        Ok(records)
    }
}
