//! The contract of sinks.
//!
//! The daemon reads the topic log, keeps the order of each partition and hands batches to a writer. The writer says
//! how far each batch is: accepted, durable, or durable together with its position. Positions that the writer keeps
//! in its target win over those that the daemon keeps.

use std::future::Future;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use tokio::sync::watch;

use crate::config::ConnectorConfig;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::probe::ProbeReport;
use crate::record::{Record, TopicPartition};

/// Identity of a topic's log: the journal's UUID, on Kafka the topic id. Offsets of another log mean nothing.
pub type LogId = Arc<str>;

/// A record with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkRecord {
    /// Topic that the record stands in; a transform may have given the record itself another
    pub topic: Arc<str>,
    /// Partition that the record stands in
    pub partition: u32,
    /// Offset in the partition
    pub offset: u64,
    /// The record; its timestamp is set
    pub record: Record,
}

impl SinkRecord {
    /// Topic and partition that the record stands in; with the offset they name it.
    #[must_use]
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topic), partition: self.partition }
    }
}

/// Records of any of the assigned partitions, each partition in the order of its offsets. Offsets may have gaps.
#[derive(Clone, Debug, Default)]
pub struct RecordBatch {
    /// The records
    pub records: Vec<SinkRecord>,
    /// For each partition in `records`, where to go on after this batch.
    pub next: Vec<LogPosition>,
}

/// A place between two records of a topic's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// Which log
    pub log: LogId,
    /// Which partition
    pub topic_partition: TopicPartition,
    /// Offset of the next record
    pub offset: u64,
}

/// A partition that is now this writer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which partition
    pub topic_partition: TopicPartition,
    /// The log that it belongs to now
    pub log: LogId,
}

/// How far a written batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Taken over; not durable before [`SinkWriter::flush`] or a later report. The bytes are what the writer buffers now, in all.
    Accepted {
        /// Bytes in the writer's buffers
        buffered: usize,
    },
    /// This batch and all before it are durable in the target.
    Durable,
    /// As durable, and the target holds the position too, from the same atomic step (I13).
    DurableWithPosition,
}

/// A technology that records can be written to.
pub trait SinkConnector: Send + Sync + 'static {
    /// Short name in configurations: `sql`.
    const NAME: &'static str;
    /// Name in Connect's plug-in list.
    const CLASS: &'static str;
    /// Its checked configuration.
    type Config: ConnectorConfig;
    /// Its writer.
    type Writer: SinkWriter;
    /// Whether [`SinkWriter::assign`] names positions, which then win over the daemon's own: moving the daemon's moves nothing.
    const TARGET_KEEPS_POSITIONS: bool = false;

    /// Connects and says what is missing, with the statement that mends it. Changes nothing (I15).
    fn probe(config: &Self::Config) -> impl Future<Output = ProbeReport> + Send;

    /// Opens the target for one task.
    fn open(config: Self::Config, context: SinkContext) -> impl Future<Output = Result<Self::Writer>> + Send;
}

/// Writes to a target. Calls come one at a time. After an error the writer is dropped and opened again; what it had
/// not reported durable is then delivered again.
pub trait SinkWriter: Send + 'static {
    /// Takes partitions over and says the positions that the target holds for them; partitions without one are left
    /// out. The daemon's own position counts for these, unless [`SinkConnector::TARGET_KEEPS_POSITIONS`]: then the target has lost
    /// or never had what was written, and is written to from the beginning.
    fn assign(&mut self, partitions: &[Assignment]) -> impl Future<Output = Result<Vec<LogPosition>>> + Send {
        let _ = partitions;
        async { Ok(Vec::new()) }
    }

    /// Writes a batch. Where the target keeps positions it may hold no records, because transforms dropped them all: then
    /// its positions alone are kept. A record that the target refuses is first given to [`SinkContext::reject`], which returns when
    /// it is durably dead-lettered; only then may the batch's position pass it (I2). If `reject` refuses, the writer
    /// undoes the batch and returns that error. The writer must not keep the future of a batch beyond the call.
    fn write(&mut self, batch: &RecordBatch) -> impl Future<Output = Result<Progress>> + Send;

    /// Returns when all that was accepted is durable.
    fn flush(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Gives partitions up: flushes or abandons what it holds of them before it returns.
    fn revoke(&mut self, partitions: &[TopicPartition]) -> impl Future<Output = Result<()>> + Send {
        let _ = partitions;
        self.flush()
    }

    /// Flushes and closes.
    fn close(self) -> impl Future<Output = Result<()>> + Send
    where
        Self: Sized;
}

/// Decides about rejected records and keeps them. Implemented by the daemon.
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps the record durably, or returns the error that stops the task, as the user's error policy says.
    fn reject<'a>(&'a self, record: &'a SinkRecord, error: Error) -> BoxFuture<'a, Result<()>>;
}

/// What a running sink task has of the daemon.
#[derive(Clone)]
pub struct SinkContext {
    connector: Arc<str>,
    task: u32,
    dead_letters: Arc<dyn DeadLetters>,
    stop: watch::Receiver<bool>,
    metrics: Arc<dyn Metrics>,
}

impl SinkContext {
    /// Put together by whoever runs sinks: the daemon and the testkit.
    #[must_use]
    pub fn new(
        connector: Arc<str>,
        task: u32,
        dead_letters: Arc<dyn DeadLetters>,
        stop: watch::Receiver<bool>,
        metrics: Arc<dyn Metrics>,
    ) -> Self {
        Self { connector, task, dead_letters, stop, metrics }
    }

    /// Name of the connector; names the group of its positions.
    #[must_use]
    pub fn connector(&self) -> &Arc<str> {
        &self.connector
    }

    /// Number of the task, from 0.
    #[must_use]
    pub fn task(&self) -> u32 {
        self.task
    }

    /// Gives up on one record; returns when it is kept elsewhere (I2).
    ///
    /// # Errors
    /// The policy is to stop: `error` itself.
    pub async fn reject(&self, record: &SinkRecord, error: Error) -> Result<()> {
        self.dead_letters.reject(record, error).await
    }

    /// Completes when the task should end; a writer that waits for its target may give up then. Cancel-safe.
    pub async fn stopped(&self) {
        let mut stop = self.stop.clone();
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Where the task reports its figures.
    #[must_use]
    pub fn metrics(&self) -> &Arc<dyn Metrics> {
        &self.metrics
    }
}
