//! Reading for a sink: the subscribed topics of all journals, those that come later too.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{Assignment, LogPosition, RecordBatch, SinkRecord};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Shared;
use super::group::Room;
use super::journal::{Journal, Partition};
use super::reader::{JournalReader, Wanted, history_gone};
use crate::topics::{LogReader, Polled, Subscription};

/// Reads for one sink. See [`LogReader`].
pub(super) struct SinkReader {
    log: Arc<Shared>,
    group: Arc<str>,
    subscription: Subscription,
    changed: watch::Receiver<u64>,
    places: BTreeMap<Arc<str>, Place>,
    /// A read that is under way. Kept here, so that a dropped `poll` loses nothing.
    reading: Option<JoinHandle<ReadPlace>>,
    /// The journal that is read next, so that one does not starve the others
    turn: usize,
    /// For each journal, how many partitions were there when they were looked through
    seen: BTreeMap<Arc<str>, usize>,
    /// Partitions whose committed position cannot be continued, with the error, unless the target knows a better one
    refused: BTreeMap<Partition, Error>,
}

/// A journal's name, the place in it, and what was read there.
type ReadPlace = (Arc<str>, Place, Result<Vec<SinkRecord>>);

struct Place {
    journal: Arc<Journal>,
    reader: JournalReader,
    wanted: Wanted,
}

impl SinkReader {
    pub(super) fn new(log: Arc<Shared>, group: &str, subscription: Subscription) -> Self {
        let changed = log.changed.subscribe();
        Self {
            log,
            group: Arc::from(group),
            subscription,
            changed,
            places: BTreeMap::new(),
            reading: None,
            turn: 0,
            seen: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Takes over partitions that are subscribed and not read yet, at the committed position or else at their beginning.
    fn discover(&mut self) -> Result<Vec<Assignment>> {
        let mut assigned = Vec::new();
        for journal in self.log.all() {
            let seen = self.seen.get(&journal.name).copied().unwrap_or(0);
            if journal.lock().partitions.len() == seen {
                continue;
            }
            // Before the journal is locked: see `Retention`.
            let committed = self.log.retention.committed(&self.group);
            let durable = journal.lock();
            let known = self.places.get(&journal.name);
            let mut fresh = Vec::new();
            for (partition, facts) in &durable.partitions {
                if known.is_some_and(|place| place.wanted.contains_key(partition)) || !self.subscription.covers(&partition.0)? {
                    continue;
                }
                let offset = match committed.iter().find(|position| is_at(position, partition)) {
                    Some(position) => durable.offset_of(partition, position).unwrap_or_else(|why| {
                        self.refused.insert(partition.clone(), history_gone(&journal, partition, why));
                        facts.offsets.next
                    }),
                    None => facts.first,
                };
                let topic_partition = TopicPartition { topic: Arc::clone(&partition.0), partition: partition.1 };
                assigned.push(Assignment { topic_partition, log: Arc::clone(&durable.log) });
                fresh.push((partition.clone(), offset));
            }
            let seen = durable.partitions.len();
            drop(durable);
            self.seen.insert(Arc::clone(&journal.name), seen);
            if fresh.is_empty() {
                continue;
            }
            let place = self.places.entry(Arc::clone(&journal.name)).or_insert_with(|| Place {
                journal: Arc::clone(&journal),
                reader: JournalReader::default(),
                wanted: Wanted::new(),
            });
            place.wanted.extend(fresh);
            // What is wanted now may lie behind the place.
            place.reader = JournalReader::default();
        }
        Ok(assigned)
    }

    /// Begins a read in the next journal that has something.
    fn begin_read(&mut self, bytes: usize) -> Result<bool> {
        let names: Vec<Arc<str>> = self.places.keys().cloned().collect();
        for step in 0..names.len() {
            let name = &names[(self.turn + step) % names.len()];
            let place = self.places.get(name).expect("the name was just listed");
            if behind(place)? == 0 {
                continue;
            }
            self.turn = (self.turn + step + 1) % names.len();
            let mut place = self.places.remove(name).expect("the name was just listed");
            let name = Arc::clone(name);
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let mut room = Room { bytes, records: usize::MAX };
                let records = place.reader.read(&place.journal, &mut place.wanted, &mut room);
                (name, place, records)
            }));
            return Ok(true);
        }
        Ok(false)
    }

    async fn finish_read(&mut self) -> Result<Vec<SinkRecord>> {
        let Some(reading) = &mut self.reading else { return Ok(Vec::new()) };
        let ended = reading.await;
        self.reading = None;
        let (name, place, records) = ended.map_err(|error| Error::new(ErrorKind::Bug, "read the topic log").because(error))?;
        self.places.insert(name, place);
        records
    }

    fn batch(&self, records: Vec<SinkRecord>) -> RecordBatch {
        let mut next: Vec<LogPosition> = Vec::new();
        let mut latest = 0;
        for record in &records {
            let offset = record.offset + 1;
            let is_of = |position: &LogPosition| {
                position.topic_partition.partition == record.partition && position.topic_partition.topic == record.topic
            };
            if !next.get(latest).is_some_and(is_of) {
                latest = next.iter().position(is_of).unwrap_or_else(|| {
                    let topic_partition = record.topic_partition();
                    let place = self.places.values().find(|place| place.wanted.contains_key(&key(&topic_partition)));
                    let place = place.expect("a record was read because its partition is wanted");
                    next.push(LogPosition { log: Arc::clone(&place.journal.lock().log), topic_partition, offset });
                    next.len() - 1
                });
            }
            next[latest].offset = offset;
        }
        RecordBatch { records, next }
    }

    async fn poll_next(&mut self, bytes: usize) -> Result<Polled> {
        loop {
            if self.reading.is_some() {
                let records = self.finish_read().await?;
                if !records.is_empty() {
                    return Ok(Polled::Records(self.batch(records)));
                }
            }
            // Seen before looking, so that what comes while looking wakes.
            self.changed.borrow_and_update();
            let assigned = self.discover()?;
            if !assigned.is_empty() {
                return Ok(Polled::Assigned(assigned));
            }
            if let Some(error) = self.refused.values().next() {
                return Err(error.again());
            }
            if !self.begin_read(bytes)? {
                // The sender lives in the log, which this reader holds.
                let _ = self.changed.changed().await;
            }
        }
    }

    async fn go_to(&mut self, position: LogPosition) -> Result<()> {
        // What a dropped poll has read was handed to nobody: the partitions go back to where they were.
        for record in self.finish_read().await?.iter().rev() {
            let partition = key(&record.topic_partition());
            if let Some(place) = self.places.values_mut().find(|place| place.wanted.contains_key(&partition)) {
                place.wanted.insert(partition, record.offset);
                place.reader = JournalReader::default();
            }
        }
        let partition = key(&position.topic_partition);
        let place = self.places.values_mut().find(|place| place.wanted.contains_key(&partition));
        let Some(place) = place else {
            return Err(
                Error::new(ErrorKind::Missing, format!("seek in {}", position.topic_partition)).because("the partition is not assigned")
            );
        };
        let found = place.journal.lock().offset_of(&partition, &position);
        let offset = found.map_err(|why| history_gone(&place.journal, &partition, why))?;
        self.refused.remove(&partition);
        place.wanted.insert(partition, offset);
        place.reader = JournalReader::default();
        Ok(())
    }
}

