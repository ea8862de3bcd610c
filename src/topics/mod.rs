//! The topic log: where records live between sources and sinks.
//!
//! Nothing above this module knows which engine runs. An engine keeps the order of a source's batches, makes each
//! batch durable whole with its state (I1), shows readers only what is durable (I1), and answers a position of
//! another log, or beyond the end, with `history-gone` (never a skip).

#[cfg(test)]
mod conformance;
pub mod embedded;
pub mod kafka;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::record::{Record, TopicPartition};
use tailwater_api::sink::{Assignment, LogId, LogPosition, RecordBatch, SinkRecord};
use tailwater_api::source::{BatchNumber, SourceBatch};
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::java_regex::JavaRegex;
use tokio::sync::watch;

use crate::converters::RecordPart;

/// One topic as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Name of the topic
    pub name: Arc<str>,
    /// Identity of its log
    pub log: LogId,
    /// Connector that writes it; `None` for dead letters and the like
    pub writer: Option<Arc<str>>,
    /// For each partition: first offset that is still there, offset of the next record
    pub partitions: Vec<(u64, u64)>,
}

/// A durable record as a reader sees it.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// Partition it stands in
    pub partition: u32,
    /// Its offset
    pub offset: u64,
    /// The record, its timestamp set
    pub record: Record,
}

/// Which topics a sink reads.
#[derive(Clone, Debug)]
pub enum Subscription {
    /// Exactly these
    Topics(Vec<String>),
    /// All whose whole name matches, those that come later too
    Pattern(Box<JavaRegex>),
}

impl Subscription {
    /// Whether the subscription reads `topic`.
    ///
    /// # Errors
    /// `misconfigured`: the pattern tries too many ways to match the name.
    pub fn covers(&self, topic: &str) -> Result<bool> {
        match self {
            Self::Topics(topics) => Ok(topics.iter().any(|name| name == topic)),
            Self::Pattern(pattern) => pattern.matches(topic).map_err(|error| {
                Error::new(ErrorKind::Misconfigured, format!("match the topic {topic} with topics.regex"))
                    .because(error)
                    .mend("write the pattern without repetitions inside of repetitions")
            }),
        }
    }
}

/// A connector as a topic log sees it. An engine that keeps records typed needs no more than the name; one that keeps bytes
/// reads the keys that say how records become bytes and how topics are made.
#[derive(Clone)]
pub struct LogUser {
    /// Name of the connector; names its state, and as a sink the group of its positions
    pub connector: Arc<str>,
    /// Number of the task
    pub task: u32,
    /// The connector's flat keys, secrets resolved
    pub config: Arc<ConfigValues>,
    /// What stands in bytes for a value that a change left as it was
    pub placeholder: String,
    /// Decides about records of a source that do not become bytes; where there is none, they end its run
    pub refusals: Option<Arc<dyn Refusals>>,
}

/// Decides about records of a source that an engine which keeps bytes cannot write.
pub trait Refusals: Send + Sync {
    /// Whether a refused record may be kept elsewhere or dropped at all.
    fn tolerates(&self) -> bool;

    /// Keeps `record` durably elsewhere or drops it, as the user's policy says; else returns the error. `part` is what of it did not
    /// convert; `None` where the record as a whole is refused.
    fn refuse<'a>(&'a self, record: &'a Record, part: Option<RecordPart>, error: Error) -> BoxFuture<'a, Result<()>>;
}

impl From<&str> for LogUser {
    /// The only task of a connector that says nothing about its topics.
    fn from(connector: &str) -> Self {
        Self { connector: Arc::from(connector), task: 0, config: Arc::default(), placeholder: UNAVAILABLE.to_owned(), refusals: None }
    }
}

/// Stands for unchanged values where no source says otherwise: Debezium's default.
pub const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// What is wrong with the keys by which a connector speaks about its topics, for the engine that the worker's keys name. Without I/O (I15).
#[must_use]
pub fn check(is_source: bool, connector: &ConfigValues, worker: &ConfigValues) -> ConfigReport {
    if is_kafka(worker) { kafka::check(is_source, connector, worker) } else { ConfigReport::default() }
}

/// Whether the worker's keys name Kafka as the topic log.
#[must_use]
pub fn is_kafka(worker: &ConfigValues) -> bool {
    worker.get("topics.engine").is_some_and(|engine| engine.trim().eq_ignore_ascii_case("kafka"))
}

/// Whether the log takes a source's records exactly once, and why.
#[must_use]
pub fn write_guarantee(worker: &ConfigValues) -> (bool, &'static str) {
    match (is_kafka(worker), kafka::writes_transactions(worker)) {
        (false, _) => (true, "records and offset are one group of the log, which has one writer"),
        (true, true) => (true, "records and offset are in one transaction, and an older writer is fenced"),
        (true, false) => (
            false,
            "records are written before their offset, and an older writer is not fenced; exactly.once.source.support: enabled mends it",
        ),
    }
}

/// Whether a sink sees what its source has committed, and nothing else.
#[must_use]
pub fn reads_committed(connector: &ConfigValues, worker: &ConfigValues) -> bool {
    !is_kafka(worker) || kafka::reads_committed(connector, worker)
}

