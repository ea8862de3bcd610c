//! One run of a sink task.
//!
//! Polls the topic log, transforms, writes, and moves positions behind what is durable. Every batch is in the
//! [`Ledger`] from the moment it is handed to the writer; positions leave the ledger only behind a finished prefix
//! (I2) and are kept by the topic log afterwards, at the latest after the flush interval. After an error the run ends;
//! the next one begins at the kept positions, or at those that the target holds, so what was not durable is delivered
//! again.
//!
//! Memory (I6): a poll happens only with a reservation for what it may return. What the writer says it buffers is
//! reserved in its place; where the budget has no room for that, the writer flushes. Both fit the task's own part of
//! the budget, so a sink that stands still keeps nobody from anything.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tailwater_api::metrics::{Counter, Gauge, Metrics};
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkContext, SinkRecord};
use tailwater_api::source::{ByteBudget, Reservation};
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::crash_point::crash_point;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::runtime::budget::TaskBudget;
use crate::runtime::ledger::Ledger;
use crate::runtime::plugin::{AnySinkWriter, Opening};
use crate::runtime::record_errors::{RecordErrors, Stage};
use crate::topics::{LogReader, LogUser, Polled, Subscription, TopicLog, UnreadableRecord};
use crate::transforms::TransformChain;

/// Most bytes of records that one poll asks for: enough to amortise a target's transaction, small beside any budget.
const LARGEST_POLL: usize = 2 * 1024 * 1024;

/// How often the lag is shown while the target keeps a batch waiting.
const LAG_INTERVAL: Duration = Duration::from_secs(1);

/// What a run of a sink task needs of its worker.
pub(super) struct SinkRun {
    pub(super) user: LogUser,
    pub(super) topics: Arc<dyn TopicLog>,
    pub(super) subscription: Subscription,
    /// The writer says positions of its own, which win
    pub(super) target_keeps_positions: bool,
    pub(super) transforms: TransformChain,
    pub(super) errors: Arc<RecordErrors>,
    pub(super) budget: Arc<TaskBudget>,
    pub(super) flush_interval: Duration,
    pub(super) metrics: Arc<dyn Metrics>,
    /// Becomes true when the run should end
    pub(super) stop: watch::Receiver<bool>,
}

impl SinkRun {
    /// Runs the sink until it is stopped or fails. After a stop everything accepted is durable and its positions are kept.
    pub(super) async fn run(self, open: impl FnOnce(SinkContext) -> Opening) -> Result<()> {
        let Self { user, topics, subscription, target_keeps_positions, transforms, errors, budget, flush_interval, metrics, mut stop } =
            self;
        let (connector, task) = (Arc::clone(&user.connector), user.task);
        let context = SinkContext::new(Arc::clone(&connector), task, Arc::clone(&errors) as _, stop.clone(), Arc::clone(&metrics));
        let writer = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            writer = open(context) => writer?,
        };
        let written_before = if target_keeps_positions { topics.committed(&user).await? } else { Vec::new() };
        let written_before = written_before.into_iter().map(|position| position.topic_partition).collect();
        let reader = topics.reader(&user, subscription).await?;
        let figures = Figures::new(&*metrics);
        let mut sink = Sink {
            reader,
            writer,
            target_keeps_positions,
            written_before,
            transforms,
            errors,
            budget,
            flush_interval,
            figures,
            ledger: Ledger::default(),
            buffered: None,
            flush_at: None,
        };
        match sink.flow(&mut stop).await {
            Ok(()) => sink.close().await,
            Err(error) => {
                // What is durable need not be delivered again. If even this fails it is, which is no more than the
                // error at hand promises.
                if let Err(second) = sink.keep_positions().await {
                    tracing::debug!(connector = &*connector, task, "the positions could not be kept: {second}");
                }
                Err(error)
            }
        }
    }
}

