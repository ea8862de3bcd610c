//! What every sink must do.
//!
//! The test reads the target by its own means and never through the writer.

use std::sync::{Arc, Mutex};

use futures_core::future::BoxFuture;
use tailwater_api::metrics::NoMetrics;
use tailwater_api::sink::{
    Assignment, DeadLetters, LogPosition, Progress, RecordBatch, SinkConnector, SinkContext, SinkRecord, SinkWriter,
};
use tailwater_api::{Error, ErrorKind, Record, Result, TopicPartition};
use tokio::sync::watch;

/// Keeps rejected records in memory, or refuses to.
#[derive(Debug, Default)]
pub struct MemoryDeadLetters {
    refuses: bool,
    rejected: Mutex<Vec<(SinkRecord, ErrorKind)>>,
}

impl MemoryDeadLetters {
    /// The policy "stop": each rejection is refused with its own error.
    #[must_use]
    pub fn refusing() -> Self {
        Self { refuses: true, rejected: Mutex::default() }
    }

    /// What was rejected, in order.
    ///
    /// # Panics
    /// A thread died while it held the list.
    #[must_use]
    pub fn rejected(&self) -> Vec<(SinkRecord, ErrorKind)> {
        self.rejected.lock().expect("no thread dies while it holds the list").clone()
    }
}

impl DeadLetters for MemoryDeadLetters {
    fn reject<'a>(&'a self, record: &'a SinkRecord, error: Error) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.refuses {
                return Err(error);
            }
            self.rejected.lock().expect("no thread dies while it holds the list").push((record.clone(), error.kind()));
            Ok(())
        })
    }
}

/// One log, in memory, whose records a sink is given.
#[derive(Clone, Debug)]
pub struct TestLog {
    /// Its id
    pub id: Arc<str>,
}

impl TestLog {
    /// A log of this id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self { id: id.into() }
    }

    /// Records of one topic as a batch, the first at `offset` of partition 0.
    ///
    /// # Panics
    /// There are no records, or they are of several topics.
    #[must_use]
    pub fn batch(&self, offset: u64, records: Vec<Record>) -> RecordBatch {
        let topic = Arc::clone(&records.first().expect("a batch is never empty").topic);
        let records: Vec<_> = (offset..)
            .zip(records)
            .map(|(offset, mut record)| {
                assert_eq!(record.topic, topic, "records of one topic");
                record.timestamp.get_or_insert(0);
                SinkRecord { topic: Arc::clone(&topic), partition: 0, offset, record }
            })
            .collect();
        let end = offset + records.len() as u64;
        RecordBatch { records, next: vec![self.position(&topic, end)] }
    }

    /// A place in partition 0 of `topic`.
    #[must_use]
    pub fn position(&self, topic: &Arc<str>, offset: u64) -> LogPosition {
        LogPosition { log: Arc::clone(&self.id), topic_partition: partition(topic), offset }
    }

    fn assignment(&self, topic: &Arc<str>) -> Assignment {
        Assignment { topic_partition: partition(topic), log: Arc::clone(&self.id) }
    }
}

fn partition(topic: &Arc<str>) -> TopicPartition {
    TopicPartition { topic: Arc::clone(topic), partition: 0 }
}

/// Opens a writer that has partition 0 of `topic`, and says which positions its target holds.
///
/// # Panics
/// The target cannot be opened.
pub async fn open<C: SinkConnector>(
    config: &C::Config,
    dead_letters: Arc<MemoryDeadLetters>,
    log: &TestLog,
    topic: &Arc<str>,
) -> (C::Writer, Vec<LogPosition>) {
    // The sender is dropped, which counts as a stop only to a writer that waits for one.
    let stop = watch::channel(false).1;
    let context = SinkContext::new(C::NAME.into(), 0, dead_letters, stop, Arc::new(NoMetrics));
    let mut writer = C::open(config.clone(), context).await.expect("the target opens");
    let positions = writer.assign(&[log.assignment(topic)]).await.expect("the partition is taken over");
    (writer, positions)
}

/// What was accepted is in the target when `flush` returns, even if the writer is never closed. `read` reads the target.
///
/// # Panics
/// The promise is broken.
pub async fn flush_means_durable<C: SinkConnector, T: PartialEq + std::fmt::Debug>(
    config: &C::Config,
    batches: Vec<Vec<Record>>,
    expected: T,
    read: impl AsyncFn() -> T,
) {
    let log = TestLog::new("flush");
    let topic = Arc::clone(&batches[0][0].topic);
    let (mut writer, _) = open::<C>(config, Arc::default(), &log, &topic).await;
    let mut offset = 0;
    for records in batches {
        let batch = log.batch(offset, records);
        offset = batch.next[0].offset;
        writer.write(&batch).await.expect("the batch is written");
    }
    writer.flush().await.expect("the writer flushes");
    // As a crash: no close.
    drop(writer);
    assert_eq!(read().await, expected);
}