/// An engine of topic logs.
pub trait TopicLog: Send + Sync + 'static {
    /// Opens the log of a source connector for its one writer, made if it is not there. Pending records of earlier runs are gone.
    fn writer(&self, user: &LogUser) -> BoxFuture<'_, Result<Box<dyn LogWriter>>>;

    /// Appends records that no source sent, such as dead letters, and returns when they are durable.
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<()>>;

    /// Opens a reader for a sink task. The sink's committed positions are kept under the connector's name.
    fn reader(&self, user: &LogUser, subscription: Subscription) -> BoxFuture<'_, Result<Box<dyn LogReader>>>;

    /// Declares the sinks that exist, running or paused: what they have not read is not deleted.
    fn retain_for(&self, groups: Vec<(String, Subscription)>);

    /// State of a source without opening it for writing.
    fn source_state(&self, user: &LogUser) -> BoxFuture<'_, Result<SourceState>>;

    /// Committed positions of a sink.
    fn committed(&self, user: &LogUser) -> BoxFuture<'_, Result<Vec<LogPosition>>>;

    /// Moves committed positions of a sink, which has no reader: to an offset, or forgets them with `None`. All
    /// are durable when it returns, or none has moved. A partition that is not there is `missing`, an offset that it
    /// does not have (nor is its end) `misconfigured`. The next reader begins at the first offset where there is no position.
    fn move_positions(&self, user: &LogUser, moves: Vec<(TopicPartition, Option<u64>)>) -> BoxFuture<'_, Result<()>>;

    /// All topics, by name.
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>>;

    /// Topics that a connector uses, each with a number that grows when it is used: of a source those that it has written, of a sink those
    /// of its subscription that exist or that it has read.
    fn used_by(&self, connector: &str, subscription: Option<&Subscription>) -> Vec<(Arc<str>, u64)>;

    /// Reads one partition for whoever only looks. Whether there is one is seen when it is read.
    fn partition_reader(&self, topic: &str, partition: u32) -> Box<dyn PartitionReader>;

    /// One read of a [`PartitionReader`].
    fn read(&self, topic: &str, partition: u32, offset: u64, limit: usize) -> BoxFuture<'_, Result<Vec<StoredRecord>>> {
        let mut reader = self.partition_reader(topic, partition);
        Box::pin(async move { reader.read(offset, limit).await })
    }

    /// Counts up whenever something new is readable.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Ends all writing; returns when everything accepted is durable.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// The one writer of a source's log.
pub trait LogWriter: Send {
    /// The state as of the last durable batch when the writer was opened.
    fn state(&self) -> &SourceState;

    /// Takes a batch over, in order; returns when it is accepted, which may wait for room on disk (`hold`). If
    /// the call is dropped, the batch is taken over whole or not at all. Durability follows, see [`LogWriter::durable`].
    fn append(&mut self, number: BatchNumber, batch: SourceBatch) -> BoxFuture<'_, Result<()>>;

    /// The number up to which batches are durable, or the error that ended it for good.
    fn durable(&self) -> watch::Receiver<Result<BatchNumber, Arc<Error>>>;

    /// Returns when all accepted batches are durable.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// Reads one partition for whoever only looks.
pub trait PartitionReader: Send {
    /// Durable records from `offset` on, at most `limit`; fewer at the end. Cheapest where the read before it ended. Cancel-safe.
    ///
    /// An unknown topic is `missing`; an offset before the first that is still there reads from the first.
    fn read(&mut self, offset: u64, limit: usize) -> BoxFuture<'_, Result<Vec<StoredRecord>>>;
}

/// What a reader has for a sink task.
#[derive(Debug)]
pub enum Polled {
    /// Records in the order of their log; never empty
    Records(RecordBatch),
    /// Partitions that this task reads from the next poll on. Until then it must call [`LogReader::seek`] where its target knows better.
    Assigned(Vec<Assignment>),
    /// Partitions that this task has to give up; they are gone with the next poll
    Revoked(Vec<TopicPartition>),
    /// A record whose bytes the converters do not read; the next poll goes on behind it
    Unreadable(Box<UnreadableRecord>),
}

/// A record that stays bytes.
#[derive(Debug)]
pub struct UnreadableRecord {
    /// The record: bytes without schemas
    pub record: SinkRecord,
    /// The place behind it
    pub next: LogPosition,
    /// What of it could not be read
    pub part: RecordPart,
    /// Why
    pub error: Error,
}

/// Reads the subscribed topics for one sink task.
pub trait LogReader: Send {
    /// Waits for the next thing, at most about `bytes` of records. Cancel-safe.
    fn poll(&mut self, bytes: usize) -> BoxFuture<'_, Result<Polled>>;

    /// Goes on at `position`. Another log's position, or one beyond the end or before the beginning, is `history-gone`.
    fn seek(&mut self, position: LogPosition) -> BoxFuture<'_, Result<()>>;

    /// Keeps positions; they are durable when it returns.
    fn commit(&mut self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<()>>;

    /// How many readable records lie behind the place where it reads, all partitions together. The marker that ends a transaction of
    /// Kafka counts as one until a record follows it.
    fn lag(&self) -> u64;
}