struct Sink {
    reader: Box<dyn LogReader>,
    writer: Box<dyn AnySinkWriter>,
    target_keeps_positions: bool,
    /// Partitions that were written to a target that keeps positions, as far as we know
    written_before: HashSet<TopicPartition>,
    transforms: TransformChain,
    errors: Arc<RecordErrors>,
    budget: Arc<TaskBudget>,
    flush_interval: Duration,
    figures: Figures,
    ledger: Ledger,
    /// What the writer buffers
    buffered: Option<Reservation>,
    /// When what is in the ledger has to be durable and kept
    flush_at: Option<Instant>,
}

impl Sink {
    async fn flow(&mut self, stop: &mut watch::Receiver<bool>) -> Result<()> {
        loop {
            let (room, bytes) = self.room().await?;
            let polled = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                () = until(self.flush_at) => None,
                polled = self.reader.poll(bytes) => Some(polled?),
            };
            match polled {
                None => self.flush().await?,
                Some(Polled::Records(batch)) => self.write(batch, room).await?,
                Some(Polled::Assigned(partitions)) => self.assign(&partitions).await?,
                Some(Polled::Revoked(partitions)) => self.revoke(&partitions).await?,
                Some(Polled::Unreadable(unreadable)) => self.refuse(*unreadable).await?,
            }
            self.figures.lag.set(i64::try_from(self.reader.lag()).unwrap_or(i64::MAX));
            self.figures.in_flight.set(i64::try_from(self.budget.held()).unwrap_or(i64::MAX));
        }
    }

    /// Room for the next poll, made by a flush where the writer's buffer is in the way.
    async fn room(&mut self) -> Result<(Reservation, usize)> {
        let bytes = self.budget.part().clamp(1, LARGEST_POLL);
        if let Some(room) = self.budget.try_reserve(bytes) {
            return Ok((room, bytes));
        }
        if self.buffered.is_some() {
            self.flush().await?;
        }
        // Holding nothing, the task is granted this at once.
        Ok((Arc::clone(&self.budget).reserve(bytes).await, bytes))
    }

    async fn write(&mut self, batch: RecordBatch, room: Reservation) -> Result<()> {
        self.figures.batches.add(1);
        self.figures.records.add(batch.records.len() as u64);
        let batch = self.transform(batch).await?;
        let ticket = self.ledger.enter(batch.next.clone());
        self.flush_at.get_or_insert_with(|| Instant::now() + self.flush_interval);
        if batch.records.is_empty() && !self.target_keeps_positions {
            // Filtered out as a whole; its positions move on behind those before it (I5).
            self.ledger.finish(ticket);
            return Ok(());
        }
        let progress = self.write_and_watch(&batch).await?;
        crash_point("sink-written");
        drop(batch);
        drop(room);
        match progress {
            Progress::Accepted { buffered } => {
                self.buffered = None;
                self.buffered = self.budget.try_reserve(buffered);
                if self.buffered.is_none() || buffered > self.budget.part() {
                    self.flush().await?;
                }
            }
            // Kept with the next flush at the latest; a target that holds positions is asked for them anyway.
            Progress::Durable | Progress::DurableWithPosition => {
                self.buffered = None;
                self.ledger.finish_all();
            }
        }
        Ok(())
    }

    /// Writes, and shows the lag that grows meanwhile: a target that stands still must not look as if all were well.
    async fn write_and_watch(&mut self, batch: &RecordBatch) -> Result<Progress> {
        let mut write = self.writer.write(batch);
        loop {
            match tokio::time::timeout(LAG_INTERVAL, &mut write).await {
                Ok(written) => return written,
                Err(_) => self.figures.lag.set(i64::try_from(self.reader.lag()).unwrap_or(i64::MAX)),
            }
        }
    }

    async fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.transforms.is_empty() {
            return Ok(batch);
        }
        let mut records = Vec::with_capacity(batch.records.len());
        for SinkRecord { topic, partition, offset, record } in batch.records {
            match self.transforms.apply(record) {
                Ok(Some(record)) => records.push(SinkRecord { topic, partition, offset, record }),
                Ok(None) => {}
                Err(error) => self.errors.handle_read(&topic, partition, offset, None, Stage::Transformation, error).await?,
            }
        }
        Ok(RecordBatch { records, next: batch.next })
    }

    /// Makes everything accepted durable, then keeps the positions behind it.
    async fn flush(&mut self) -> Result<()> {
        self.writer.flush().await?;
        crash_point("sink-flushed");
        self.buffered = None;
        self.ledger.finish_all();
        self.keep_positions().await
    }

    async fn keep_positions(&mut self) -> Result<()> {
        let positions = self.ledger.take_finished();
        if !positions.is_empty() {
            self.reader.commit(positions).await?;
        }
        crash_point("sink-committed");
        self.flush_at = (!self.ledger.is_empty()).then(|| Instant::now() + self.flush_interval);
        Ok(())
    }

    /// The target's positions win over ours. One that keeps positions and has none holds nothing of the partition, whatever
    /// ours says: it was emptied, replaced, or restored from a copy that is older, and gets everything. What the log no longer has is
    /// `history-gone` and ends the run: never a skip.
    async fn assign(&mut self, partitions: &[Assignment]) -> Result<()> {
        let held = self.writer.assign(partitions).await?;
        for position in &held {
            self.reader.seek(position.clone()).await?;
        }
        for Assignment { topic_partition, log } in partitions {
            if self.written_before.contains(topic_partition) && !held.iter().any(|held| held.topic_partition == *topic_partition) {
                let beginning = LogPosition { log: Arc::clone(log), topic_partition: topic_partition.clone(), offset: 0 };
                self.reader.seek(beginning).await.map_err(|error| begin_anew(topic_partition, error))?;
            }
        }
        // A target that was ahead of us has told us so now; the log must not keep for it what it has.
        if !held.is_empty() {
            self.reader.commit(held).await?;
        }
        Ok(())
    }

    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.flush().await?;
        self.writer.revoke(partitions).await
    }

    /// Passes a record that no converter reads, once it is kept elsewhere or may be dropped (I2, I11).
    async fn refuse(&mut self, unreadable: UnreadableRecord) -> Result<()> {
        let UnreadableRecord { record: SinkRecord { topic, partition, offset, record }, next, part, error } = unreadable;
        let kept = self.errors.keeps().then_some(record);
        self.errors.handle(&topic, kept, Some((partition, offset)), part.into(), error).await?;
        let ticket = self.ledger.enter(vec![next]);
        self.ledger.finish(ticket);
        self.flush_at.get_or_insert_with(|| Instant::now() + self.flush_interval);
        Ok(())
    }

    async fn close(mut self) -> Result<()> {
        // Positions are kept before the writer is gone, so that a close that fails costs nothing.
        self.flush().await?;
        self.writer.close().await
    }
}

fn begin_anew(partition: &TopicPartition, error: Error) -> Error {
    if error.kind() != ErrorKind::HistoryGone {
        return error;
    }
    Error::new(ErrorKind::HistoryGone, format!("write {partition} from its beginning to a target that has lost its position"))
        .because(error)
        .mend("take a new snapshot of the source; to go on with what the topic still holds, stop the connector and send DELETE /connectors/NAME/offsets")
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The figure of records that a sink has still to read.
pub(super) fn lag(metrics: &dyn Metrics) -> Gauge {
    metrics.gauge("lag_records", "Readable records that the sink has not read yet.", None)
}

struct Figures {
    batches: Counter,
    records: Counter,
    lag: Gauge,
    in_flight: Gauge,
}

impl Figures {
    fn new(metrics: &dyn Metrics) -> Self {
        Self {
            batches: metrics.counter("batches_total", "Batches read from the topic log.", None),
            records: metrics.counter("records_total", "Records read from the topic log, before transforms.", None),
            lag: lag(metrics),
            in_flight: metrics.gauge("inflight_bytes", "Bytes of the memory budget that the task holds.", None),
        }
    }
}