fn key(topic_partition: &TopicPartition) -> Partition {
    (Arc::clone(&topic_partition.topic), topic_partition.partition)
}

fn is_at(position: &LogPosition, partition: &Partition) -> bool {
    position.topic_partition.partition == partition.1 && position.topic_partition.topic == partition.0
}

/// How many records of a journal are still to be read.
fn behind(place: &Place) -> Result<u64> {
    let durable = place.journal.lock();
    let mut behind = 0;
    for (partition, offset) in &place.wanted {
        let Some(facts) = durable.partitions.get(partition) else { continue };
        if *offset < facts.first {
            let why = format!("the next record was {offset}, but the log begins at {} now", facts.first);
            return Err(history_gone(&place.journal, partition, why));
        }
        behind += facts.offsets.next.saturating_sub(*offset);
    }
    Ok(behind)
}

impl LogReader for SinkReader {
    fn poll(&mut self, bytes: usize) -> BoxFuture<'_, Result<Polled>> {
        Box::pin(self.poll_next(bytes))
    }

    fn seek(&mut self, position: LogPosition) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.go_to(position))
    }

    fn commit(&mut self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<()>> {
        let (log, group) = (Arc::clone(&self.log), Arc::clone(&self.group));
        Box::pin(async move {
            let Some(store) = log.store.clone() else {
                return Err(Error::new(ErrorKind::Bug, "keep positions").because("the log is open for reading only"));
            };
            super::blocking(move || {
                store.put_positions(&group, &positions, &[])?;
                log.retention.moved(&group, &positions, &[]);
                Ok(())
            })
            .await
        })
    }

    fn lag(&self) -> u64 {
        self.places.values().map(|place| behind(place).unwrap_or(0)).sum()
    }
}