/// A record that the target refuses is dead-lettered and the others are written; where the policy is to stop, the writer
/// fails with that error and no position moves past the batch (I2).
///
/// `records` holds good ones and those at `bad`.
///
/// # Panics
/// The promise is broken.
pub async fn rejected_rows_reach_the_dead_letters<C: SinkConnector, T: PartialEq + std::fmt::Debug>(
    config: &C::Config,
    records: Vec<Record>,
    bad: &[u64],
    expected: T,
    read: impl AsyncFn() -> T,
) {
    let log = TestLog::new("rejected");
    let topic = Arc::clone(&records[0].topic);
    let batch = log.batch(0, records);

    let (mut writer, _) = open::<C>(config, Arc::new(MemoryDeadLetters::refusing()), &log, &topic).await;
    let refused = match writer.write(&batch).await {
        Ok(_) => writer.flush().await,
        Err(error) => Err(error),
    };
    let error = refused.expect_err("a refused rejection fails the batch");
    assert!(matches!(error.kind(), ErrorKind::Rejected | ErrorKind::Unreadable | ErrorKind::Unsupported), "{error:?}");
    drop(writer);

    let dead_letters = Arc::new(MemoryDeadLetters::default());
    let (mut writer, positions) = open::<C>(config, Arc::clone(&dead_letters), &log, &topic).await;
    assert!(positions.iter().all(|position| position.offset == 0), "a position passed a batch that failed: {positions:?}");
    writer.write(&batch).await.expect("rejected rows do not fail the batch");
    writer.flush().await.expect("the writer flushes");
    let rejected: Vec<_> = dead_letters.rejected().iter().map(|(record, _)| record.offset).collect();
    assert_eq!(rejected, bad, "rejected records");
    writer.close().await.expect("the writer closes");
    assert_eq!(read().await, expected);
}

/// A target that holds positions holds that of the last durable batch, whenever the writer ends, and a batch that is
/// delivered from there on leaves each row once. For sinks that report [`Progress::DurableWithPosition`].
///
/// # Panics
/// The promise is broken.
pub async fn positions_are_in_the_target<C: SinkConnector, T: PartialEq + std::fmt::Debug>(
    config: &C::Config,
    batches: Vec<Vec<Record>>,
    expected: T,
    read: impl AsyncFn() -> T,
) {
    let log = TestLog::new("positions");
    let topic = Arc::clone(&batches[0][0].topic);
    let mut offset = 0;
    for records in batches {
        let (mut writer, positions) = open::<C>(config, Arc::default(), &log, &topic).await;
        let held = positions.iter().find(|position| position.topic_partition.topic == topic).map_or(0, |position| position.offset);
        assert_eq!(held, offset, "the position that the target holds");
        let batch = log.batch(offset, records);
        let progress = writer.write(&batch).await.expect("the batch is written");
        assert_eq!(progress, Progress::DurableWithPosition);
        offset = batch.next[0].offset;
        drop(writer);
    }
    // Positions of another log mean nothing here, and are not given out as if they did.
    let (_, positions) = open::<C>(config, Arc::default(), &TestLog::new("another"), &topic).await;
    assert!(positions.iter().all(|position| &*position.log == "positions"), "{positions:?}");
    assert_eq!(read().await, expected);
}

/// Of two writers of one partition the one that came first is fenced: it fails with `conflict`, and nothing of its batch
/// is in the target (I13). For sinks that report [`Progress::DurableWithPosition`].
///
/// # Panics
/// The promise is broken.
pub async fn an_older_writer_is_fenced<C: SinkConnector, T: PartialEq + std::fmt::Debug>(
    config: &C::Config,
    [newer, older]: [Vec<Record>; 2],
    expected: T,
    read: impl AsyncFn() -> T,
) {
    let log = TestLog::new("fenced");
    let topic = Arc::clone(&newer[0].topic);
    let (mut first, _) = open::<C>(config, Arc::default(), &log, &topic).await;
    let (mut second, _) = open::<C>(config, Arc::default(), &log, &topic).await;
    second.write(&log.batch(0, newer)).await.expect("the newer writer writes");
    let error = first.write(&log.batch(0, older)).await.expect_err("the older writer is fenced");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(read().await, expected);
}
